"""Known pictures and their known probabilities in the model folder, checked before it serves.

write(Path("champion"), {"cat.jpg": data})     # when it is made
check(Classifier(Path("champion")))            # when it is loaded, wherever that is
"""

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from pawprint import image
from pawprint.errors import PawprintError
from pawprint.inference.classifier import Classifier

FOLDER = "selftest"
MOST = 8  # pictures of a training's self-test
_Answers = TypeAdapter(dict[str, dict[str, float]])  # of a picture, by class
# Of a probability, as the mean over the pictures: bf16 against f32, one CPU against another. A picture that the model
# is not sure of may move by more (0.34 of 37 classes); one of eight that is wrong altogether is seen.
_TOLERANCE = 0.1


def write(folder: Path, pictures: Mapping[str, bytes]) -> None:
    """Keep `pictures` (but the bad ones) in the model folder with its model's probabilities in f32."""
    classifier, kept = Classifier(folder, precision="f32"), {}
    for name, data in pictures.items():
        with contextlib.suppress(image.BadImage):
            kept[name] = image.pack(data, classifier.info.fit, classifier.info.quality, size=classifier.info.size)
    if kept:
        pixels = np.stack([image.unpack(packed) for packed in kept.values()])
        keep(folder, classifier.info.classes, kept, classifier.predict(pixels).probabilities)


def keep(
    folder: Path, classes: Sequence[str], pictures: Mapping[str, bytes], probabilities: NDArray[np.float32]
) -> None:
    """Keep packed `pictures` in the model folder with their `probabilities` [pictures, classes]."""
    (folder / FOLDER).mkdir()
    answers = {}
    for (name, packed), found in zip(pictures.items(), probabilities, strict=True):
        (folder / FOLDER / name).write_bytes(packed)
        answers[name] = {label: round(float(value), 3) for label, value in zip(classes, found, strict=True)}
    (folder / FOLDER / "answers.json").write_text(json.dumps(answers, indent=1) + "\n", encoding="utf-8")


def check(classifier: Classifier) -> None:
    """PawprintError where a known picture does not get the probabilities that it had when the model was packaged."""
    kept = classifier.folder / FOLDER
    if not kept.is_dir():
        return
    try:
        answers = _Answers.validate_json((kept / "answers.json").read_bytes())
        known = {name: image.unpack((kept / name).read_bytes()) for name in answers}
        if not known:
            raise ValueError("it holds no picture")
    except Exception as error:  # simplejpeg's errors have no common class
        raise PawprintError(f"The self-test in {kept} is damaged ({error}). Package the model again.") from None
    moved = []
    for name, expected in answers.items():
        found = classifier.decide(classifier.predict(known[name][None]))[0].probabilities
        if found.keys() != expected.keys():
            raise PawprintError(f"The self-test in {kept} is of other classes than the model. Package the model again.")
        moved.append([abs(found[label] - expected[label]) for label in expected])
    largest = np.max(moved, axis=1)  # of each picture; NaN where one is NaN
    if not largest.mean() <= _TOLERANCE:
        worst = int(largest.argmax())
        name, expected = list(answers.items())[worst]
        label = list(expected)[int(np.argmax(moved[worst]))]
        raise PawprintError(
            f"The self-test failed: {name} should give {label} {expected[label]:.3f} and is off by "
            f"{largest[worst]:.3f} in {classifier.precision}. Do not serve this model here; try serving.precision: f32."
        )

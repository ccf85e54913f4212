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
_TOLERANCE = 0.1  # of a probability: bf16 against f32, one CPU against another


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
    except Exception as error:  # simplejpeg's errors have no common class
        raise PawprintError(f"The self-test in {kept} is damaged ({error}). Package the model again.") from None
    for name, expected in answers.items():
        predictions = classifier.predict(known[name][None])
        found = classifier.decide(predictions)[0].probabilities
        if found.keys() != expected.keys() or any(not abs(found[k] - expected[k]) <= _TOLERANCE for k in found):
            rounded = {label: round(value, 3) for label, value in found.items()}
            raise PawprintError(
                f"The self-test failed: {name} should give {expected} and gives {rounded} "
                f"in {classifier.precision}. Do not serve this model here; try serving.precision: f32."
            )

"""Known pictures and their known probabilities in the model folder, checked before it serves.

write(Path("champion"), {"cat.jpg": data})     # when it is packaged
check(Classifier(Path("champion")))            # when it is loaded, wherever that is
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pawprint import image
from pawprint.errors import PawprintError
from pawprint.inference.classifier import Classifier

FOLDER = "selftest"
_TOLERANCE = 0.1  # of a probability: bf16 against f32, one CPU against another


def write(folder: Path, pictures: Mapping[str, bytes]) -> None:
    """Keep `pictures` (but the bad ones) in the model folder with its model's probabilities in f32."""
    classifier = Classifier(folder, precision="f32")
    kept = folder / FOLDER
    kept.mkdir()
    answers = {}
    for name, data in pictures.items():
        try:
            packed = image.pack(data, classifier.info.fit, classifier.info.quality)
        except image.BadImage:
            continue
        (kept / name).write_bytes(packed)
        found = classifier.predict(image.unpack(packed)[None]).probabilities[0]
        answers[name] = [round(float(probability), 3) for probability in found]
    (kept / "answers.json").write_text(json.dumps(answers, indent=1) + "\n", encoding="utf-8")


def check(classifier: Classifier) -> None:
    """PawprintError where a known picture does not get the probabilities that it had when the model was packaged."""
    kept = classifier.folder / FOLDER
    if not kept.is_dir():
        return
    for name, expected in json.loads((kept / "answers.json").read_text(encoding="utf-8")).items():
        found = classifier.predict(image.unpack((kept / name).read_bytes())[None]).probabilities[0]
        if not np.allclose(found, expected, atol=_TOLERANCE):
            raise PawprintError(
                f"The self-test failed: {name} should give {expected} and gives {np.round(found, 3).tolist()} "
                f"in {classifier.precision}. Do not serve this model here; try serving.precision: f32."
            )

"""Known pictures with known probabilities in the model folder."""

import json
from pathlib import Path

import pytest

from pawprint.errors import PawprintError
from pawprint.inference import selftest
from pawprint.inference.classifier import Classifier
from toy import build_toy_model


def test_the_selftest_knows_its_pictures(pictures: dict[str, bytes], tmp_path: Path) -> None:
    folder = build_toy_model(tmp_path / "model")
    known = {f"{name}.jpg": data for name, data in pictures.items()}
    selftest.write(folder, {"bad.jpg": b"no photograph", **known})
    selftest.check(Classifier(folder))
    assert sorted(path.name for path in (folder / "selftest").iterdir()) == [
        "answers.json", "blue.jpg", "green.jpg", "red.jpg",
    ]  # fmt: skip
    (folder / "selftest/answers.json").write_text(json.dumps({"red.jpg": {"blue": 1.0, "red": 0.0}}))
    with pytest.raises(PawprintError, match=r"red\.jpg should give"):
        selftest.check(Classifier(folder))

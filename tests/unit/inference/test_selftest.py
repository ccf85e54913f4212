"""Known pictures with known probabilities in the model folder."""

import contextlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pawprint.errors import PawprintError
from pawprint.inference import selftest
from pawprint.inference.classifier import Classifier, Predictions
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


def test_what_rounding_moves_is_no_fault_and_one_wrong_picture_of_eight_is(
    pictures: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bf16 moves the probability of a picture that the model is not sure of by a third; it shall serve all the same."""
    folder = build_toy_model(tmp_path / "model")
    selftest.write(folder, {f"{number}.jpg": pictures["red"] for number in range(8)})
    classifier, path = Classifier(folder), folder / "selftest/answers.json"
    known = json.loads(path.read_text())
    for difference, fails in ((0.34, False), (1.0, True)):
        wrong = {"blue": known["0.jpg"]["blue"] + difference, "red": known["0.jpg"]["red"] - difference}
        path.write_text(json.dumps(known | {"0.jpg": wrong}))
        with pytest.raises(PawprintError, match=r"0\.jpg should give") if fails else contextlib.nullcontext():
            selftest.check(classifier)
    predict = classifier.predict

    def nowhere(pixels: NDArray[np.uint8]) -> Predictions:
        found = predict(pixels)
        return replace(found, probabilities=found.probabilities * np.float32("nan"))

    path.write_text(json.dumps(known))
    monkeypatch.setattr(classifier, "predict", nowhere)
    with pytest.raises(PawprintError, match="should give"):
        selftest.check(classifier)
    monkeypatch.undo()
    path.write_text(json.dumps({"0.jpg": {"blue": 0.0, "red": 0.5, "green": 0.5}}))
    with pytest.raises(PawprintError, match="of other classes"):
        selftest.check(classifier)
    path.write_text("{}")
    with pytest.raises(PawprintError, match="is damaged"):
        selftest.check(classifier)

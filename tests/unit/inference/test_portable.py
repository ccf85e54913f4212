"""Exports answer as their model does, without pawprint; a difference is noticed."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from typer.testing import CliRunner

from odd_pictures import saved, scene
from pawprint import image
from pawprint.cli.main import app
from pawprint.errors import PawprintError
from pawprint.inference import portable
from pawprint.inference.classifier import Classifier
from pawprint.inference.ood import Bank
from pawprint.lineage import sha256
from toy import build_toy_model


@pytest.fixture
def photographs(tmp_path: Path, pictures: dict[str, bytes]) -> Path:
    folder = tmp_path / "photographs"
    folder.mkdir()
    for name, data in pictures.items():
        (folder / f"{name}.jpg").write_bytes(data)
    return folder


@pytest.mark.parametrize(("target", "size"), [("onnx", 224), ("openvino", 300)])
def test_an_export_answers_without_pawprint(target: str, size: int, photographs: Path, tmp_path: Path) -> None:
    toy_model = build_toy_model(tmp_path / "toy", size=size)
    out = tmp_path / "out"
    found = CliRunner().invoke(
        app, ["export", str(toy_model), str(out), "--to", target, "--pictures", str(photographs)]
    )
    assert found.exit_code == 0, found.output
    assert "4 pictures: 0 with another label" in found.output  # the three, and one of them enlarged
    assert re.search(r"; one takes \d[\d.]* ms here \(median\)\.$", found.output)
    assert not (out / "__pycache__").exists()
    program = (
        "import runpy, sys; sys.modules['pawprint'] = None; sys.argv = ['predict.py', '--json', *sys.argv[1:]];"
        "runpy.run_path('predict.py', run_name='__main__')"
    )
    paths = [str(photographs / f"{name}.jpg") for name in ("red", "blue", "green")]
    done = subprocess.run(
        [sys.executable, "-c", program, *paths], cwd=out, capture_output=True, text=True, check=True
    )  # fmt: skip
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    classifier = Classifier(toy_model, precision="f32")
    for answer, path in zip(answers, paths, strict=True):
        ours = classifier(path)
        assert (answer["label"], answer["refusal"]) == (ours.label, ours.refusal)
        assert answer["probabilities"] == pytest.approx(list(ours.probabilities.values()), abs=1e-5)
        assert answer["typicality"] == pytest.approx(ours.knn_similarity, abs=1e-3)


def test_a_difference_is_noticed(toy_model: Path, photographs: Path, tmp_path: Path) -> None:
    pictures = portable.test_pictures(toy_model, tmp_path / "none", [photographs], 12)
    portable.export(toy_model, "onnx", tmp_path / "out", pictures)
    shutil.copy(photographs / "blue.jpg", tmp_path / "out" / "pictures" / "2.jpg")  # which was red
    report = portable.check_program(tmp_path / "out")
    assert report.different == ("2.jpg",)
    assert report.difference > 0.9


def test_what_no_browser_reads_is_no_test_picture_of_a_page(toy_model: Path, tmp_path: Path) -> None:
    tiff = saved(scene(1), "TIFF")
    with pytest.raises(PawprintError, match="can be read"):
        portable.export(toy_model, "web", tmp_path / "out", {"a.tif": tiff, "b.jpg": b"no photograph"})


def test_a_file_that_is_not_there_is_named(toy_model: Path, tmp_path: Path) -> None:
    with pytest.raises(PawprintError, match=r"nowhere\.jpg cannot be read"):
        portable.test_pictures(toy_model, tmp_path, [tmp_path / "nowhere.jpg"], 12)
    with pytest.raises(PawprintError, match=r"nowhere\.tgz cannot be read"):
        portable.web_runtime(tmp_path / "nowhere.tgz")


def test_it_writes_over_nothing(toy_model: Path, pictures: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("")
    with pytest.raises(PawprintError, match="is there already"):
        portable.export(toy_model, "onnx", tmp_path, {"red.jpg": pictures["red"]})


def test_another_runtime_is_refused(toy_model: Path, pictures: dict[str, bytes], tmp_path: Path) -> None:
    package = tmp_path / "onnxruntime-web-1.30.0.tgz"
    package.write_bytes(b"not it")
    with pytest.raises(PawprintError, match="SHA-512"):
        portable.export(
            toy_model, "web", tmp_path / "out", {"red.jpg": pictures["red"]}, tmp_path / "onnxruntime-web-1.30.0.tgz"
        )
    assert not (tmp_path / "out").exists()


def test_without_npm_a_sentence_says_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PawprintError, match="name that file with --runtime"):
        portable.web_runtime(None)


def test_pictures_are_those_that_were_not_learned(toy_model: Path, pictures: dict[str, bytes], tmp_path: Path) -> None:
    model, data = tmp_path / "model", tmp_path / "data"
    shutil.copytree(toy_model, model)
    for name in ("blue", "red"):
        (data / name).mkdir(parents=True)
        (data / name / "learned.jpg").write_bytes(pictures["green"])
        (data / name / "new.jpg").write_bytes(pictures[name])
    (model / "photographs.txt").write_text(f"{sha256(data / 'red' / 'learned.jpg')}\n")
    found = portable.test_pictures(model, data, [], 12)
    assert list(found.values())[:-1] == [pictures["blue"], pictures["red"]]
    assert image.inspect(found["enlarged.jpg"]).height == 4 * 360


@pytest.mark.parametrize("kind", ["embedding", "class scores", "class scores alone", "of before"])
def test_typicality_in_the_graph(kind: str, toy_model: Path) -> None:
    rng = np.random.default_rng(2017)
    embeddings = rng.normal(size=(40, 3)).astype(np.float32)
    scores = rng.normal(size=(5, 4)).astype(np.float32)
    bank = Bank.of(embeddings, scores if kind.startswith("class scores") else None)
    if kind == "class scores alone":
        bank = Bank.from_tensors(bank.tensors() | {"directions": bank.directions[:, :5]})
    if kind == "of before":
        bank = Bank.from_tensors({"embeddings": embeddings.astype(np.float16), "k": np.array([7])})
    graph = portable.with_typicality(onnx.load(toy_model / "model.onnx"), bank)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    pixels = rng.integers(0, 256, (6, 1, 1, 3), dtype=np.uint8).repeat(300, axis=1).repeat(300, axis=2)
    probabilities, embedding, typicality = session.run(["probabilities", "embedding", "typicality"], {"images": pixels})
    assert typicality == pytest.approx(bank.typicality(embedding, probabilities), abs=1e-3)

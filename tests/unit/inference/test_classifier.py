"""Classifier: the folder it accepts, the numbers it gives, the sentences it says."""

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import openvino
import pytest

from pawprint import image
from pawprint.config import UNKNOWN
from pawprint.errors import PawprintError
from pawprint.inference.classifier import Classifier, ModelInfo, find_pictures


@pytest.fixture(scope="module")
def classifier(toy_model: Path) -> Classifier:
    return Classifier(toy_model, precision="f32")


@pytest.fixture
def copy(toy_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(toy_model, tmp_path / "model"))


def test_answer_has_label_probabilities_and_knn_similarity(classifier: Classifier, pictures: dict[str, bytes]) -> None:
    answer = classifier.classify(pictures["red"])
    assert (answer.label, answer.refusal, answer.reason) == ("red", "", "")
    assert answer.knn_similarity > classifier.info.ood_threshold
    assert list(answer.probabilities) == ["blue", "red"]
    assert sum(answer.probabilities.values()) == pytest.approx(1, abs=1e-5)
    assert classifier.classify(pictures["blue"]).label == "blue"


def test_a_picture_like_no_training_photograph_is_unknown(classifier: Classifier, pictures: dict[str, bytes]) -> None:
    answer = classifier.classify(pictures["green"])
    assert (answer.label, answer.refusal) == (UNKNOWN, "unlike")
    assert answer.knn_similarity < classifier.info.ood_threshold
    assert "training photographs" in answer.reason


def test_a_picture_between_the_classes_is_refused_for_another_reason(copy: Path, pictures: dict[str, bytes]) -> None:
    info = ModelInfo.read(copy)
    (copy / "model.json").write_text(info.model_copy(update={"min_confidence": 0.99999}).model_dump_json())
    classifier = Classifier(copy, precision="f32")
    answer = classifier.classify(pictures["red"])
    assert (answer.label, answer.refusal) == (UNKNOWN, "unsure")
    assert answer.reason.startswith("unsure which class it is (red ")
    assert classifier.classify(pictures["green"]).refusal == "unlike"  # it is unsure of this one too


def test_a_model_of_before_refuses_nothing_as_unsure(copy: Path, pictures: dict[str, bytes]) -> None:
    written = json.loads((copy / "model.json").read_text())
    del written["min_confidence"]
    (copy / "model.json").write_text(json.dumps(written))
    assert Classifier(copy, precision="f32").classify(pictures["red"]).label == "red"


def test_predictions_agree_with_the_arithmetic(classifier: Classifier, pictures: dict[str, bytes]) -> None:
    batch = np.stack([image.load(data) for data in pictures.values()])
    predictions = classifier.predict(batch)
    mean = batch.reshape(3, -1, 3).mean(axis=1) - 127.5
    np.testing.assert_allclose(predictions.embedding, mean, atol=0.05)
    logits = mean @ np.array([[-1, 1], [0, 0], [1, -1]]) / 50
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(predictions.probabilities, expected, atol=1e-3)
    assert predictions.activation.shape == (3, 2, 10, 10)
    plain = classifier.predict(batch, maps=False)
    assert plain.activation.shape == (0, 2, 10, 10)
    np.testing.assert_array_equal(plain.probabilities, predictions.probabilities)
    np.testing.assert_array_equal(plain.knn_similarity, predictions.knn_similarity)


def test_company_changes_no_answer(classifier: Classifier, pictures: dict[str, bytes]) -> None:
    batch = np.stack([image.load(data) for data in pictures.values()] * 5)
    together = classifier.predict(batch)
    alone = np.concatenate([classifier.predict(one[None]).probabilities for one in batch])
    np.testing.assert_array_equal(together.probabilities, alone)


def test_no_pictures_give_no_predictions(classifier: Classifier) -> None:
    assert classifier.predict(np.empty((0, 300, 300, 3), np.uint8)).probabilities.shape == (0, 2)


@pytest.mark.parametrize("shape, dtype", [((1, 299, 300, 3), np.uint8), ((1, 300, 300, 3), np.float32)])
def test_another_shape_or_type_is_refused(classifier: Classifier, shape: tuple[int, ...], dtype: type) -> None:
    with pytest.raises(ValueError, match="uint8"):
        classifier.predict(np.zeros(shape, dtype))


def test_threads_share_one_classifier(classifier: Classifier, pictures: dict[str, bytes]) -> None:
    wrong: list[str] = []

    def ask(colour: str) -> None:
        wrong.extend(label for _ in range(20) if (label := classifier.classify(pictures[colour]).label) != colour)

    threads = [threading.Thread(target=ask, args=(colour,)) for colour in ("red", "blue") * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong and not any(thread.is_alive() for thread in threads)


def test_the_first_two_pictures_of_a_process_do_not_lock_each_other_out(toy_model: Path) -> None:
    # What OpenVINO's binding imports in its first inference takes a while here, as on a busy machine.
    code = """
import builtins, sys, threading, time
import numpy as np
from pathlib import Path
from pawprint.inference.classifier import Classifier

plain = builtins.__import__

def slow(name, *args, **kwargs):
    if name.startswith("numpy"):
        time.sleep(0.2)
    return plain(name, *args, **kwargs)

builtins.__import__ = slow
classifier = Classifier(Path(sys.argv[1]))
together = threading.Barrier(2)

def ask():
    together.wait()
    classifier.predict(np.zeros((1, 300, 300, 3), np.uint8))

threads = [threading.Thread(target=ask) for _ in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""
    subprocess.run([sys.executable, "-c", code, toy_model], check=True, timeout=60)


@pytest.mark.parametrize("precision", ["bf16", "f32"])
def test_the_precision_that_is_executed_is_reported(
    toy_model: Path, precision: str, pictures: dict[str, bytes]
) -> None:
    classifier = Classifier(toy_model, precision=precision)  # type: ignore[arg-type]
    native = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    assert classifier.precision == (precision if native else "f32")  # bf16 is executed as f32 where the CPU lacks it
    assert classifier.classify(pictures["red"]).label == "red"


def test_auto_is_never_left_open(toy_model: Path) -> None:
    assert Classifier(toy_model).precision in ("bf16", "f32")


def test_a_changed_model_is_refused(copy: Path) -> None:
    with (copy / "model.onnx").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x00")
    with pytest.raises(PawprintError, match=r"model\.onnx is not the file that model\.json describes"):
        Classifier(copy)


def test_a_half_written_model_is_refused(copy: Path) -> None:
    data = (copy / "model.onnx").read_bytes()
    (copy / "model.onnx").write_bytes(data[: len(data) // 2])
    with pytest.raises(PawprintError, match="half written"):
        Classifier(copy)


@pytest.mark.parametrize("name", ["model.onnx", "model.json", "ood.safetensors"])
def test_a_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(PawprintError, match=name):
        Classifier(copy)


def test_a_damaged_record_names_its_field(copy: Path) -> None:
    record = json.loads((copy / "model.json").read_text())
    record["temperature"] = "warm"
    (copy / "model.json").write_text(json.dumps(record))
    with pytest.raises(PawprintError, match="temperature"):
        Classifier(copy)


def test_a_damaged_or_foreign_bank_is_refused(copy: Path) -> None:
    (copy / "ood.safetensors").write_bytes(b"{}")
    with pytest.raises(PawprintError, match=r"ood\.safetensors is not the file that model\.json describes"):
        Classifier(copy)
    # a model of before has no digest of its bank
    about = json.loads((copy / "model.json").read_bytes()) | {"ood_digest": ""}
    (copy / "model.json").write_text(json.dumps(about))
    with pytest.raises(PawprintError, match=r"ood\.safetensors is damaged"):
        Classifier(copy)


def test_files_keep_their_order_and_their_own_errors(
    classifier: Classifier, pictures: dict[str, bytes], tmp_path: Path
) -> None:
    names = ["a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg"]
    contents = [pictures["red"], b"not a photograph", pictures["blue"], b"", pictures["red"]]
    for name, data in zip(names, contents, strict=True):
        (tmp_path / name).write_bytes(data)
    results = list(classifier.classify_files([tmp_path / name for name in [*names, "gone.jpg"]]))
    assert [result.path.name for result in results] == [*names, "gone.jpg"]
    assert [result.classification.label if result.classification else None for result in results] == [
        "red", None, "blue", None, "red", None,
    ]  # fmt: skip
    assert "not a photograph" in results[1].error
    assert "empty" in results[3].error
    assert "cannot be read" in results[5].error


def test_folders_give_their_pictures_sorted(tmp_path: Path) -> None:
    for name in ("z.jpg", "b/a.PNG", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for name in ("b/._a.PNG", "b/.hidden.jpg"):  # macOS's notes beside a picture, on other disks
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / ".thumbnails").mkdir()
    (tmp_path / ".thumbnails" / "z.jpg").touch()
    for name in ("b/c.avif", "b/d.jfif", "b/e.jpe", "b/f.HEIC", "b/g.eps", "b/h.jp2"):
        (tmp_path / name).write_bytes(b"x")
    kept = [tmp_path / "b" / name for name in ("a.PNG", "c.avif", "d.jfif", "e.jpe", "f.HEIC")]
    assert find_pictures([tmp_path]) == [*kept, tmp_path / "z.jpg"]
    assert find_pictures([tmp_path / "notes.txt"]) == [tmp_path / "notes.txt"]  # named by a person: taken


def test_an_empty_folder_is_said_and_a_missing_file_is_left_to_its_answer(tmp_path: Path) -> None:
    with pytest.raises(PawprintError, match="holds no photographs"):
        find_pictures([tmp_path])
    assert find_pictures([tmp_path / "gone.jpg"]) == [tmp_path / "gone.jpg"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "cats").mkdir(mode=0)
    with pytest.raises(PawprintError, match="cats cannot be read"):
        find_pictures([tmp_path])


def test_a_model_s_identity_is_all_that_it_answers_with_and_not_its_run(toy_model: Path) -> None:
    info = ModelInfo.read(toy_model)
    other = [
        {"classes": ("blue", "crimson")}, {"ood_threshold": 0.51}, {"temperature": 1.1}, {"ood_digest": "a" * 64},
        {"lineage": info.lineage.model_copy(update={"dataset": "paints"})},
        {"lineage": info.lineage.model_copy(update={"manifest_digest": "a" * 64})},
    ]  # fmt: skip
    digests = {info.model_copy(update=changed).model_digest for changed in other} | {info.model_digest}
    assert len(digests) == len(other) + 1
    again = info.lineage.model_copy(update={"run_id": "b" * 32, "git_commit": "d" * 40})
    assert info.model_copy(update={"lineage": again}).model_digest == info.model_digest


def test_a_model_json_of_before_names_its_graph_by_model_digest(copy: Path) -> None:
    before = json.loads((copy / "model.json").read_text())
    graph = before.pop("onnx_digest")
    (copy / "model.json").write_text(json.dumps(before | {"model_digest": graph}))
    assert ModelInfo.read(copy).onnx_digest == graph
    assert ModelInfo.read(copy).model_digest == ModelInfo.model_validate(before | {"onnx_digest": graph}).model_digest
    Classifier(copy, precision="f32")

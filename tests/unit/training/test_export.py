"""The model folder: whole or not at all, right against torch, calibrated, deterministic."""

import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from pawprint.config import Preprocess, Refusal
from pawprint.data.dataset import PreparedDataset
from pawprint.errors import PawprintError
from pawprint.inference import ood, selftest, strangers
from pawprint.inference.classifier import Classifier, ModelInfo
from pawprint.lineage import Lineage, sha256
from pawprint.models import registry
from pawprint.training import export as module
from pawprint.training import quantize, temperature
from pawprint.training.export import export, least_confidence
from pawprint.training.temperature import fit_temperature, tempered
from pawprint.training.train import Trained, fit
from prepared_set import Memory, drawings, params

LINEAGE = Lineage(
    git_commit="c" * 40, git_dirty=False, dataset="sample", data_hash="d.dir", manifest_digest="", params_digest="",
    lock_digest="", seed=2017, device="cpu bfloat16", run_id="r",
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return drawings(tmp_path_factory.mktemp("drawings"))


@pytest.fixture(scope="module")
def trained(data: PreparedDataset) -> Trained:
    return fit("article_cnn", params("article_cnn", epochs=1), data, Memory())


def test_the_folder_is_whole_and_the_runtime_reads_it(trained: Trained, data: PreparedDataset, tmp_path: Path) -> None:
    out, memory = tmp_path / "models" / "article_cnn", Memory()
    info = export(trained, data, LINEAGE, out, memory)
    assert sorted(path.name for path in out.iterdir()) == [
        "model.json", "model.onnx", "model.safetensors", "ood.safetensors", "photographs.txt", "selftest",
    ]  # fmt: skip
    assert ModelInfo.read(out) == info
    assert len(list((out / "selftest").glob("*.jpg"))) == len(info.classes)
    selftest.check(Classifier(out))
    assert info.parameters == 219_801
    assert info.onnx_digest == sha256(out / "model.onnx")
    assert info.weights_digest == sha256(out / "model.safetensors")
    assert memory.final("onnx_max_difference") <= module.MAX_DIFFERENCE
    learned = (out / "photographs.txt").read_text().split()
    assert learned == sorted({*data.split("train").hashes, *data.split("validation").hashes})
    assert not set(learned) & set(data.split("test").hashes)

    kept, validation = load_file(out / "ood.safetensors"), data.split("validation")  # what drift is compared with
    np.testing.assert_allclose(kept["held_out"], ood.unit(trained.validation.embedding), atol=1e-3)
    assert len(kept["held_out"]) == len(validation) and kept["held_out_predicted"].sum() == len(validation)

    pictures = validation.images(range(5))
    answers = Classifier(out, precision="f32").predict(pictures)
    served = module._Served(trained.network, info.temperature).eval()
    with torch.inference_mode():
        probabilities, embedding, activation = served(torch.from_numpy(pictures))
    np.testing.assert_allclose(answers.probabilities, probabilities.numpy(), atol=1e-4)
    np.testing.assert_allclose(answers.embedding, embedding.numpy(), atol=1e-4)
    np.testing.assert_allclose(answers.activation, activation.numpy(), atol=1e-3)
    assert (answers.knn_similarity <= 1.001).all()


def test_a_quantized_model_is_a_folder_like_any_other(trained: Trained, data: PreparedDataset, tmp_path: Path) -> None:
    plain = export(trained, data, LINEAGE, tmp_path / "plain", Memory())
    asked = trained.params.model_copy(update={"refusal": Refusal(unlike=0.1)})
    info = quantize.make(tmp_path / "plain", data, LINEAGE, "plain_int8", tmp_path / "int8", asked)
    assert (info.quantized_from, plain.quantized_from, info.candidate) == ("article_cnn", "", "plain_int8")
    assert info.weights_digest == plain.weights_digest
    assert info.model_digest != plain.model_digest
    kinds = {node.op_type for node in onnx.load(tmp_path / "int8" / "model.onnx").graph.node}
    assert "QuantizeLinear" in kinds

    pictures = data.split("validation").images(range(5))
    ours, theirs = (Classifier(tmp_path / name).predict(pictures) for name in ("int8", "plain"))
    np.testing.assert_allclose(ours.probabilities, theirs.probabilities, atol=0.05)
    assert not np.array_equal(ours.probabilities, theirs.probabilities)
    assert (ours.knn_similarity >= info.ood_threshold - 0.01).all()

    again = quantize.make(tmp_path / "plain", data, LINEAGE, "plain_int8", tmp_path / "int8", asked)
    assert again == info


def test_weights_have_7_bits_where_products_of_8_saturate(
    trained: Trained, data: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(trained, data, LINEAGE, tmp_path / "plain", Memory())
    largest = {}
    for limit in ("AVX2", "AVX512_CORE_VNNI"):
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
        path = shutil.copy(tmp_path / "plain" / "model.onnx", tmp_path / f"{limit}.onnx")
        quantize.quantize(path, data.split("train"))
        arrays = [onnx.numpy_helper.to_array(one) for one in onnx.load(path).graph.initializer]
        largest[limit] = max(np.abs(one.astype(int)).max() for one in arrays if one.dtype == np.int8 and one.ndim == 4)
        assert (largest[limit] <= 64) == quantize.saturates()
    assert largest["AVX2"] <= 64


def test_the_weights_file_alone_gives_the_network_back(trained: Trained, data: PreparedDataset, tmp_path: Path) -> None:
    export(trained, data, LINEAGE, tmp_path / "m", Memory())
    again = registry.create_model("article_cnn").eval()
    again.load_state_dict(load_file(tmp_path / "m" / "model.safetensors"))
    inputs = torch.rand(2, 3, 300, 300)
    assert torch.equal(again(inputs), trained.network(inputs))


def test_other_thresholds_are_another_model(trained: Trained, data: PreparedDataset, tmp_path: Path) -> None:
    """The registry knows a version by this digest: what is served must not change under one."""
    refusal = trained.params.refusal.model_copy(update={"unlike": 0.2})
    params_ = trained.params.model_copy(update={"refusal": refusal})
    one = export(trained, data, LINEAGE, tmp_path / "one", Memory())
    again = export(trained, data, LINEAGE, tmp_path / "again", Memory())
    other = export(replace(trained, params=params_), data, LINEAGE, tmp_path / "other", Memory())
    assert one.model_digest == again.model_digest
    assert other.weights_digest == one.weights_digest
    assert other.ood_threshold != one.ood_threshold
    assert other.model_digest != one.model_digest


@pytest.mark.parametrize("count", [1, 3, 33])
def test_any_number_of_photographs_is_a_batch(
    count: int, trained: Trained, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    module.save_onnx(module._Served(trained.network, 1.0).eval(), path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    probabilities, embedding, activation = session.run(
        list(module.OUTPUTS), {"images": np.zeros((count, 300, 300, 3), np.uint8)}
    )
    assert probabilities.shape == (count, 2)
    assert embedding.shape == (count, 160)
    assert activation.shape == (count, 1, 37, 37)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)


def test_the_graph_says_nothing_of_the_machine(trained: Trained, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    module.save_onnx(module._Served(trained.network, 1.0).eval(), path)
    onnx.checker.check_model(str(path), full_check=True)
    data = path.read_bytes()
    for word in (b"site-packages", b"pawprint/", b"/home", str(Path.cwd()).encode()):
        assert word not in data
    assert onnx.load(path).opset_import[0].version == module.OPSET


def test_nothing_half_written_stays_when_the_graph_is_wrong(
    trained: Trained, data: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "models" / "article_cnn"
    monkeypatch.setattr(module, "MAX_DIFFERENCE", -1.0)
    with pytest.raises(PawprintError, match="differ from torch"):
        export(trained, data, LINEAGE, out, Memory())
    assert list(out.parent.iterdir()) == []


def test_an_old_folder_is_replaced_whole(trained: Trained, data: PreparedDataset, tmp_path: Path) -> None:
    out = tmp_path / "m"
    out.mkdir()
    (out / "old").write_text("old")
    export(trained, data, LINEAGE, out, Memory())
    assert not (out / "old").exists()
    assert json.loads((out / "model.json").read_text())["classes"] == ["cat", "dog"]


def test_temperature_finds_the_one_that_made_the_labels() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (20_000, 3)).astype(np.float32)
    chances = np.exp(logits / 2.5) / np.exp(logits / 2.5).sum(axis=1, keepdims=True)
    labels = np.array([rng.choice(3, p=row / row.sum()) for row in chances.astype(np.float64)])
    assert fit_temperature(logits, labels) == pytest.approx(2.5, rel=0.05)


def test_temperature_is_the_same_of_logits_that_are_taken_a_part_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 3, (1000, 3)).astype(np.float32), rng.integers(0, 3, 1000)
    whole = fit_temperature(logits, labels)
    monkeypatch.setattr(temperature, "NUMBERS", 1000)
    assert fit_temperature(logits, labels) == pytest.approx(whole, rel=1e-6)


def test_tempered_gives_the_same_bytes_a_part_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = np.random.default_rng(0).normal(0, 3, (1000, 37)).astype(np.float32)
    whole = torch.softmax(torch.from_numpy(logits).double() / 1.3, dim=1).numpy()
    for numbers in (1, 1000, 10**6):
        monkeypatch.setattr(temperature, "PROBABILITIES", numbers)
        assert np.array_equal(tempered(logits, 1.3), whole)


def test_temperature_stays_in_bounds_where_there_is_no_error_or_no_label() -> None:
    logits = np.array([[5, -5], [-5, 5]], np.float32)
    few, many = (fit_temperature(np.tile(logits, (n, 1)), np.array([0, 1] * n)) for n in (1, 10_000))
    assert 0.1 <= many < few <= 10  # two right answers are no proof, twenty thousand are
    assert fit_temperature(np.empty((0, 2), np.float32), np.empty(0, np.int64)) == 1.0


def test_logits_that_cannot_be_written_are_no_reason_for_a_warning() -> None:
    logits, labels = np.eye(2, dtype=np.float32), np.arange(2)
    logits.flags.writeable = labels.flags.writeable = False
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            fit_temperature(logits, labels)
    finally:
        torch.set_warn_always(False)


@pytest.mark.parametrize(("classes", "count"), [(2, 400), (10, 400), (37, 700)])
def test_temperature_leaves_a_calibrated_network_as_it_is_with_any_number_of_classes(classes: int, count: int) -> None:
    """Labels drawn from the probabilities themselves: the right temperature is 1. One doubtful answer is little."""
    rng = np.random.default_rng(classes)
    logits = (rng.normal(0, 1, (count, classes)) + 8 * np.eye(classes)[rng.integers(0, classes, count)]).astype("f4")
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = np.array([rng.choice(classes, p=row / row.sum()) for row in chances.astype(np.float64)])
    assert fit_temperature(logits, labels) == pytest.approx(1, abs=0.35)


def test_the_least_confidence_is_the_cheapest_for_the_stated_cost() -> None:
    confidence = np.array([0.55, 0.6, 0.7, 0.8, 0.99])
    wrong = np.array([True, False, True, False, False])
    assert least_confidence(confidence, ~wrong, 1.0) == 0  # a refusal costs as much as a mistake
    assert least_confidence(confidence, ~wrong, 1.5) == pytest.approx(1 / 3)  # Chow's bound
    assert least_confidence(confidence, ~wrong, 4.0) == pytest.approx(0.75)
    assert least_confidence(confidence, ~wrong, 10.0) == pytest.approx(0.8)
    assert least_confidence(confidence, np.ones(5, bool), 10.0) == 0  # no mistake: nothing to refuse
    assert least_confidence(np.empty(0), np.empty(0, bool), 10.0) == 0


def test_strangers_set_the_threshold_where_that_is_asked_for(
    trained: Trained, data: PreparedDataset, tmp_path: Path
) -> None:
    """Noise, and the photographs themselves: what a stranger costs decides how many photographs are refused for it."""
    folder = tmp_path / "strangers"
    folder.mkdir()
    rng = np.random.default_rng(3)
    for number in range(30):
        Image.fromarray(rng.integers(0, 256, (90, 90, 3), np.uint8)).save(folder / f"{number}.png")

    def exported(name: str, **refusal: object) -> tuple[Path, float]:
        given = Refusal(**refusal)  # type: ignore[arg-type]
        again = replace(trained, params=trained.params.model_copy(update={"refusal": given}))
        return tmp_path / name, export(again, data, LINEAGE, tmp_path / name, Memory()).ood_threshold

    _, by_share = exported("plain")
    _, still = exported("measured", strangers=str(folder))
    assert still == by_share  # they are measured, and set nothing
    dear, by_cost = exported("dear", strangers=str(folder), stranger_costs=100.0)
    untouched = strangers.read(folder, Preprocess(), "untouched")
    tuned = strangers.read(folder, Preprocess(), "tuned")
    assert len(tuned) + len(untouched) == 30
    assert not {one.tobytes() for one in tuned} & {one.tobytes() for one in untouched}
    similarity = Classifier(dear).predict(tuned).knn_similarity
    assert (similarity < by_cost + 0.02).all()  # at a hundred refusals a stranger none of the tuned half is accepted
    _, cheap = exported("cheap", strangers=str(folder), stranger_costs=0.001)
    assert cheap <= by_cost

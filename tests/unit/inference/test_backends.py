"""Where the graph is run: batches for a GPU (ONNX Runtime runs them on the CPU here), and what `device` says."""

import json
import os
import platform
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openvino
import pytest

from pawprint.errors import PawprintError
from pawprint.inference import backends
from pawprint.inference.backends import OnnxRuntime
from pawprint.inference.classifier import Classifier, read_bank
from pawprint.inference.ood import Bank


def test_many_threads_get_their_own_answers_out_of_few_calls(toy_model: Path) -> None:
    images = np.random.default_rng(3).integers(0, 256, (200, 1, 300, 300, 3), np.uint8)
    network = OnnxRuntime((toy_model / "model.onnx").read_bytes(), ["CPUExecutionProvider"], read_bank(toy_model))
    sizes: list[int] = []
    run = network._session.run

    class Counted:
        def run(self, names, inputs):
            (batch,) = inputs.values()
            sizes.append(len(batch))
            time.sleep(0.02)  # the others queue meanwhile, also on a busy machine
            return run(names, inputs)

    network._session = Counted()
    with ThreadPoolExecutor(network.at_once) as pool:
        together = list(pool.map(network, images))
    assert sum(sizes) == 200 and len(sizes) < 50 and 1 < max(sizes) <= 64
    expected = Classifier(toy_model, precision="f32").predict(images[:, 0])
    probabilities, embedding, activation, cosine = (np.concatenate(parts) for parts in zip(*together, strict=True))
    np.testing.assert_allclose(probabilities, expected.probabilities, atol=1e-3)
    np.testing.assert_allclose(embedding, expected.embedding, atol=0.05)
    assert activation.shape == expected.activation.shape
    similarity = read_bank(toy_model).typicality_of(cosine, probabilities)
    np.testing.assert_allclose(similarity, expected.knn_similarity, atol=1e-3)


def test_a_batch_that_fails_fails_for_those_in_it_only(toy_model: Path) -> None:
    network = OnnxRuntime((toy_model / "model.onnx").read_bytes(), ["CPUExecutionProvider"], read_bank(toy_model))
    with pytest.raises(RuntimeError, match="Got invalid dimensions"):
        network(np.zeros((1, 10, 10, 3), np.uint8))
    assert network(np.zeros((1, 300, 300, 3), np.uint8))[0].shape == (1, 2)


@pytest.mark.skipif(backends._cuda(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there(toy_model: Path) -> None:
    with pytest.raises(PawprintError, match=r"serving\.device is cuda.*auto or cpu"):
        Classifier(toy_model, device="cuda")
    assert Classifier(toy_model, device="auto").device == "cpu"


def test_a_damaged_graph_is_an_error_of_the_model() -> None:
    with pytest.raises(RuntimeError):
        OnnxRuntime(b"no graph", ["CPUExecutionProvider"], Bank.of(np.eye(3, dtype=np.float32), None))


@pytest.mark.parametrize("kind", ["class scores", "of before", "embedding"])
def test_a_graph_computes_the_similarities_that_the_bank_computes(toy_model: Path, kind: str) -> None:
    """Each kind of bank, in float32 and in the CPU's own precision."""
    rng = np.random.default_rng(5)
    scores = None if kind == "embedding" else rng.normal(size=(40, 4)).astype(np.float32)
    bank = Bank.of(rng.normal(size=(300, 3)).astype(np.float32), scores)
    if kind == "of before":  # without class probabilities
        bank = Bank.from_tensors(bank.tensors() | {"directions": bank.directions[:, :40]})
    graph, images = (toy_model / "model.onnx").read_bytes(), rng.integers(0, 256, (6, 1, 300, 300, 3), np.uint8)
    for precision, tolerance in (("f32", 1e-5), ("auto", 0.02)):
        session = backends.load(graph, precision, "cpu", bank)
        for one in images:
            _, embedding, _, cosine = session(one)
            np.testing.assert_allclose(cosine, bank.cosine(embedding), atol=tolerance)


def test_outputs_are_the_callers_own(toy_model: Path) -> None:
    """A session has few buffers, and the next picture is written to them."""
    session = backends.load((toy_model / "model.onnx").read_bytes(), "f32", "cpu", read_bank(toy_model))
    first = session(np.zeros((1, 300, 300, 3), np.uint8))
    kept = [each.copy() for each in first]
    for _ in range(session.at_once):
        session(np.full((1, 300, 300, 3), 255, np.uint8))
    for each, before in zip(first, kept, strict=True):
        np.testing.assert_array_equal(each, before)


@pytest.mark.parametrize("dimensions", [2, 1281])
def test_a_bank_of_another_model_is_refused(toy_model: Path, dimensions: int) -> None:
    graph, bank = (toy_model / "model.onnx").read_bytes(), Bank.of(np.eye(dimensions, dtype=np.float32), None)
    with pytest.raises(ValueError, match=f"a bank of {dimensions} dimensions for embeddings of 3"):
        backends.load(graph, "f32", "cpu", bank)
    with pytest.raises(ValueError, match="for embeddings of 3"):
        OnnxRuntime(graph, ["CPUExecutionProvider"], bank)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the limit is one of x86")
def test_execution_is_what_a_processor_with_avx2_alone_executes_not_what_was_asked() -> None:
    code = "import json; from pawprint.inference import backends; print(json.dumps(backends.execution('bf16')))"
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    out = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    found = json.loads(out.stdout)
    assert (found["precision"], found["instruction_set"]) == ("f32", "avx2")
    assert found["engine"].startswith("openvino ")


def test_a_process_that_shares_the_machine_keeps_to_no_core(toy_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers of a cluster took the first core both: 1.18 times as fast as one, not 1.67."""
    for count, pinned in ((backends.cores(), True), (backends.cores() + 1, False)):
        monkeypatch.setattr(os, "cpu_count", lambda count=count: count)
        compiled = backends._compile(openvino.Core().read_model(toy_model / "model.onnx"), "f32")
        assert compiled.get_property("ENABLE_CPU_PINNING") is pinned

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
import pytest

from pawprint.errors import PawprintError
from pawprint.inference import backends
from pawprint.inference.backends import OnnxRuntime
from pawprint.inference.classifier import Classifier


def test_many_threads_get_their_own_answers_out_of_few_calls(toy_model: Path) -> None:
    images = np.random.default_rng(3).integers(0, 256, (200, 1, 300, 300, 3), np.uint8)
    network = OnnxRuntime((toy_model / "model.onnx").read_bytes(), ["CPUExecutionProvider"])
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
    probabilities, embedding, activation = (np.concatenate(parts) for parts in zip(*together, strict=True))
    np.testing.assert_allclose(probabilities, expected.probabilities, atol=1e-3)
    np.testing.assert_allclose(embedding, expected.embedding, atol=0.05)
    assert activation.shape == expected.activation.shape


def test_a_batch_that_fails_fails_for_those_in_it_only(toy_model: Path) -> None:
    network = OnnxRuntime((toy_model / "model.onnx").read_bytes(), ["CPUExecutionProvider"])
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
        OnnxRuntime(b"no graph", ["CPUExecutionProvider"])


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the limit is one of x86")
def test_execution_is_what_a_processor_with_avx2_alone_executes_not_what_was_asked() -> None:
    code = "import json; from pawprint.inference import backends; print(json.dumps(backends.execution('bf16')))"
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    out = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    found = json.loads(out.stdout)
    assert (found["precision"], found["instruction_set"]) == ("f32", "avx2")
    assert found["engine"].startswith("openvino ")

"""How the graph is run: on the CPU by OpenVINO, a picture a core; on a GPU by ONNX Runtime, in batches.

    network = OnCpu(onnx, "auto")       # or OnGpu(onnx)
    probabilities, embedding, activation = network(one)    # uint8 [1, 300, 300, 3], from any thread

Both are asked for one picture at a time, by `at_once` threads; what they make of that company is their own affair.
"""

import os
import queue
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from threading import Lock
from typing import Any, Literal, Protocol

import numpy as np
import openvino
from numpy.typing import NDArray

from pawprint import image
from pawprint.errors import PawprintError

Precision = Literal["auto", "bf16", "f32"]
Device = Literal["auto", "cpu", "cuda"]
Outputs = list[NDArray[np.float32]]  # probabilities, embedding, activation
OUTPUTS = ("probabilities", "embedding", "activation")
CUDA = "CUDAExecutionProvider"
_BATCH = 64  # pictures in one call of a GPU at most


class Network(Protocol):
    """The graph, loaded."""

    at_once: int  # threads that keep it busy
    precision: Precision
    device: Device

    def __call__(self, one: NDArray[np.uint8]) -> Outputs:
        """uint8 [1, 300, 300, 3] -> the outputs of one row; from any thread. RuntimeError where it cannot."""


def load(onnx: bytes, precision: Precision, device: Device) -> Network:
    """The graph on `device`; `auto` is the GPU where ONNX Runtime was installed for one and finds it.

    Raises:
        PawprintError: `cuda` is wanted and cannot be had.
        RuntimeError: the graph cannot be run.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if device == "cpu" or (device == "auto" and not _cuda()):
        network: Network = OnCpu(onnx, precision, cores)
    elif _cuda():
        network = OnnxRuntime(onnx, [CUDA], cores)
    else:
        raise PawprintError(
            "serving.device is cuda, but ONNX Runtime finds no GPU here. Install the CUDA driver and "
            "`pip install onnxruntime-gpu[cuda,cudnn]` in place of onnxruntime, or set it to auto or cpu."
        )
    network(np.zeros((1, image.SIZE, image.SIZE, 3), np.uint8))  # see OnCpu; and a GPU's first call takes seconds
    return network


def _cuda() -> bool:
    try:
        import onnxruntime
    except ImportError:
        return False  # a Bento for CPUs has none
    return CUDA in onnxruntime.get_available_providers()


class OnCpu:
    """OpenVINO, one stream of one core to a picture and as many streams as cores: faster than batches.

    Its binding sets itself up in the first inference of a process. Two threads that meet there lock each other out
    for good (one waits for the GIL inside a C++ static, the other holds it), so `load` asks it first.
    """

    device: Device = "cpu"

    def __init__(self, onnx: bytes, precision: Precision, cores: int) -> None:
        core = openvino.Core()
        native_bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        self.at_once = cores
        self.precision: Precision = ("bf16" if native_bf16 else "f32") if precision == "auto" else precision
        config = {
            "PERFORMANCE_HINT": "THROUGHPUT",
            "NUM_STREAMS": cores,
            "INFERENCE_NUM_THREADS": cores,
            "INFERENCE_PRECISION_HINT": self.precision,
        }
        model = core.compile_model(core.read_model(onnx), "CPU", config)
        self._idle: queue.SimpleQueue[openvino.InferRequest] = queue.SimpleQueue()  # each holds its own buffers
        for _ in range(cores):
            self._idle.put(model.create_infer_request())

    def __call__(self, one: NDArray[np.uint8]) -> Outputs:
        """One picture."""
        request = self._idle.get()
        try:
            outputs = request.infer({0: np.ascontiguousarray(one)}, share_inputs=True, share_outputs=False)
            return [np.asarray(outputs[name], np.float32) for name in OUTPUTS]
        finally:
            self._idle.put(request)


class OnnxRuntime:
    """ONNX Runtime, for a GPU: while one batch is on its way, the pictures that come meanwhile are the next.

    Nothing waits for company: an idle GPU takes a picture alone, a busy one up to 64 together.
    """

    device: Device = "cuda"
    precision: Precision = "f32"

    def __init__(self, onnx: bytes, providers: Sequence[str], cores: int) -> None:
        import onnxruntime

        # Batches come in all sizes, and an exhaustive search would be made for each.
        options: list[dict[str, Any]] = [
            {"cudnn_conv_algo_search": "HEURISTIC"} if name == CUDA else {} for name in providers
        ]
        try:
            self._session = onnxruntime.InferenceSession(onnx, providers=list(providers), provider_options=options)
        except Exception as error:  # its own kinds of error have no common class
            raise RuntimeError(str(error)) from error
        if not set(providers) <= set(self._session.get_providers()):  # it falls back in silence
            raise PawprintError("ONNX Runtime cannot use the GPU (its log says why). Set serving.device to cpu.")
        self._input = self._session.get_inputs()[0].name
        self.at_once = _BATCH + cores  # a full batch, and the next being decoded
        self._waiting: deque[tuple[NDArray[np.uint8], Future[Outputs]]] = deque()
        self._busy = Lock()

    def __call__(self, one: NDArray[np.uint8]) -> Outputs:
        """One picture, with those that wait."""
        mine: Future[Outputs] = Future()
        self._waiting.append((one, mine))
        with self._busy:
            while not mine.done():
                self._run([self._waiting.popleft() for _ in range(min(len(self._waiting), _BATCH))])
        return mine.result()

    def _run(self, batch: list[tuple[NDArray[np.uint8], Future[Outputs]]]) -> None:
        try:
            outputs = self._session.run(list(OUTPUTS), {self._input: np.concatenate([one for one, _ in batch])})
        except Exception as error:
            for _, future in batch:
                future.set_exception(RuntimeError(str(error)))
            return
        for row, (_, future) in enumerate(batch):
            future.set_result([np.asarray(output[row : row + 1], np.float32) for output in outputs])

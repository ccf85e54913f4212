"""Inference engines: OpenVINO on the CPU, one picture a core; ONNX Runtime on a GPU, in batches.

    session = load(onnx, "auto", "cpu", bank)
    probabilities, embedding, activation, cosine = session(one)    # uint8 [1, size, size, 3], from any thread

One set for features, evaluation and serving. A session takes one picture at a time, from `at_once` threads.
"""

import os
import queue
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from functools import cache
from threading import Condition
from typing import Any, Literal, Protocol

import numpy as np
import openvino
from numpy.typing import NDArray

from pawprint import image
from pawprint.errors import PawprintError
from pawprint.inference.ood import Bank
from pawprint.parallel import cores

Precision = Literal["auto", "bf16", "f32"]
Device = Literal["auto", "cpu", "cuda"]
Outputs = list[NDArray[np.float32]]  # probabilities, embedding, activation, cosine similarities to the bank
OUTPUTS = ("probabilities", "embedding", "activation")
CUDA = "CUDAExecutionProvider"
_COSINE = "cosine"
_BATCH = 64  # pictures in one call of a GPU at most


class Session(Protocol):
    """A loaded graph."""

    at_once: int  # threads that keep it busy
    precision: Precision
    device: Device

    def __call__(self, one: NDArray[np.uint8]) -> Outputs:
        """uint8 [1, size, size, 3] -> the outputs of one row; from any thread. RuntimeError where it cannot."""


def load(onnx: bytes, precision: Precision, device: Device, bank: Bank, size: int = image.SIZE) -> Session:
    """The graph, which takes `size` pixels a side, on `device`; `auto` is the GPU where ONNX Runtime was installed for
    one and finds it.

    Raises:
        PawprintError: `cuda` is requested and not available.
        ValueError: the bank is not one of this graph's embeddings.
        RuntimeError: the graph cannot be run.
    """
    if device == "cpu" or (device == "auto" and not _cuda()):
        session: Session = OpenVino(onnx, precision, bank, size)
    elif _cuda():
        session = OnnxRuntime(onnx, [CUDA], bank)
    else:
        raise PawprintError(
            "serving.device is cuda, but ONNX Runtime finds no GPU here. Install the CUDA driver and "
            "`uv pip install onnxruntime-gpu[cuda,cudnn]` in place of onnxruntime, or set it to auto or cpu."
        )
    session(np.zeros((1, size, size, 3), np.uint8))  # see OpenVino; and a GPU's first call takes seconds
    return session


def compile_on_cpu(model: openvino.Model, precision: Precision) -> openvino.CompiledModel:
    """The model with one stream of one thread a core, in the precision that `execution` finds."""
    return _compile(model, "bf16" if execution(precision)["precision"] == "bf16" else "f32")


def executed_precision(compiled: openvino.CompiledModel) -> Precision:
    """The precision that a compiled model computes in: bf16 that a CPU lacks is silently executed as f32."""
    return "bf16" if compiled.get_property("INFERENCE_PRECISION_HINT") == openvino.Type.bf16 else "f32"


@cache
def execution(precision: Precision) -> dict[str, str]:
    """What a model compiled with `precision` executes on, as a compiled convolution reports it.

    Engine and version, processor, precision, instruction set ("avx512"). `auto` is bf16 where the CPU computes in it.
    A processor without bf16 computes in f32, and one that ONEDNN_MAX_CPU_ISA limits refuses bf16, so f32 is taken.
    """
    ops = openvino.opset13
    maps = ops.parameter([1, 16, 8, 8], openvino.Type.f32)
    layer = ops.convolution(maps, np.ones((16, 16, 3, 3), np.float32), [1, 1], [0, 0], [0, 0], [1, 1])
    smallest = openvino.Model([layer], [maps], "smallest")
    try:
        compiled = _compile(smallest, "f32" if precision == "f32" else "bf16")
    except RuntimeError:
        compiled = _compile(smallest, "f32")
    nodes = [node.get_rt_info() for node in compiled.get_runtime_model().get_ordered_ops()]
    (kernel,) = [node["primitiveType"].astype(str) for node in nodes if node["layerType"].astype(str) == "Convolution"]
    return {
        "engine": f"openvino {openvino.__version__}",
        "device": "cpu",
        "processor": str(openvino.Core().get_property("CPU", "FULL_DEVICE_NAME")),
        "precision": executed_precision(compiled),
        "instruction_set": "_".join(kernel.split("_")[1:-1]) or kernel,  # brgconv_avx512_bf16
    }


def _compile(model: openvino.Model, precision: Precision) -> openvino.CompiledModel:
    config = {
        "PERFORMANCE_HINT": "THROUGHPUT",
        "NUM_STREAMS": cores(),
        "INFERENCE_NUM_THREADS": cores(),
        "INFERENCE_PRECISION_HINT": precision,
        # Threads that keep to a core are 4 % faster, but processes that share a machine all take its first cores.
        "ENABLE_CPU_PINNING": cores() == os.cpu_count(),
    }
    return openvino.Core().compile_model(model, "CPU", config)


def _cuda() -> bool:
    try:
        import onnxruntime
    except ImportError:
        return False  # a Bento for CPUs has none
    return CUDA in onnxruntime.get_available_providers()


class OpenVino:
    """One stream of one core for a picture and as many streams as cores: faster than batches.

    OpenVINO's binding initializes itself in the first inference of a process. Two threads that meet there deadlock
    (one waits for the GIL inside a C++ static, the other holds it), so `load` runs one inference first.
    """

    device: Device = "cpu"

    def __init__(self, onnx: bytes, precision: Precision, bank: Bank, size: int = image.SIZE) -> None:
        graph = openvino.Core().read_model(onnx)
        _add_cosine(graph, bank)
        model = compile_on_cpu(graph, precision)
        self.at_once = cores()
        self.precision = executed_precision(model)
        self._idle: queue.SimpleQueue[openvino.InferRequest] = queue.SimpleQueue()
        for _ in range(self.at_once):
            request = model.create_infer_request()
            request.set_input_tensor(openvino.Tensor(np.zeros((1, size, size, 3), np.uint8)))
            self._idle.put(request)

    def __call__(self, one: NDArray[np.uint8]) -> Outputs:
        request = self._idle.get()
        try:
            request.get_input_tensor().data[:] = one  # passing it to `infer` takes 0.2 ms more, and a dict of outputs
            request.start_async()
            request.wait()
            return [request.get_tensor(name).data.astype(np.float32) for name in (*OUTPUTS, _COSINE)]
        finally:
            self._idle.put(request)


def _add_cosine(graph: openvino.Model, bank: Bank) -> None:
    """Give the graph an output `cosine` [1, m], as Bank.cosine computes it.

    Its matrices are read anew for each picture, 7 MB for an ImageNet head and 278 directions. In the graph they have
    16 bits, as their file has them; NumPy has no product with those.
    """
    ops = openvino.opset13
    (embedding,) = [output for output in graph.outputs if "embedding" in output.get_names()]
    _check_size(bank, embedding.get_partial_shape()[1].get_length())
    direction = embedding.get_node().input_value(0)
    if bank.class_scores is not None:
        weights, bias = bank.class_scores[:, :-1], bank.class_scores[:, -1]
        direction = ops.add(ops.matmul(direction, _half(weights), False, True), ops.constant(bias[None])).output(0)
        if bank.probabilities:
            direction = ops.concat([_unit(direction), _unit(ops.softmax(direction, 1).output(0))], 1).output(0)
    cosine = ops.result(ops.matmul(_unit(direction), _half(bank.directions), False, True))
    cosine.output(0).set_names({_COSINE})
    graph.add_results([cosine])


def _unit(rows: openvino.Output) -> openvino.Node:
    ops = openvino.opset13
    length = ops.maximum(ops.reduce_l2(rows, ops.constant([1]), True), ops.constant(np.float32(1e-12)))
    return ops.divide(rows, length)


def _half(matrix: NDArray[np.float32]) -> openvino.Node:
    return openvino.opset13.convert(openvino.opset13.constant(matrix.astype(np.float16)), "f32")


def _check_size(bank: Bank, dimensions: int) -> None:
    if not bank.k or bank.dimensions != dimensions:
        raise ValueError(f"a bank of {bank.dimensions} dimensions for embeddings of {dimensions}")


class OnnxRuntime:
    """ONNX Runtime, for a GPU: pictures that arrive while a batch is computed form the next batch.

    Nothing waits for a batch to fill: an idle GPU takes one picture, a busy one up to 64 at once.
    """

    device: Device = "cuda"
    precision: Precision = "f32"

    def __init__(self, onnx: bytes, providers: Sequence[str], bank: Bank) -> None:
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
        (size,) = [output.shape[1] for output in self._session.get_outputs() if output.name == "embedding"]
        _check_size(bank, size)
        self._bank = bank
        self._input = self._session.get_inputs()[0].name
        self.at_once = _BATCH + cores()  # a full batch, and the next being decoded
        self._waiting: deque[tuple[NDArray[np.uint8], Future[Outputs]]] = deque()
        self._turn, self._busy = Condition(), False

    def __call__(self, one: NDArray[np.uint8]) -> Outputs:
        """One picture, in a batch with those that wait."""
        mine: Future[Outputs] = Future()
        with self._turn:
            self._waiting.append((one, mine))
            while not mine.done():
                if self._busy:
                    self._turn.wait()
                else:
                    self._next_batch()
        return mine.result()

    def _next_batch(self) -> None:
        """Compute what waits. Who has a result leaves meanwhile, and who arrives waits for the batch after."""
        batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), _BATCH))]
        self._busy = True
        self._turn.release()
        try:
            self._run(batch)
        finally:
            self._turn.acquire()
            self._busy = False
            self._turn.notify_all()

    def _run(self, batch: list[tuple[NDArray[np.uint8], Future[Outputs]]]) -> None:
        try:
            outputs = self._session.run(list(OUTPUTS), {self._input: np.concatenate([one for one, _ in batch])})
            outputs.append(self._bank.cosine(outputs[1]))
        except Exception as error:
            for _, future in batch:
                future.set_exception(RuntimeError(str(error)))
            return
        for row, (_, future) in enumerate(batch):
            future.set_result([np.asarray(output[row : row + 1], np.float32) for output in outputs])

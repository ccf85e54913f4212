"""Where the arithmetic runs and in which precision, and that it gives the same result twice.

device = devices.prepare(params.training, params.seed)
with devices.autocast(device, params.training): ...
"""

import contextlib
import ctypes
import os
import platform
from collections.abc import Iterator

import torch

from pawprint.config import Params, Training
from pawprint.errors import PawprintError
from pawprint.inference import backends
from pawprint.lineage import processor

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_INT_MAX = 2**31 - 1


def resolve(training: Training) -> torch.device:
    """The device that `training.device` names; `auto` takes cuda, else mps, else the CPU.

    Raises:
        PawprintError: A device was requested by name and is not there.
    """
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if training.device == "auto":
        return torch.device(next(kind for kind, there in present.items() if there))
    if not present[training.device]:
        raise PawprintError(
            f"params.yaml: `training.device` is {training.device}, but this machine has none that torch "
            f"{torch.__version__} can use. Set it to auto or cpu."
        )
    return torch.device(training.device)


def resolve_precision(params: Params) -> Params:
    """The params with `training.precision: auto` replaced by what this machine computes in.

    bfloat16 where the GPU or the CPU has instructions for it (AVX512-bf16, AMX), float32 elsewhere: emulated bfloat16
    is several times slower than float32.
    """
    if params.training.precision != "auto":
        return params
    device = resolve(params.training).type
    if device == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        found = torch.cpu.get_capabilities()
        native = device == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        native = native and any(found.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))  # bf16 is Arm's
    precision = "bfloat16" if native else "float32"
    return params.model_copy(update={"training": params.training.model_copy(update={"precision": precision})})


def prepare(training: Training, seed: int) -> torch.device:
    """Set up the process for training: device, allocator, seed, deterministic algorithms. Returns the device."""
    device = resolve(training)
    keep_memory()
    torch.manual_seed(seed)
    if training.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when the first CUDA matmul runs
    # As `use_deterministic_algorithms`, which imports torch's compiler for a second; nothing is compiled here.
    torch.set_deterministic_debug_mode("error" if training.deterministic else "default")
    torch.backends.cudnn.benchmark = not training.deterministic
    return device


def keep_memory() -> None:
    """Let glibc keep large buffers. By default it returns every one to the kernel and pays for it page by page.

    benchmarks/train_step.py measures the difference. Other C libraries have no mallopt; there it does nothing.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 2**30)
        libc.mallopt(_M_TRIM_THRESHOLD, _INT_MAX)


def autocast(device: torch.device, training: Training) -> contextlib.AbstractContextManager[object]:
    """Mixed precision where `training.precision` is lower than float32; weights stay float32."""
    kinds = {"bfloat16": torch.bfloat16, "float16": torch.float16}
    kind = kinds.get(training.precision)
    return torch.autocast(device.type, kind) if kind else contextlib.nullcontext()


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """torch on one core: a head's matrices are so small that a second core costs more than it brings."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def execution(params: Params) -> dict[str, str]:
    """What a training of `params` executes on here: everything but the inputs that equal weights depend on."""
    training = resolve_precision(params).training
    device = resolve(training)
    if device.type == "cuda":
        where = {"processor": torch.cuda.get_device_name(device), "cuda": str(torch.version.cuda)}
    else:
        where = {
            "processor": processor(),
            "instruction_set": torch.backends.cpu.get_cpu_capability(),
            "threads": str(torch.get_num_threads()),
            "features": _features(training),
        }
        if limit := os.environ.get("ONEDNN_MAX_CPU_ISA"):
            where["instruction_limit"] = limit
    return {"device": device.type, "precision": training.precision, **where, "torch": str(torch.__version__)}


def _features(training: Training) -> str:
    """What computes a frozen part's features: "openvino 2026.4.1 avx512 bf16"."""
    found = backends.execution("bf16" if training.precision == "bfloat16" else "f32")
    return f"{found['engine']} {found['instruction_set']} {found['precision']}"


def describe(params: Params) -> str:
    """One line of `execution`: "cpu float32 AMD EPYC, AVX2, 2 threads" or "cuda bfloat16 NVIDIA H100"."""
    found = execution(params)
    line = f"{found['device']} {found['precision']} {found['processor']}"
    return line if "threads" not in found else f"{line}, {found['instruction_set']}, {found['threads']} threads"

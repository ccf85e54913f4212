"""Where the arithmetic runs, and that it runs the same twice.

device = devices.prepare(params.training, params.seed)
with devices.autocast(device, params.training): ...
"""

import contextlib
import ctypes
import os
import platform
from collections.abc import Iterator
from pathlib import Path

import torch

from pawprint.config import Training
from pawprint.errors import PawprintError

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_INT_MAX = 2**31 - 1


def resolve(training: Training) -> torch.device:
    """The device that `training.device` names; `auto` takes cuda, else mps, else the CPU.

    Raises:
        PawprintError: A device was asked for by name and is not there.
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


def prepare(training: Training, seed: int) -> torch.device:
    """Set up the process for training: device, allocator, seed, deterministic algorithms. Returns the device."""
    device = resolve(training)
    keep_memory()
    torch.manual_seed(seed)
    if training.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when the first CUDA matmul runs
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
    else:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.benchmark = True
    return device


def keep_memory() -> None:
    """Let glibc keep large buffers. By default it returns every one to the kernel and pays for it page by page.

    benchmarks/train_step.py measures what that is worth. Other C libraries have no mallopt; there it does nothing.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 2**30)
        libc.mallopt(_M_TRIM_THRESHOLD, _INT_MAX)


def autocast(device: torch.device, training: Training) -> contextlib.AbstractContextManager[object]:
    """Mixed precision where `training.precision` asks for it; weights stay float32."""
    if training.precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, {"bfloat16": torch.bfloat16, "float16": torch.float16}[training.precision])


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """torch on one core: a head's matrices are so small that a second core costs more than it brings."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def describe(training: Training) -> str:
    """What a run says of its machine: "cpu bfloat16 AMD EPYC, 2 threads" or "cuda bfloat16 NVIDIA H100"."""
    device = resolve(training)
    if device.type == "cuda":
        return f"cuda {training.precision} {torch.cuda.get_device_name(device)}"
    threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    return f"{device.type} {training.precision} {_processor()}{threads}"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()

"""What a training took: seconds, CPU seconds, and energy, with the method by which that is known.

    with Meter(torch.device("cuda")) as meter: ...
    meter.used.sentence()     # 41 s, 76 CPU s, 0.0001 kWh (processor: 4 W a busy core, an estimate; ...)

Where the processor has readable counters (RAPL) and the GPU has one (NVML), these are read: they count all that runs
there. Else the processor's part is an estimate with CodeCarbon's figure for one that it does not know: 4 W a core, for
as long as this process and its children kept one busy. Memory, disks, cooling and losses are not counted. Nothing is
sent anywhere.
"""

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch

RAPL = Path("/sys/class/powercap")
WATTS_PER_CORE = 4.0  # codecarbon.core.cpu.DEFAULT_POWER_PER_CORE, version 3.3.2
_KWH = 3.6e6  # joules


@dataclass(frozen=True)
class Used:
    """What was used in a block of code."""

    seconds: float
    cpu_seconds: float
    kwh: float
    method: str

    def sentence(self) -> str:
        """For a person."""
        return f"{self.seconds:.0f} s, {self.cpu_seconds:.0f} CPU s, {self.kwh:.2g} kWh ({self.method})"

    def metrics(self) -> dict[str, float]:
        """By names that MLflow accepts."""
        return {"cpu_seconds": self.cpu_seconds, "energy_kwh": self.kwh}


class Meter:
    """Measures the block that it is entered for, on the processor and on `device`."""

    used: Used

    def __init__(self, device: torch.device, rapl: Path = RAPL) -> None:
        self._gpu, self._rapl = _gpu(device), rapl

    def __enter__(self) -> Self:
        self._start = self._read()
        return self

    def __exit__(self, *_: object) -> None:
        (began, cpu, counters, gpu), (ended, cpu_now, counters_now, gpu_now) = self._start, self._read()
        busy = cpu_now - cpu
        if counters and counters.keys() == counters_now.keys():
            joules = sum(_difference(counters[path], counters_now[path], path) for path in counters)
            method = "processor: RAPL, all that ran on it"
        else:
            joules, method = busy * WATTS_PER_CORE, f"processor: {WATTS_PER_CORE:g} W a busy core, an estimate"
        if gpu is not None and gpu_now is not None:
            joules += gpu_now - gpu
            method += "; GPU: NVML, all that ran on it"
        elif self._gpu is not None:
            method += "; GPU not counted: it has no counter"
        self.used = Used(ended - began, busy, joules / _KWH, method)

    def _read(self) -> tuple[float, float, dict[Path, float], float | None]:
        """(seconds, CPU seconds, joules of each processor, joules of the GPU)."""
        times = os.times()
        cpu = times.user + times.system + times.children_user + times.children_system
        return time.monotonic(), cpu, self._counters(), _gpu_joules(self._gpu)

    def _counters(self) -> dict[Path, float]:
        found = {}
        for folder in sorted(self._rapl.glob("intel-rapl:?")):  # whole processors; AMD's have the same name
            with contextlib.suppress(OSError, ValueError):
                found[folder] = int((folder / "energy_uj").read_text()) / 1e6
        return found


def _difference(before: float, after: float, counter: Path) -> float:
    """Joules between two readings of a counter that begins anew at its end."""
    if after >= before:
        return after - before
    return after - before + int((counter / "max_energy_range_uj").read_text()) / 1e6


def _gpu(device: torch.device) -> str | None:
    """The UUID of a CUDA device, by which NVML knows it whatever CUDA_VISIBLE_DEVICES says; None for others."""
    return f"GPU-{torch.cuda.get_device_properties(device).uuid}" if device.type == "cuda" else None


def _gpu_joules(uuid: str | None) -> float | None:
    """What NVML's counter of a GPU says; None without one."""
    if uuid is None:
        return None
    try:
        import pynvml  # nvidia-ml-py, NVIDIA's own, which BentoML brings
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        try:
            handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
            return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return None

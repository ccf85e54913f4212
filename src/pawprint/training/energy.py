"""What a training took: seconds, CPU seconds, and energy as CodeCarbon estimates it, offline.

    with Meter(torch.device("cuda")) as meter: ...
    meter.used.sentence()     # 41 s, 76 CPU s, 0.0001 kWh (CodeCarbon 3.3.2, offline: CPU(Cpu Load), RAM(...))

This process and its children are counted, with memory; counters (RAPL, NVML) are read where there are any, and count
all that runs there. Nothing is sent anywhere, and no file is written.
"""

import contextlib
import logging
import os
import time
from dataclasses import dataclass
from typing import Self

import torch


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

    def __init__(self, device: torch.device) -> None:
        # by UUID: CodeCarbon counts GPUs as NVML does, whatever CUDA_VISIBLE_DEVICES says
        self._gpus = [f"GPU-{torch.cuda.get_device_properties(device).uuid}"] if device.type == "cuda" else []

    def __enter__(self) -> Self:
        with contextlib.suppress(Exception):  # its errors are no training's
            from codecarbon import OfflineEmissionsTracker  # here: it takes half a second

            logging.getLogger("codecarbon").setLevel(logging.CRITICAL)  # it speaks before it reads log_level
            self._tracker = OfflineEmissionsTracker(
                country_iso_code="USA",  # it asks for one, for grams of CO2; energy does not depend on it
                tracking_mode="process",
                gpu_ids=self._gpus,
                save_to_file=False,
                allow_multiple_runs=True,  # else it locks a file outside of the project
                log_level="critical",
            )
            self._tracker.start()
        self._start = _clocks()
        return self

    def __exit__(self, *_: object) -> None:
        seconds, busy = (now - before for now, before in zip(_clocks(), self._start, strict=True))
        kwh, method = 0.0, "CodeCarbon failed"
        with contextlib.suppress(Exception):
            self._tracker.stop()
            found = self._tracker.final_emissions_data
            parts = ", ".join(map(str, self._tracker._hardware))
            kwh, method = found.energy_consumed, f"CodeCarbon {found.codecarbon_version}, offline: {parts}"
        self.used = Used(seconds, busy, kwh, method)


def _clocks() -> tuple[float, float]:
    """(seconds, CPU seconds of this process and of its children that have ended)."""
    return time.monotonic(), sum(os.times()[:4])

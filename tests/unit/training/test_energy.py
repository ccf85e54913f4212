"""What a training took, measured where the processor has counters, else estimated by a stated method."""

import time
from pathlib import Path

import pytest
import torch

from pawprint.training.energy import Meter

CPU = torch.device("cpu")


def burn(seconds: float) -> None:
    """Keep a core busy for so many CPU seconds."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_without_counters_it_is_an_estimate_from_cpu_seconds_and_says_so(tmp_path: Path) -> None:
    with Meter(CPU, tmp_path) as idle:
        time.sleep(0.3)
    with Meter(CPU, tmp_path) as busy:
        burn(0.3)
    assert busy.used.cpu_seconds >= 0.29 > 10 * idle.used.cpu_seconds
    assert busy.used.kwh == pytest.approx(busy.used.cpu_seconds * 4 / 3.6e6)
    assert "(processor: 4 W a busy core, an estimate)" in busy.used.sentence()
    assert busy.used.metrics() == {"cpu_seconds": busy.used.cpu_seconds, "energy_kwh": busy.used.kwh}


def test_counters_are_measured_also_where_one_begins_anew(tmp_path: Path) -> None:
    def write(first: int, second: int) -> None:
        for number, microjoules in enumerate((first, second)):
            folder = tmp_path / f"intel-rapl:{number}"
            folder.mkdir(exist_ok=True)
            (folder / "energy_uj").write_text(f"{microjoules}\n")
            (folder / "max_energy_range_uj").write_text("100000000\n")
        (tmp_path / "intel-rapl:0:0").mkdir(exist_ok=True)  # a part of the first, counted in it
        (tmp_path / "intel-rapl:0:0" / "energy_uj").write_text("999\n")

    write(1_000_000, 99_000_000)
    with Meter(CPU, tmp_path) as meter:
        write(37_000_000, 1_000_000)  # 36 J, and 2 J over its end
    assert meter.used.kwh * 3.6e6 == pytest.approx(38)
    assert "RAPL" in meter.used.method and "estimate" not in meter.used.method


def test_a_gpu_without_a_counter_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meter = Meter(CPU, tmp_path)
    monkeypatch.setattr(meter, "_gpu", "GPU-none")
    with meter:
        pass
    assert "GPU not counted" in meter.used.method

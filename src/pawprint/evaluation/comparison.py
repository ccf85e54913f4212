"""Runs side by side on a terminal: parameters that differ first, then the figures.

for row in differences(params): ...
significant(ours, theirs, resamples=2000, seed=2017)      # from two test.csv
"""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pawprint.evaluation.metrics import paired_interval

FIGURES = (
    "test_accuracy", "test_log_loss", "test_auroc", "test_calibration_error", "test_worst_slice",
    "test_robustness_loss", "test_refused", "clutter_accepted", "latency_p50_ms", "size_mb", "seconds",
)  # fmt: skip


def differences(params: Sequence[Mapping[str, str]]) -> list[tuple[str, list[str]]]:
    """(parameter, its value in each run) of those that are not the same in all."""
    names = sorted({name for one in params for name in one})
    rows = [(name, [one.get(name, "") for one in params]) for name in names]
    return [row for row in rows if len(set(row[1])) > 1]


def figures(measured: Sequence[Mapping[str, float]]) -> list[tuple[str, list[str]]]:
    """(metric, its value in each run), with the interval where there is one."""

    def shown(metrics: Mapping[str, float], name: str) -> str:
        if name not in metrics:
            return ""
        interval = f" [{metrics[f'{name}_low']:.4f}, {metrics[f'{name}_high']:.4f}]" if f"{name}_low" in metrics else ""
        return f"{metrics[name]:.4f}{interval}"

    return [(name, [shown(one, name) for one in measured]) for name in FIGURES if any(name in one for one in measured)]


def significant(ours: Path, theirs: Path, column: str, resamples: int, seed: int) -> bool | None:
    """Does the 95 % interval of the paired difference in `log_loss` or `accuracy` exclude 0?

    The files are evaluation/test.csv of two runs; None where they were not tested on the same photographs.
    """
    one, two = (_read(path, column) for path in (ours, theirs))
    if not one or one.keys() != two.keys():
        return None
    low, high = paired_interval(np.array([one[name] - two[name] for name in one]), resamples, seed)
    return low > 0 or high < 0


def _read(path: Path, column: str) -> dict[str, float]:
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if column == "accuracy":
        return {row["hash"]: float(row["class"] == row["predicted"]) for row in rows}
    return {row["hash"]: float(row[column]) for row in rows}

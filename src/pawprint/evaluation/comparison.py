"""Runs side by side on a terminal: parameters that differ first, then the figures.

for row in differences(params): ...
significant(ours, theirs, "log_loss")      # from two test.csv
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from pawprint.evaluation import intervals
from pawprint.evaluation.metrics import Scores, discordant, paired_losses

FIGURES = (
    "test_accuracy", "test_served_accuracy", "test_coverage", "test_unlike", "test_unsure", "folds_accuracy",
    "test_log_loss", "folds_log_loss", "test_top5", "test_auroc", "test_calibration_error", "test_worst_slice",
    "test_robustness_loss", "strangers_accepted", "drawn_shapes_accepted", "latency_p50_ms", "size_mb", "seconds",
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


def significant(ours: Path, theirs: Path, column: str) -> bool | None:
    """Does the 95 % interval of the paired difference in `log_loss` or `accuracy` exclude 0?

    The files are evaluation/test.csv of two runs; None where they were not tested on the same photographs.
    """
    one, two = (Scores.load(path) for path in (ours, theirs))
    if not one.hashes or one.hashes != two.hashes:
        return None
    counts = discordant(one, two)
    low, high = (
        paired_losses(one, two) if column == "log_loss" else intervals.paired_proportions(*counts, len(one.hashes))
    )
    return low > 0 or high < 0

"""Champion and challenger on live traffic: agreement, refusals, latency, and accuracy where there is feedback.

    for one in compare(log, champion_digest, since=0): print(one.sentence())

In the shadow both have answered the same pictures, so the tests are paired (exact McNemar); as a canary each picture
has one answer, so they are not (Fisher's exact test on right and wrong).
"""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from pawprint.config import UNKNOWN
from pawprint.serving import traffic


@dataclass(frozen=True)
class Beside:
    """A challenger beside the champion."""

    version: str
    digest: str
    mode: str  # shadow or canary
    answers: int
    agreement: float | None  # share of equal answers; None for a canary
    refused: tuple[float, float]  # share of its answers, and of the champion's
    milliseconds: tuple[float, float]  # medians
    judged: tuple[int, int]  # answers with feedback
    right: tuple[int, int]  # of these
    p: float | None  # of equal accuracy; None where there is too little to say

    def figures(self) -> dict[str, float]:
        """Its numbers, by names that MLflow accepts."""
        name = f"{self.mode}_{self.version or '0'}"
        found = {f"{name}/answers": float(self.answers), f"{name}/refused": self.refused[0],
                 f"{name}/milliseconds": self.milliseconds[0]}  # fmt: skip
        if self.agreement is not None:
            found[f"{name}/agreement"] = self.agreement
        if self.judged[0]:
            found[f"{name}/feedback_accuracy"] = self.right[0] / self.judged[0]
        return found

    def sentence(self) -> str:
        """For a person."""
        agrees = f", {self.agreement:.1%} as the champion" if self.agreement is not None else ""
        said = (
            f"{self.mode} version {self.version or '0'}: {self.answers:,} answers{agrees}; refused "
            f"{self.refused[0]:.1%} (champion {self.refused[1]:.1%}), {self.milliseconds[0]:.1f} ms "
            f"({self.milliseconds[1]:.1f})"
        )
        if not all(self.judged):
            return f"{said}; too little feedback to compare how often they are right."
        rights = [f"{right} of {judged}" for right, judged in zip(self.right, self.judged, strict=True)]
        tested = "paired" if self.mode == "shadow" else "unpaired"
        return f"{said}; right {' (champion '.join(rights)}), {tested} p = {self.p:.3f}."


def compare(log: Path, champion: str, since: float = 0) -> list[Beside]:
    """Each challenger that answered beside the champion with this digest."""
    pairs, others = traffic.beside(log, champion, since)
    found = []
    by_model = defaultdict(list)
    for row in pairs:
        by_model[row["digest"]].append(row)
    for digest, rows in by_model.items():
        judged = [row for row in rows if row["right_label"] is not None]
        its = [row["label"] == row["right_label"] for row in judged]
        champions = [row["champion_label"] == row["right_label"] for row in judged]
        better = sum(one and not other for one, other in zip(its, champions, strict=True))
        worse = sum(other and not one for one, other in zip(its, champions, strict=True))
        found.append(Beside(
            version=rows[0]["version"], digest=digest, mode="shadow", answers=len(rows),
            agreement=sum(row["label"] == row["champion_label"] for row in rows) / len(rows),
            refused=(_refused([r["label"] for r in rows]), _refused([r["champion_label"] for r in rows])),
            milliseconds=(median(r["milliseconds"] for r in rows), median(r["champion_milliseconds"] for r in rows)),
            judged=(len(judged), len(judged)), right=(sum(its), sum(champions)),
            p=_mcnemar(better, worse) if judged else None,
        ))  # fmt: skip
    served, _ = traffic.read(log, champion, since)
    of_canary = defaultdict(list)
    for row in others:
        of_canary[row["digest"]].append(row)
    for digest, rows in of_canary.items():
        first = [row for row in served if row["right_label"] is not None]
        second = [row for row in rows if row["right_label"] is not None]
        right = (
            sum(r["label"] == r["right_label"] for r in second),
            sum(r["label"] == r["right_label"] for r in first),
        )
        found.append(Beside(
            version=rows[0]["version"], digest=digest, mode="canary", answers=len(rows), agreement=None,
            refused=(_refused([r["label"] for r in rows]), _refused([r["label"] for r in served])),
            milliseconds=(median(r["milliseconds"] for r in rows), median(r["milliseconds"] for r in served)),
            judged=(len(second), len(first)), right=right,
            p=_fisher(right, (len(second), len(first))) if first and second else None,
        ))  # fmt: skip
    return found


def _refused(labels: list[str]) -> float:
    return labels.count(UNKNOWN) / len(labels)


def _mcnemar(better: int, worse: int) -> float:
    from scipy.stats import binomtest  # here: the service itself has no scipy

    return float(binomtest(better, better + worse).pvalue) if better + worse else 1.0


def _fisher(right: tuple[int, int], judged: tuple[int, int]) -> float:
    from scipy.stats import fisher_exact

    table = [[one, all_ - one] for one, all_ in zip(right, judged, strict=True)]
    return float(fisher_exact(table).pvalue)

"""Champion and challenger on live traffic: agreement, refusals, latency, and accuracy where there is feedback.

    for one in compare(*traffic.beside(log, champion_digest), traffic.read(log, champion_digest, 0)[0]):
        print(one.sentence())

In the shadow both have answered the same pictures, so the tests are paired (exact McNemar); as a canary each picture
has one answer, so they are not (Fisher's exact test).
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Protocol

from scipy import special

from pawprint.config import UNKNOWN


class Row(Protocol):
    """An answer in the traffic log, as `serving.traffic` reads it."""

    def __getitem__(self, column: str, /) -> Any: ...


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
    p: float | None  # of equal accuracy, two-sided; None where there is too little to say
    p_refused: float  # of equal shares of refused answers, two-sided

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


def compare(pairs: Sequence[Row], others: Sequence[Row], served: Sequence[Row]) -> list[Beside]:
    """Each challenger that answered beside a champion.

    Args:
        pairs: answers in the shadow, each with the champion's, as `traffic.beside` gives them.
        others: answers of other models to clients, from there too.
        served: the champion's answers to clients, as `traffic.read` gives them.
    """
    return [
        *(_shadow(digest, rows) for digest, rows in _by_model(pairs).items()),
        *(_canary(digest, rows, served) for digest, rows in _by_model(others).items()),
    ]


def _by_model(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        found[row["digest"]].append(row)
    return found


def _shadow(digest: str, rows: list[Row]) -> Beside:
    judged = [row for row in rows if row["right_label"] is not None]
    its = [row["label"] == row["right_label"] for row in judged]
    champions = [row["champion_label"] == row["right_label"] for row in judged]
    refused = [row["label"] == UNKNOWN for row in rows], [row["champion_label"] == UNKNOWN for row in rows]
    return Beside(
        version=rows[0]["version"], digest=digest, mode="shadow", answers=len(rows),
        agreement=sum(row["label"] == row["champion_label"] for row in rows) / len(rows),
        refused=(sum(refused[0]) / len(rows), sum(refused[1]) / len(rows)),
        milliseconds=(_median(rows), _median(rows, "champion_milliseconds")),
        judged=(len(judged), len(judged)), right=(sum(its), sum(champions)),
        p=_paired(its, champions) if judged else None, p_refused=_paired(*refused),
    )  # fmt: skip


def _canary(digest: str, rows: list[Row], served: Sequence[Row]) -> Beside:
    both = rows, served
    judged = [[row for row in of if row["right_label"] is not None] for of in both]
    right = [sum(row["label"] == row["right_label"] for row in of) for of in judged]
    refused = [sum(row["label"] == UNKNOWN for row in of) for of in both]
    return Beside(
        version=rows[0]["version"], digest=digest, mode="canary", answers=len(rows), agreement=None,
        refused=(refused[0] / len(rows), refused[1] / max(1, len(served))),
        milliseconds=(_median(rows), _median(served)),
        judged=(len(judged[0]), len(judged[1])), right=(right[0], right[1]),
        p=_fisher(right, [len(of) for of in judged]) if all(judged) else None,
        p_refused=_fisher(refused, [len(of) for of in both]),
    )  # fmt: skip


def _median(rows: Sequence[Row], column: str = "milliseconds") -> float:
    return median([float(row[column]) for row in rows] or [0.0])


def mcnemar(better: int, worse: int) -> float:
    """The exact test's two-sided p, from the numbers of pairs that only one of the two gets right."""
    return float(min(1.0, 2 * special.bdtr(min(better, worse), better + worse, 0.5)))  # the binomial is symmetrical


def _paired(ours: Sequence[bool], theirs: Sequence[bool]) -> float:
    only = [
        sum(one and not other for one, other in zip(*both, strict=True)) for both in ((ours, theirs), (theirs, ours))
    ]
    return mcnemar(*only)


def _fisher(counts: Sequence[int], totals: Sequence[int]) -> float:
    from scipy.stats import fisher_exact  # takes a second to import

    return float(fisher_exact([[one, all_ - one] for one, all_ in zip(counts, totals, strict=True)]).pvalue)

"""How often each rule of the gate errs, by simulation: equal models, and models that are just too bad.

    python benchmarks/gate_levels.py                     # 2,000 test sides of 60, 100 and 810 photographs

A test side is a draw from a population of photographs with the confidences of two models. "equal": each is as good as
the other, photograph by photograph. "surer": the same mean log loss, but one is surer and pays for it in its few
mistakes, so that a test side without a mistake makes it look better. A rule should err on 2.5 % at most.
"""

import argparse
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.optimize import brentq

from pawprint.config import Gate
from pawprint.evaluation import intervals, slices
from pawprint.evaluation.metrics import Scores, paired_losses

SIZES, REPEATS = (60, 100, 810), 2000
POPULATION = 200_000
Margins = NDArray[np.float64]  # log-odds of the right class


def populations(rng: np.random.Generator) -> dict[str, tuple[Margins, Margins]]:
    """Pairs of models, about 98 to 99 % right."""
    base = rng.normal(5, 2.2, POPULATION)
    one, other = base + rng.normal(0, 1, POPULATION), base + rng.normal(0, 1, POPULATION)
    swap = rng.random(POPULATION) < 0.5

    def loss(scale: float) -> float:
        return float(np.logaddexp(0, -scale * base).mean())

    surer = 3.5
    softer = float(brentq(lambda scale: loss(scale) - loss(surer), 0.2, 2.0))
    return {
        "equal": (np.where(swap, one, other), np.where(swap, other, one)),
        "surer": (surer * base, softer * base),
    }


def scores(margins: Margins) -> Scores:
    """Two classes in turn, each photograph answered with this log-odds for the right one."""
    n = len(margins)
    labels, right = np.arange(n) % 2, 1 / (1 + np.exp(-margins))
    probabilities = np.where(np.arange(2) == labels[:, None], right[:, None], 1 - right[:, None])
    names = tuple(str(index) for index in range(n))
    return Scores(names, names, labels, probabilities, ("cat", "dog"), np.ones(n))


def rates(n: int, repeats: int, seed: int) -> Mapping[str, float]:
    """Share of the test sides of `n` photographs on which each rule errs."""
    rng, errs = np.random.default_rng((seed, n)), dict[str, list[bool]]()
    for name, (first, second) in populations(rng).items():
        truth = float(np.logaddexp(0, -first).mean())
        for _ in range(repeats):
            drawn = rng.integers(0, POPULATION, n)
            ours, theirs = scores(first[drawn]), scores(second[drawn])
            low, high = paired_losses(ours, theirs)
            errs.setdefault(f"log loss better, {name}", []).append(low > 0)
            errs.setdefault(f"log loss worse, {name}", []).append(high < 0)
            low, high = intervals.mean(ours.losses, float(ours.mistake_losses.mean()))
            errs.setdefault(f"log loss above its interval, {name}", []).append(high < truth)
            errs.setdefault(f"log loss below its interval, {name}", []).append(low > truth)
    allowed = Gate().max_accuracy_loss
    for _ in range(repeats):
        # Mistakes of a model that is worse by just what is allowed: 1 % each by itself, and the rest.
        alone, other_alone = rng.multinomial(n, [0.01, 0.01 + allowed, 0.98 - allowed])[:2]
        low, _ = intervals.paired_proportions(int(alone), int(other_alone), n)
        errs.setdefault("accuracy not worse, though it is", []).append(low >= -allowed)
        words = {"trait": rng.integers(0, 37, n).astype(str).tolist()}
        ours, theirs = (scores(np.where(rng.random(n) < 0.05, -1.0, 4.0)) for _ in range(2))
        both = [slices.slices(one, words, least=1) for one in (ours, theirs)]
        errs.setdefault("a slice of 37 shown to be worse", []).append(bool(slices.worse(*both)))
        errs.setdefault("a slice of 37 below its accuracy", []).append(slices.upper_end(both[0]) < 0.95)
    return {name: float(np.mean(found)) for name, found in errs.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=REPEATS)
    arguments = parser.parse_args()
    found = {n: rates(n, arguments.repeats, seed=2017) for n in SIZES}
    table = Table(title=f"share of {arguments.repeats:,} test sides on which a rule errs", title_justify="left")
    for column in ("rule", *(f"n = {n}" for n in SIZES)):
        table.add_column(column)
    for rule in found[SIZES[0]]:
        table.add_row(rule, *(f"{100 * found[n][rule]:.1f} %" for n in SIZES))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()

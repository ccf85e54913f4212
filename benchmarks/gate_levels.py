"""How often each rule of the gate errs, by simulation: equal models, and models that are just too bad.

    python benchmarks/gate_levels.py                     # 4,000 test sides of 60, 100 and 810 photographs

A test side is a draw from a population of photographs with the confidences of two models. "equal": each is as good as
the other, photograph by photograph. "surer": the same mean log loss, but one is surer and pays for it in its few
mistakes, so that a test side without a mistake makes it look better. A rule should err in 2.5 %, within 1 %, for equal
models, and in no more for any others; 4,000 draws know a rate of 2.5 % to 0.25 %.
"""

import argparse
import functools
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.optimize import brentq, minimize_scalar

from pawprint.config import Gate
from pawprint.evaluation import intervals, slices
from pawprint.evaluation.metrics import Scores, paired_losses

SIZES, REPEATS = (60, 100, 810), 4000
POPULATION = 200_000
draw_halves = intervals._halves
Margins = NDArray[np.float64]  # log-odds of the right class


def populations(rng: np.random.Generator) -> dict[str, tuple[Margins, Margins]]:
    """Pairs of models, by the share that they get wrong."""
    found = {}
    for words, centre, spread, surer in (("1 to 2 % wrong", 5.0, 2.2, 3.5), ("9 to 10 % wrong", 2.0, 1.5, 2.0)):
        base = rng.normal(centre, spread, POPULATION)
        noise = spread / 2.2

        def loss(scale: float, base: Margins = base) -> float:
            return float(np.logaddexp(0, -scale * base).mean())

        best = float(minimize_scalar(loss, bounds=(0.05, surer), method="bounded").x)
        softer = float(brentq(lambda scale, of=loss, to=surer: of(scale) - of(to), 0.01, best))
        found[f"equal, {words}"] = base + rng.normal(0, noise, POPULATION), base + rng.normal(0, noise, POPULATION)
        found[f"surer, {words}"] = surer * base, softer * base
    return found


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
    intervals._halves = functools.cache(lambda n: list(draw_halves(n)))  # the same for each test side
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

"""How often each rule of the gate errs, by simulation: equal models, and models that are just too bad.

    python benchmarks/gate_levels.py                     # 4,000 test sides of 60, 100 and 810 photographs

A test side is a draw from a population of photographs with the confidences of two models. "equal": each is as good as
the other, photograph by photograph. "surer": the same mean log loss, but one is surer and pays for it in its few
mistakes, so that a test side without a mistake makes it look better. A rule should err in 2.5 %, within 1 %, for equal
models, and in no more for any others; 4,000 draws know a rate of 2.5 % to 0.25 %.
"""

import argparse
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
CHECKED = 20  # test sides of each population on which the gate's own function is asked too
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


def losses_compared(ours: Margins, theirs: Margins) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether the gate calls us better, and whether worse, on each of many test sides [repeats, n].

    All at once, because the gate's own function takes 60 ms; on the first ones the two are compared.
    """
    repeats, n = ours.shape
    doubt = (np.logaddexp(0, theirs) - np.logaddexp(0, ours)).mean(axis=1)
    differences = np.logaddexp(0, -theirs) - np.logaddexp(0, -ours)
    values = np.column_stack([differences, 2 / 3 * doubt])
    around = values - values.mean(axis=1, keepdims=True)
    shift = (around**3).sum(axis=1) / (around**2).sum(axis=1) * (1 + 2 * 1.96**2) / (6 * (n + 1))
    starts = np.unique(np.linspace(0, n + 1, intervals.BLOCKS, endpoint=False).astype(int))
    values = np.add.reduceat(values, starts, axis=1).astype(np.float32)
    halves = np.concatenate([half.astype(np.float32) for half in intervals._halves(len(starts))])
    halves = halves[halves.any(axis=1)]
    sizes = halves @ np.diff(np.append(starts, n + 1)).astype(np.float32)
    place = round(intervals.ERROR * (len(halves) + 1))
    better, worse = np.empty(repeats, bool), np.empty(repeats, bool)
    for some in np.array_split(np.arange(repeats), max(1, repeats // 500)):
        sums = halves @ values[some].T
        better[some] = (sums + np.outer(sizes, np.minimum(shift[some], 0)) <= 0).sum(axis=0) < place
        worse[some] = (sums + np.outer(sizes, np.maximum(shift[some], 0)) >= 0).sum(axis=0) < place
    for side in range(min(CHECKED, repeats)):
        low, high = paired_losses(scores(ours[side]), scores(theirs[side]))
        assert (low > 0, high < 0) == (better[side], worse[side])
    return better, worse


def rates(n: int, repeats: int, seed: int) -> Mapping[str, float]:
    """Share of the test sides of `n` photographs on which each rule errs."""
    rng, errs = np.random.default_rng((seed, n)), dict[str, NDArray[np.bool_]]()
    for name, (first, second) in populations(rng).items():
        truth = float(np.logaddexp(0, -first).mean())
        drawn = rng.integers(0, POPULATION, (repeats, n))
        errs[f"log loss better, {name}"], errs[f"log loss worse, {name}"] = losses_compared(first[drawn], second[drawn])
        sides = (scores(margins) for margins in first[drawn])
        ends = np.array([intervals.mean(one.losses, float(one.mistake_losses.mean())) for one in sides])
        errs[f"log loss above its interval, {name}"] = ends[:, 1] < truth
        errs[f"log loss below its interval, {name}"] = ends[:, 0] > truth
    # Mistakes of a model that is worse by just what is allowed: 1 % each by itself, and the rest.
    allowed = Gate().max_accuracy_loss
    mistakes = rng.multinomial(n, [0.01, 0.01 + allowed, 0.98 - allowed], repeats)
    ends = np.array([intervals.paired_proportions(int(one), int(other), n)[0] for one, other, _ in mistakes])
    errs["accuracy not worse, though it is"] = ends >= -allowed
    shown, below = [], []
    for _ in range(max(1, repeats // 4)):
        words = {"trait": rng.integers(0, 37, n).astype(str).tolist()}
        ours, theirs = (scores(np.where(rng.random(n) < 0.05, -1.0, 4.0)) for _ in range(2))
        both = [slices.slices(one, words, least=1) for one in (ours, theirs)]
        shown.append(bool(slices.worse(*both)))
        below.append(slices.upper_end(both[0]) < 0.95)
    errs["a slice of 37 shown to be worse"], errs["a slice of 37 below its accuracy"] = np.array(shown), np.array(below)
    return {name: float(found.mean()) for name, found in errs.items()}


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

"""How often the gate promotes a head as much better as `efficientnet_lite2` is, and one that is not, by simulation.

    python benchmarks/gate_power.py                                       # a population with the measured figures
    python benchmarks/gate_power.py --folds lite0/folds.csv lite2/folds.csv        # or one of real predictions

Each draw is a data set: 5,396 photographs with predictions of two recipes out of the fold, of which 810 are the test
split. As the gate does: log loss better and accuracy not worse out of the fold, and on the test split neither shown to
be worse, nor a slice of it. "gain" is the measured pair. The others are challengers that are not better, so that their
promotion is false: "equal" has the same predictions, swapped photograph by photograph at random; "surer" has the same
mean log loss and the same mistakes, but is so many times as sure as is best for it, and pays for that in its mistakes.

Without --folds the population is a fit to what benchmarks/folds.py has measured on 5,396 photographs: mistakes 0.70 and
0.65 %, log losses 0.0263 and 0.0203, a standard error of 0.0023 of their difference, 0.3 % wrong for both.
"""

import argparse
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.optimize import brentq, minimize, minimize_scalar

from gate_levels import Margins, losses_compared, scores
from pawprint.config import Gate
from pawprint.evaluation import intervals, slices
from pawprint.evaluation.metrics import Scores

PHOTOGRAPHS, TESTED, SLICES = 5396, 810, 12
POPULATION, REPEATS, AT_ONCE = 200_000, 4000, 250
MEASURED = np.array([0.0070, 0.0065, 0.0263, 0.0203, 0.0023 * PHOTOGRAPHS**0.5])
Pair = tuple[Margins, Margins]


def loss(margins: Margins) -> Margins:
    return np.asarray(np.logaddexp(0, -margins))


def figures(first: Margins, second: Margins) -> Margins:
    """Mistakes and log losses of both, and the standard deviation of the difference of losses."""
    both = (first < 0).mean(), (second < 0).mean(), loss(first).mean(), loss(second).mean()
    return np.array([*both, (loss(first) - loss(second)).std()])


def fitted(rng: np.random.Generator) -> Pair:
    """A population with the figures MEASURED: log-odds of the right class with a common part, 0.3 % wrong labels."""
    common, *own = rng.normal(0, 1, (3, POPULATION))
    mislabelled = rng.random(POPULATION) < 0.003
    doubt = np.abs(rng.normal(0, 1, POPULATION))

    def pair(values: Margins) -> Pair:
        centre, spread, noise, better, *costs = values
        margins = [centre + shift + spread * common + noise * one for shift, one in zip((0, better), own, strict=True)]
        of_wrong = (-cost * doubt + noise * one for cost, one in zip(costs, own, strict=True))
        first, second = (np.where(mislabelled, *both) for both in zip(of_wrong, margins, strict=True))
        return first, second

    def misfit(values: Margins) -> float:
        return float((((figures(*pair(values)) - MEASURED) / MEASURED) ** 2).sum())

    start = np.array([8.0, 2.8, 1.0, 0.1, 4.0, 3.0])
    return pair(minimize(misfit, start, method="Nelder-Mead", options={"maxiter": 400, "fatol": 1e-7}).x)


def margins_of(found: Scores) -> Margins:
    """Log-odds of the right class against all others."""
    right = np.clip(found.probabilities[np.arange(len(found.labels)), found.labels], 1e-15, 1 - 1e-15)
    return np.asarray(np.log(right / (1 - right)))


def surer_than(margins: Margins, times: float) -> Pair:
    """The same model `times` as sure as is best, and so much less sure that the mean log loss is the same."""

    def mean(scale: float) -> float:
        return float(loss(scale * margins).mean())

    best = float(minimize_scalar(mean, bounds=(0.05, 3), method="bounded").x)
    surer = times * best
    return float(brentq(lambda scale: mean(scale) - mean(surer), 0.001, best)) * margins, surer * margins


def promoted(pair: Pair, repeats: int, rng: np.random.Generator, n: int, equal: bool) -> tuple[int, int]:
    """In how many of the draws the second of a pair is promoted over the first, and in how many its log loss is shown
    to be better on the test split alone; `equal` ones are swapped anew each time, photograph by photograph."""
    found = [_promoted(pair, min(AT_ONCE, repeats - done), rng, n, equal) for done in range(0, repeats, AT_ONCE)]
    return sum(one for one, _ in found), sum(alone for _, alone in found)


def _promoted(pair: Pair, repeats: int, rng: np.random.Generator, n: int, equal: bool) -> tuple[int, int]:
    drawn = rng.integers(0, len(pair[0]), (repeats, n))
    theirs, ours = (one[drawn] for one in pair)
    if equal:
        swap = rng.random(drawn.shape) < 0.5
        theirs, ours = np.where(swap, ours, theirs), np.where(swap, theirs, ours)
    passed, _ = losses_compared(ours, theirs)
    alone, worse = losses_compared(ours[:, :TESTED], theirs[:, :TESTED])
    passed &= ~worse
    for draw in np.flatnonzero(passed):
        right, before = ours[draw] > 0, theirs[draw] > 0
        counts = int((right & ~before).sum()), int((before & ~right).sum())
        low, _ = intervals.paired_proportions(*counts, n)
        tested = scores(ours[draw, :TESTED]), scores(theirs[draw, :TESTED])
        counts = int((right & ~before)[:TESTED].sum()), int((before & ~right)[:TESTED].sum())
        _, high = intervals.paired_proportions(*counts, TESTED)
        words = {"trait": rng.integers(0, SLICES, TESTED).astype(str).tolist()}
        weaker = slices.worse(*(slices.slices(one, words, least=1) for one in tested))
        passed[draw] = low >= -Gate().max_accuracy_loss and high >= 0 and not weaker
    return int(passed.sum()), int(alone.sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folds", type=Path, nargs=2, help="folds.csv of two model folders, on the same photographs")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    arguments = parser.parse_args()
    rng, n = np.random.default_rng(2017), PHOTOGRAPHS
    if arguments.folds:
        read = [found for path in arguments.folds if (found := Scores.out_of_fold(path))]
        shared = set(read[0].hashes) & set(read[1].hashes)
        first, second = (margins_of(one.only(shared)) for one in read)
        n = len(first)
    else:
        first, second = fitted(rng)
    pairs = {"gain": (first, second), "equal": (first, second)}
    pairs |= {f"surer, {times:g} times": surer_than(first, times) for times in (1.3, 1.6, 2.5)}
    table = Table(title=f"draws of {n:,} photographs", title_justify="left")
    for column in ("pair", "draws", "mistakes", "log loss", "standard error", "promoted", "on one test split"):
        table.add_column(column)
    for name, pair in pairs.items():
        wrong, wrong_too, one, other, spread = figures(*pair)
        repeats = arguments.repeats // (8 if name == "gain" else 1)  # most of these are promoted, which takes longer
        rates = [in_words(count, repeats) for count in promoted(pair, repeats, rng, n, name == "equal")]
        described = f"{wrong:.2%}, {wrong_too:.2%}", f"{one:.4f}, {other:.4f}", f"{spread / n**0.5:.4f}"
        table.add_row(name, f"{repeats:,}", *described, *rates)
    Console(width=130).print(table)


def in_words(count: int, total: int) -> str:
    low, high = intervals.proportion(count, total)
    return f"{count / total:.1%} [{low:.1%}, {high:.1%}]"


if __name__ == "__main__":
    main()

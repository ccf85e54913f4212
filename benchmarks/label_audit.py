"""How many of the known bad photographs are in the first 40 of the audit's list: by either score, and by both in turns.

    python benchmarks/label_audit.py prepared

`prepared` is of Kaggle's Dogs vs. Cats, all of it or its first photographs. BAD was put together by looking at the
first 104 of the audit's own list for 5,400 of them and at lists that others have published; it is not every bad one.
Prints one line for each strength of the regression and number of neighbours, and the seconds of each part.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pawprint.config import load_params
from pawprint.data.dataset import PreparedDataset
from pawprint.data.splits import SPLITS
from pawprint.evaluation import label_audit

ROOT = Path(__file__).parents[1]
BAD = {
    "dog.2614": "two stones and a coin", "dog.1043": "a house", "dog.1194": "a trailer", "dog.1259": "a cartoon",
    "dog.1773": "Einstein", "dog.3889": "a kart", "dog.1895": "photo coming soon", "dog.1308": "a drawing",
    "cat.3216": "no photo available", "cat.2939": "a drawing", "cat.2663": "a drawing", "dog.2842": "a poster",
    "dog.2877": "photo unavailable, and a cat",
}  # fmt: skip
FIRST = 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("prepared", type=Path)
    data = PreparedDataset.open(parser.parse_args().prepared)
    params = load_params(ROOT / "params.yaml")
    splits = [data.split(name) for name in SPLITS]
    started = time.perf_counter()
    features = label_audit.features_of(splits, params, len(data.classes))
    labels = np.concatenate([split.labels for split in splits])
    names = [Path(origin).stem for split in splits for origin in split.origins]
    bad = {names.index(name) for name in BAD if name in names}
    read = time.perf_counter() - started
    print(f"{len(names):,} photographs, {len(bad)} known bad ones; features read in {read:.1f} s")

    def found(order: NDArray[np.int64]) -> str:
        places = sorted(order.tolist().index(one) + 1 for one in bad)
        return f"{sum(place <= FIRST for place in places)} (last at {places[-1]:,})"

    for strength in (1.0, 0.1, 0.01, 0.001):
        started = time.perf_counter()
        probabilities = label_audit.out_of_fold(features, labels, params.seed, strength)
        regression = time.perf_counter() - started
        issues = np.argsort(probabilities[np.arange(len(labels)), labels], kind="stable")
        for neighbours in (1, 10, 30):
            started = time.perf_counter()
            outliers = np.argsort(-label_audit.outlier_score(features, neighbours), kind="stable")
            distances = time.perf_counter() - started
            both = np.array([index for index, _ in label_audit.interleave(issues, outliers, len(labels))])
            print(
                f"C {strength:g}, {neighbours:2} neighbours, in the first {FIRST}: label issues {found(issues)}, "
                f"outliers {found(outliers)}, in turns {found(both)}; {regression:.1f} s + {distances:.1f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()

"""Does `pawprint batch` cost anything beside the classifier itself? Both predict the same files, in turns.

    python benchmarks/batch.py --pictures FOLDER [--model champion] [--pairs 5] [--count 400]

Prints a table and writes benchmarks/results/.
"""

import argparse
import tempfile
import time
from pathlib import Path

from common import report
from pawprint import batch
from pawprint.inference.classifier import Classifier, find_pictures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=Path("champion"))
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--count", type=int, default=400)
    options = parser.parse_args()
    classifier = Classifier(options.model)
    files = find_pictures([options.pictures])[: options.count]
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch, "source")
        source.mkdir()
        for file in files:
            (source / file.name).write_bytes(file.read_bytes())
        files = find_pictures([source])
        alone, ours = [], []
        for pair in range(options.pairs + 1):  # the first is not counted: caches are cold
            started = time.perf_counter()
            for _ in classifier.classify_files(files):
                pass
            between = time.perf_counter()
            batch.run(str(source), str(Path(scratch, f"out{pair}")), classifier)
            if pair:
                alone.append(between - started)
                ours.append(time.perf_counter() - between)
    report("batch", "seconds", {"classifier alone": alone, "batch": ours}, base="classifier alone")


if __name__ == "__main__":
    main()

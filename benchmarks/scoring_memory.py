"""Peak memory of scoring by the number of classes, a process for each: a toy model, drawn photographs.

    python benchmarks/scoring_memory.py
    python benchmarks/scoring_memory.py --photographs 100000 --classes 2 100

"allowed" is 1.1 times the memory at the first number of classes, and the probabilities themselves.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1] / "tests"
# Each in a process that imports nothing else. The operating system counts the memory of the process that starts one as
# the new one's own, so this file imports neither NumPy nor pawprint.
MAKE = """
import sys
sys.path.insert(0, sys.argv[3])
from pathlib import Path
from toy import build_toy_model
build_toy_model(Path(sys.argv[1]), size=300, classes=int(sys.argv[2]))
"""
SCORE = """
import resource, sys
from pathlib import Path
import numpy as np
from pawprint.evaluation import metrics
from pawprint.inference.classifier import Classifier

class Drawn:
    origins = hashes = ("x",) * int(sys.argv[2])
    def __len__(self):
        return len(self.hashes)
    def images(self, part):
        return np.random.default_rng(part.start).integers(0, 255, (len(part), 300, 300, 3), np.uint8)
    def labels_among(self, classes):
        return np.arange(len(self)) % len(classes)

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

classifier = Classifier(Path(sys.argv[1]))
loaded = peak()
scores = metrics.score(classifier, Drawn())
scored = peak()
metrics.measure(scores)
print(loaded, scored, peak(), scores.probabilities.nbytes / 2**20)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photographs", type=int, default=11_375)
    parser.add_argument("--classes", type=int, nargs="+", default=[2, 1000])
    options = parser.parse_args()
    print(f"{options.photographs:,} photographs, MB (2**20 bytes)")
    print(f"{'classes':>8}{'loaded':>9}{'scored':>9}{'measured':>9}{'probabilities':>15}{'allowed':>9}")
    first = 0.0
    for classes in options.classes:
        with tempfile.TemporaryDirectory() as scratch:
            folder = f"{scratch}/model"
            subprocess.run([sys.executable, "-c", MAKE, folder, str(classes), str(TESTS)], check=True)
            command = [sys.executable, "-c", SCORE, folder, str(options.photographs)]
            found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        loaded, scored, measured, held = map(float, found.split())
        first = first or scored
        allowed = 1.1 * first + held
        print(f"{classes:>8}{loaded:>9.0f}{scored:>9.0f}{measured:>9.0f}{held:>15.0f}{allowed:>9.0f}")


if __name__ == "__main__":
    main()

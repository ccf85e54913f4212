"""Two first answers at once once stopped one process in six, for good (docs/decisions/no-batches.md)."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import os, signal, sys, threading
from pathlib import Path

import numpy as np

from pawprint.runtime import Classifier

stopped = 0
for _ in range(40):
    child = os.fork()
    if not child:
        signal.alarm(20)  # whoever is stopped is ended by this
        sys.setswitchinterval(1e-5)
        classifier = Classifier(Path(sys.argv[1]))
        meet = threading.Barrier(2)

        def answer():
            meet.wait()
            classifier.predict(np.zeros((1, 300, 300, 3), np.uint8))

        threads = [threading.Thread(target=answer) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        os._exit(0)
    stopped += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0
print(stopped)
"""


@pytest.mark.slow
def test_two_first_answers_at_once(toy_model: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, str(toy_model)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=True)
    assert done.stdout == "0\n"

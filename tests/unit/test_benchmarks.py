"""Every script of benchmarks/ can be imported and answers --help; mypy checks what it calls."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
NO_COMMANDS = {"common.py", "serving_load.py"}  # imported; a client that serving.py starts
SCRIPTS = sorted(path for path in (ROOT / "benchmarks").glob("*.py") if path.name not in NO_COMMANDS)
# All in one process: each by itself would import torch anew.
HELP = """
import contextlib, io, json, runpy, sys
sys.path.insert(0, "benchmarks")
ended = []
for path in sys.argv[1:]:
    sys.argv = [path, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        try:
            runpy.run_path(path, run_name="__main__")
        except BaseException as error:
            ended.append((path, repr(error), "usage: " in printed.getvalue()))
print(json.dumps(ended))
"""


def test_every_benchmark_answers_help() -> None:
    command = [sys.executable, "-c", HELP, *map(str, SCRIPTS)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [[str(path), "SystemExit(0)", True] for path in SCRIPTS]

#!/usr/bin/env bash
# Make .venv: torch as a line of its own, everything else from the lock with its hashes, then this project.
# TORCH=auto takes PyTorch's CPU build where there is no NVIDIA GPU (PyPI's Linux build brings gigabytes of CUDA).
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '%s\n' "setup: $*"; }
fail() { printf '%s\n' "error: $*" >&2; exit 1; }

PYTHON=${PYTHON:-python3.11}
TORCH=${TORCH:-auto}
CPU_INDEX=https://download.pytorch.org/whl/cpu

command -v "$PYTHON" >/dev/null || fail "$PYTHON is not installed. Install Python 3.11, or name it: make run PYTHON=/path/to/python3.11"
"$PYTHON" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || fail "$PYTHON is $("$PYTHON" -V 2>&1), the lock is for Python 3.11. Name another: make run PYTHON=/path/to/python3.11"
"$PYTHON" -c 'import venv, ensurepip' 2>/dev/null || fail "$PYTHON has no venv module. On Debian or Ubuntu: apt install python3.11-venv"

free=$(df -Pk . | awk 'NR==2 {print $4}')
[ "$free" -gt 4000000 ] || fail "only $((free / 1024)) MB free on this disk; the environment needs about 4 GB. Free some, then run again."

if [ "$TORCH" = auto ]; then
    if command -v nvidia-smi >/dev/null && nvidia-smi >/dev/null 2>&1; then TORCH=cuda; else TORCH=cpu; fi
fi
case $TORCH in cpu | cuda) ;; *) fail "TORCH=$TORCH is neither cpu nor cuda" ;; esac

say "environment in .venv (a few minutes, once)"
[ -x .venv/bin/python ] || "$PYTHON" -m venv .venv
pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }

torch=$(sed -nE 's/^ *"(torch==[^"]+)".*/\1/p' pyproject.toml)
index=()
if [ "$TORCH" = cpu ] && [ "$(uname -s)" = Linux ]; then
    if .venv/bin/python - "$CPU_INDEX/torch/" <<'PY' 2>/dev/null; then
import sys, urllib.request
urllib.request.urlopen(sys.argv[1], timeout=8).read(1)
PY
        index=(--index-url "$CPU_INDEX" --extra-index-url https://pypi.org/simple)
        torch="$torch+cpu"
    else
        say "PyTorch's CPU index does not answer; taking torch from pip's own sources"
    fi
fi
say "$torch"
pip install --quiet "${index[@]}" "$torch"
say "everything else from requirements.lock"
pip install --quiet --require-hashes --no-deps -r requirements.lock
pip install --quiet --no-deps --no-build-isolation -e .
# Telemetry off for every tool of this environment, also one typed by hand: the values of
# src/pawprint/telemetry.py, set at interpreter start. (Not an import of it: DVC's experiments run other copies.)
.venv/bin/python - <<'PY'
import sysconfig
from pathlib import Path
from pawprint.telemetry import OFF

line = f"import os; [os.environ.setdefault(name, value) for name, value in {OFF!r}.items()]\n"
Path(sysconfig.get_path("purelib"), "pawprint-telemetry.pth").write_text(line)
PY
touch .venv/.installed
say "done"

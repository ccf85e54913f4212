#!/usr/bin/env bash
# Make .venv by uv: torch and everything else from the locks with their hashes, then this project.
# uv is the machine's, else the pinned one from PyPI, in .venv. Packages come from wherever uv or pip is told to look: UV_*
# and PIP_* variables, pip's configuration. TORCH=auto takes the CPU's build of torch where there is no NVIDIA GPU
# (PyPI's build for Linux brings gigabytes of CUDA); TIMM=1 adds timm, DEV=1 what tests and checks need.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=${PATH//"$PWD/.venv/bin:"/} # the machine's Python and uv, not those that a set-up before has made

say() { printf '%s\n' "setup: $*"; }
fail() { printf '%s\n' "error: $*" >&2; exit 1; }
one_of_ours() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; }

PYTHON=${PYTHON:-}
ASKED=${TORCH:-auto} TORCH=${TORCH:-auto}
LOCK=requirements${DEV:+-dev}.lock
CPU_INDEX=https://download.pytorch.org/whl/cpu

free=$(df -Pk . | awk 'NR==2 {print $4}')
[ "$free" -gt 4000000 ] || fail "only $((free / 1024)) MB free on this disk; the environment needs about 4 GB. Free some, then run again."
if [ "$TORCH" = auto ]; then
    if command -v nvidia-smi >/dev/null && nvidia-smi >/dev/null 2>&1; then TORCH=cuda; else TORCH=cpu; fi
fi
case $TORCH in cpu | cuda) ;; *) fail "TORCH=$TORCH is neither cpu nor cuda" ;; esac

if [ -s .venv/.installed ] && [ "$(cat .venv/.installed)" != "$(cd .venv && pwd -P)" ]; then
    say "this project was moved or copied: its environment is made anew"
    rm -rf .venv
fi

# 1. Python
if [ -n "$PYTHON" ]; then
    command -v "$PYTHON" >/dev/null || fail "$PYTHON is not installed. Name a Python 3.11, 3.12 or 3.13: make setup PYTHON=/path/to/python3.11"
    one_of_ours "$PYTHON" || fail "$PYTHON is $("$PYTHON" -V 2>&1), the locks are for Python 3.11 to 3.13. Name another: make setup PYTHON=/path/to/python3.11"
else
    for name in .venv/bin/python python3.11 python3.12 python3.13 python3 python; do
        if one_of_ours "$name"; then PYTHON=$name && break; fi
    done
fi

# 2. uv
uv=uv
if ! uv --version >/dev/null 2>&1; then
    uv=.venv/bin/uv
    [ -n "$PYTHON" ] || fail "no Python 3.11 to 3.13 here. Install one, or uv, which brings its own."
    if ! "$uv" --version >/dev/null 2>&1; then
        "$PYTHON" -c 'import venv, ensurepip' 2>/dev/null || fail "$PYTHON has no venv module. On Debian or Ubuntu: apt install python3-venv"
        say "uv from PyPI"
        "$PYTHON" -m venv .venv
        .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r locks/uv.lock
    fi
fi
# the places that pip looks in, where uv is told of none; from which of them a file comes is all one: the hash decides
for name in "${PYTHON:-python3}" python3 python; do
    if pip=$("$name" -m pip config list 2>/dev/null); then break; fi
done
pip_option() { sed -nE "s/^[^=]*\.$1='(.*)'\$/\1/p" <<< "$pip" | head -1 | sed 's/\\n/ /g'; }
default=$(pip_option index-url) more=$(pip_option extra-index-url) links=$(pip_option find-links) cert=$(pip_option cert)
if [ -n "$default" ]; then export UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-$default}; fi
if [ -n "$more" ]; then export UV_INDEX=${UV_INDEX:-$more}; fi
if [ -n "$links" ]; then export UV_FIND_LINKS=${UV_FIND_LINKS:-${links// /,}}; fi
if [ -n "$cert" ]; then export SSL_CERT_FILE=${SSL_CERT_FILE:-$cert}; fi
export UV_INDEX_STRATEGY=unsafe-best-match UV_PYTHON_DOWNLOADS=automatic

# 3. the environment
say "environment in .venv"
[ -x .venv/bin/python ] || "$uv" venv --quiet --python "${PYTHON:-3.11}" .venv
export VIRTUAL_ENV=$PWD/.venv
# compiled now and not by the first process of each stage, and also where PYTHONDONTWRITEBYTECODE is set
install() { "$uv" pip install --quiet --compile-bytecode --no-deps --require-hashes -r "$LOCK" "$@"; }
there() { "$uv" pip install --quiet --dry-run --no-deps --require-hashes "$@" 2>/dev/null; }
if [ "$TORCH" = cuda ]; then
    install -r locks/torch-cuda.lock
elif there -r locks/torch-cpu.lock; then
    install -r locks/torch-cpu.lock
elif UV_HTTP_TIMEOUT=10 UV_HTTP_RETRIES=0 there -r locks/torch-cpu.lock --index "$CPU_INDEX"; then
    install -r locks/torch-cpu.lock --index "$CPU_INDEX"
else
    none="no CPU build of torch for $(.venv/bin/python -V) is at hand, and PyTorch's index does not answer"
    [ "$ASKED" = auto ] || fail "$none. TORCH=auto takes PyPI's build with CUDA then (3 GB)."
    say "$none: taking PyPI's build with CUDA (3 GB)"
    install -r locks/torch-cuda.lock
fi
if [ -n "${TIMM:-}" ]; then install -r locks/timm.lock; fi
"$uv" pip install --quiet --no-deps --no-build-isolation -e .

# For every tool of this environment, also one typed by hand: DVC's index where nobody else can write, and telemetry off
# by the values of src/pawprint/telemetry.py, set at interpreter start (not by importing it: DVC's experiments run copies).
.venv/bin/python - <<'PY'
import sysconfig
from pathlib import Path

from pawprint import dvc
from pawprint.telemetry import OFF

line = f"import os; [os.environ.setdefault(name, value) for name, value in {OFF!r}.items()]\n"
Path(sysconfig.get_path("purelib"), "pawprint-telemetry.pth").write_text(line)
dvc.keep_index_private(Path.cwd())
PY
(cd .venv && pwd -P) > .venv/.installed
if [ -n "${DEV:-}" ]; then touch .venv/.installed-dev; fi
if [ -n "${TIMM:-}" ]; then touch .venv/.installed-timm; fi
say "done"

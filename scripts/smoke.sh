#!/usr/bin/env bash
# The wheel on another Python: installation, imports, `pawprint init`, a run of the sample, one answer by `predict` and one by
# `serve`, from a clone of what is committed: scripts/smoke.sh python3.13
# The Python may also be one that pyenv keeps out of PATH, or that uv has or fetches. Where there is none, it says so and
# ends well. Without a CPU build of torch for it PyPI's build with CUDA is taken (docs/installation.md), but not with TORCH=cpu.
set -euo pipefail
cd "$(dirname "$0")/.."

python=$1 version=${1#python}
runs() { "$1" -V >/dev/null 2>&1; }
runs "$python" || python=$(pyenv prefix "$version" 2>/dev/null || true)/bin/python
runs "$python" || { uv python install --quiet "$version" && python=$(uv python find --managed-python "$version"); } 2>/dev/null ||
    { printf '%s\n' "smoke: not run on $1: it is not installed here, and uv cannot fetch it"; exit 0; }
work=$(mktemp -d)
serving=
trap '[ -z "$serving" ] || kill "$serving"; rm -rf "$work"' EXIT
export BENTOML_HOME="$work/bentoml" PREFECT_HOME="$work/prefect"
quietly() { "$@" > "$work/log" 2>&1 || { tail -30 "$work/log" >&2; printf '%s\n' "error: smoke: $* failed" >&2; exit 1; }; }
step() { printf '%s\n' "smoke: $* (${SECONDS} s)"; }

git clone --quiet . "$work/checkout"
cd "$work/checkout"
if ! make setup PYTHON="$python" > "$work/log" 2>&1 && grep -q "no CPU build" "$work/log"; then
    printf '%s\n' "smoke: not run on $1: no CPU build of torch for it is at hand; without TORCH=cpu PyPI's is taken (6 GB)"
    exit 0
fi
quietly make setup PYTHON="$python"
grep "no CPU build" "$work/log" || true
quietly make wheel
export PATH="$PWD/.venv/bin:$PATH" VIRTUAL_ENV="$PWD/.venv"
quietly uv pip install --no-deps --reinstall-package pawprint dist/*.whl
step "$(python -V), $(cd / && python -c 'import pawprint; print(pawprint.__file__.split("/")[-3])') has the wheel"

mkdir "$work/empty"
cd "$work/empty"
python - <<'PY'
import importlib
import pkgutil

import pawprint

for module in pkgutil.walk_packages(pawprint.__path__, "pawprint."):
    if module.name not in ("pawprint.serving.service",) and ".project" not in module.name:
        importlib.import_module(module.name)
PY
step "every module can be imported"
quietly pawprint init pets
cd pets
quietly pawprint run
answer=$(pawprint predict data/cat/000.jpg)
case $answer in
*": cat ("*) step "pawprint init, run and predict: $answer" ;;
*) printf '%s\n' "error: smoke: the sample's first cat is answered: $answer" >&2; exit 1 ;;
esac

port=$(python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
pawprint serve --port "$port" > "$work/log" 2>&1 &
serving=$!
answer=$(python - "$port" <<'PY'
import sys
import time
from pathlib import Path

import httpx

url, picture, began = f"http://127.0.0.1:{sys.argv[1]}/predict", Path("data/cat/000.jpg").read_bytes(), time.monotonic()
while True:
    try:
        print(httpx.post(url, content=picture, headers={"Content-Type": "application/octet-stream"}, timeout=10).json()["label"])
        break
    except httpx.HTTPError:
        if time.monotonic() - began > 60:
            raise
        time.sleep(0.2)
PY
) || { tail -30 "$work/log" >&2; exit 1; }
[ "$answer" = cat ] || { printf '%s\n' "error: smoke: the service answers $answer" >&2; exit 1; }
step "pawprint serve answers $answer"

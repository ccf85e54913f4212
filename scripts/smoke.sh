#!/usr/bin/env bash
# Installation, a run of the sample and one answer on another Python, in a clone of what is committed: scripts/smoke.sh python3.13
# Where that Python or a CPU build of torch for it is not at hand, it says so and ends well.
set -euo pipefail
cd "$(dirname "$0")/.."

python=$1
skip() { printf '%s\n' "smoke: not run on $python: $*"; exit 0; }
"$python" -V >/dev/null 2>&1 || skip "it is not installed here"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
git clone --quiet . "$work/pawprint"
cd "$work/pawprint"

if ! make setup PYTHON="$python" TORCH=cpu > "$work/setup.log" 2>&1; then
    if grep -q "no CPU build of torch" "$work/setup.log"; then skip "$(sed -n 's/^error: //p' "$work/setup.log")"; fi
    cat "$work/setup.log" >&2
    exit 1
fi
export PATH="$PWD/.venv/bin:$PATH" BENTOML_HOME="$work/bentoml" PREFECT_HOME="$work/prefect"
pawprint run > "$work/run.log" 2>&1 || { tail -30 "$work/run.log" >&2; exit 1; }
answer=$(pawprint predict data/cat/000.jpg)
case $answer in
*": cat ("*) printf '%s\n' "smoke: $(python -V), $answer" ;;
*) printf '%s\n' "error: the sample's first cat is answered: $answer" >&2; exit 1 ;;
esac

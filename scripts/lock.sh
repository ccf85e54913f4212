#!/usr/bin/env bash
# Write every lock from pyproject.toml, one version a name. requirements*.lock and locks/ are for Python 3.11 to 3.13 on
# Linux, macOS and Windows, deploy/ for the images. Locked versions stay where they still fit; --upgrade takes the newest.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH" # the pinned uv, where the machine has none

CPU_INDEX=https://download.pytorch.org/whl/cpu
torch=$(sed -nE 's/^ *"torch==([^"]+)".*/\1/p' pyproject.toml)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

compile() { # LOCK ARGUMENT...
    local lock=$1
    shift
    uv pip compile --quiet --python-version 3.11 --no-header --no-annotate --no-emit-index-url -o "$lock" "$@" || return
    printf '%s\n' "lock: $lock, $(grep -c '^[a-z]' "$lock") packages"
}
anywhere=(--universal --fork-strategy fewest --generate-hashes)
image=(--python-platform linux)

# PyPI's torch for Linux brings CUDA, in packages that the CPU's build does not ask for: they have a lock of their own.
cat requirements-dev.lock locks/torch-cuda.lock > "$work/all.lock"
compile "$work/all.lock" pyproject.toml --extra dev "${anywhere[@]}" "$@"
chosen=(--constraint "$work/all.lock")
mapfile -t names < <(grep -oE '^[a-z0-9._-]+' "$work/all.lock")
cuda=() rest=()
for name in "${names[@]}"; do
    case $name in
    nvidia-ml-py) rest+=(--no-emit-package "$name") ;; # BentoML's, without CUDA
    torch | torchvision | triton | cuda-* | nvidia-*) cuda+=(--no-emit-package "$name") ;;
    *) rest+=(--no-emit-package "$name") ;;
    esac
done

compile requirements-dev.lock pyproject.toml --extra dev "${anywhere[@]}" "${chosen[@]}" "${cuda[@]}"
compile requirements.lock pyproject.toml "${anywhere[@]}" "${chosen[@]}" "${cuda[@]}"
# timm is used without torchvision, whose build for the CPU is not on PyPI (docs/decisions/dependencies.md)
mapfile -t names < <(grep -oE '^[a-z0-9._-]+' requirements.lock)
compile locks/timm.lock pyproject.toml --extra timm "${anywhere[@]}" "${chosen[@]}" "${cuda[@]}" \
    "${names[@]/#/--no-emit-package=}"
compile deploy/requirements.lock pyproject.toml deploy/requirements.in "${image[@]}" "${chosen[@]}" "${cuda[@]}" \
    --generate-hashes
compile deploy/serve.lock --group serve "${image[@]}" "${chosen[@]}" --generate-hashes
echo "onnxruntime-gpu[cuda,cudnn]" | compile deploy/gpu.lock - "${image[@]}" "${chosen[@]}" --generate-hashes
echo "torch==$torch" | compile locks/torch-cuda.lock - "${anywhere[@]}" "${chosen[@]}" "${rest[@]}"
sed 's/^torch==/torch===/' locks/torch-cuda.lock > "$work/torch" # == would take the CPU's 2.13.0+cpu too, where there is one
cp "$work/torch" locks/torch-cuda.lock
echo uv | compile locks/uv.lock - "${anywhere[@]}" "$@"

# The CPU's build lies in PyTorch's own index, with hashes of its own; PyPI's builds for macOS and Windows are the CPU's.
printf '%s\n' "torch==$torch+cpu ; sys_platform == 'linux'" "torch==$torch ; sys_platform != 'linux'" > "$work/torch.in"
if compile "$work/torch-cpu.lock" "$work/torch.in" "${anywhere[@]}" --no-deps --index "$CPU_INDEX" \
    --index-strategy unsafe-best-match > "$work/said" 2>&1 && grep -A1 '+cpu' "$work/torch-cpu.lock" | grep -q hash; then
    mv "$work/torch-cpu.lock" locks/torch-cpu.lock
    echo "lock: locks/torch-cpu.lock"
elif grep -q "^torch==$torch+cpu " locks/torch-cpu.lock; then
    echo "lock: PyTorch's CPU index does not answer; locks/torch-cpu.lock stays as it is, for the same torch $torch"
else
    cat "$work/said" >&2
    echo "error: PyTorch's CPU index does not answer, and locks/torch-cpu.lock is of another torch than $torch" >&2
    exit 1
fi

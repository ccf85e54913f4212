"""Git commit + data hash + params + run + model digest as one record, carried by every model and answer.

record = lineage.read(root, dataset, manifest, params)   # before training
record.model_copy(update={"run_id": run_id})
"""

import csv
import hashlib
import subprocess
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict

from pawprint.errors import PawprintError
from pawprint.params import Params, digest


class Lineage(BaseModel):
    """Where a model comes from. Digests are SHA-256 in hex but `data_hash`, which is DVC's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    git_commit: str  # "" outside a git repository
    git_dirty: bool  # tracked files changed (dvc.lock, which every repro rewrites, does not count)
    dataset: str  # the data set's name
    data_hash: str  # what data.dvc names: md5 of the directory listing, ends in .dir
    manifest_digest: str  # of prepared/manifest.csv
    params_digest: str  # of the whole of params.yaml
    lock_digest: str  # of requirements.lock
    seed: int
    device: str  # "cpu bfloat16 AMD EPYC", "cuda NVIDIA H100 ..."
    run_id: str = ""  # the MLflow run that trained it


def sha256(path: Path) -> str:
    """SHA-256 of a file in hex, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def git_state(root: Path) -> tuple[str, bool]:
    """(commit, dirty). `("", False)` outside a repository or before the first commit."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    commit = git("rev-parse", "--verify", "HEAD")
    dirty = bool(commit and git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!dvc.lock"))
    return commit, dirty


def data_hash(root: Path) -> str:
    """The content hash that data.dvc names; PawprintError where there is no such file."""
    pointer = root / "data.dvc"
    try:
        return str(yaml.safe_load(pointer.read_text(encoding="utf-8"))["outs"][0]["md5"])
    except (OSError, KeyError, IndexError, TypeError, yaml.YAMLError):
        raise PawprintError(
            "data.dvc is missing or names no photographs. `git checkout data.dvc` brings the sample back; "
            "`make run PHOTOS=<zip or folder>` takes your own."
        ) from None


def read(root: Path, dataset: str, manifest: Path, params: Params, device: str) -> Lineage:
    """The record of a training that is about to start in the workspace `root`."""
    commit, dirty = git_state(root)
    return Lineage(
        git_commit=commit,
        git_dirty=dirty,
        dataset=dataset,
        data_hash=data_hash(root),
        manifest_digest=sha256(manifest),
        params_digest=digest(params),
        lock_digest=sha256(root / "requirements.lock"),
        seed=params.seed,
        device=device,
    )


def is_manifest(path: Path, record: Lineage) -> bool:
    """Is this the very manifest that the model of `record` was trained from?"""
    return path.is_file() and sha256(path) == record.manifest_digest


def learned(manifest: Path) -> frozenset[str]:
    """SHA-256 of the photographs that a training on `manifest` learns from or is tuned on."""
    with manifest.open(newline="", encoding="utf-8") as file:
        return frozenset(row["hash"] for row in csv.DictReader(file) if row["side"] in ("train", "validation"))


def claimed(folder: Path) -> frozenset[str]:
    """What photographs.txt in a model folder names; empty where it is missing."""
    try:
        return frozenset((folder / "photographs.txt").read_text(encoding="ascii").split())
    except (OSError, ValueError):
        return frozenset()

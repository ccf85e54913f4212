"""Git commit + data hash + params + run + model digest as one record, carried by every model and answer.

record = Lineage(git_commit=commit, data_hash=dvc.data_hash(root), ...)   # before training
record.model_copy(update={"run_id": run_id})
Release(**record.model_dump(), model="pawprint-sample", version="3", ...)   # when it is packaged
"""

import hashlib
import platform
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict

from pawprint.errors import PawprintError

RECORDS = ("dvc.lock", "metrics.json")  # what a run writes for git: they differ by machine and by run


class Pretrained(BaseModel):
    """Weights that a model's training started from."""

    model_config = ConfigDict(frozen=True)

    name: str
    sha256: str  # of their file
    licence: str  # as their source names it, e.g. apache-2.0
    source: str

    @property
    def concern(self) -> str:
        """What a person must know of the licence before the model is used; "" where there is nothing."""
        if re.search(r"(^|[-_ ])nc($|[-_ .])|non-?commercial|research", self.licence, re.IGNORECASE):
            return f"the licence of {self.name} ({self.licence}) does not allow commercial use"
        if self.licence.lower() in ("", "unknown", "other"):
            return f"the licence of {self.name} is not known: find out whether you may use it"
        return ""


class Lineage(BaseModel):
    """Where a model comes from. Digests are SHA-256 in hex but `data_hash`, which is DVC's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    git_commit: str  # "" where git tells none: no repository, no git, a checkout of another user
    git_dirty: bool  # tracked files changed (`RECORDS`, which each run writes, do not count), or no commit is known
    dataset: str  # the data set's name
    data_hash: str  # what data.dvc names: md5 of the directory listing, ends in .dir
    manifest_digest: str  # of what prepared/manifest.parquet says (data.manifest.digest)
    params_digest: str  # of the whole of params.yaml
    code_digest: str = ""  # of the code that the stage `train` depends on; "" in a record of before it was kept
    lock_digest: str  # of requirements.lock
    seed: int
    test_split: str = "drawn by content"  # or by group, or the source's own
    device: str  # "cpu float32 AMD EPYC, AVX2, 2 threads"
    execution: dict[str, str] = {}  # what was really executed: precision, instruction set, threads, engine versions
    pretrained: tuple[Pretrained, ...] = ()  # none in a model from scratch, and in a record of before 2027
    run_id: str = ""  # the MLflow run that trained it


class Release(Lineage):
    """What was packaged, and everything it was made from: lineage.json of a release."""

    model: str  # registered model
    version: str
    model_digest: str  # the identity that ModelInfo computes
    bento: str  # tag
    bento_digest: str  # of the Bento's files, as `folder_digest` counts them


class Champion(BaseModel):
    """champion.json: the registered version that the alias `champion` points at."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str  # registered model, e.g. pawprint-sample
    version: str
    run_id: str
    candidate: str
    model_digest: str
    dataset: str
    metrics: dict[str, float] = {}  # on the test photographs

    @classmethod
    def read(cls, folder: Path) -> Self:
        """champion.json of a folder; PawprintError where it is missing or damaged."""
        path = folder / "champion.json"
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValueError):
            raise PawprintError(f"{path} is missing or damaged. `make run` writes it again.") from None


def sha256(path: Path) -> str:
    """SHA-256 of a file in hex, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(files: Iterable[tuple[str, bytes]]) -> str:
    """SHA-256 in hex over names and contents, whatever order they come in."""
    whole = hashlib.sha256()
    for name, content in sorted(files):
        whole.update(f"\0{name}\0{len(content)}\0".encode())
        whole.update(content)
    return whole.hexdigest()


def folder_digest(folder: Path, without: Iterable[str] = ()) -> str:
    """Digest of all files of a folder but compiled Python and those whose path below it is in `without`."""
    found = ((path.relative_to(folder).as_posix(), path) for path in folder.rglob("*") if path.is_file())
    return digest_of((name, path.read_bytes()) for name, path in found if is_source(name) and name not in without)


def bento_digest(folder: Path) -> str:
    """Digest of a Bento in its store, but of bento.yaml, which holds the time of the build."""
    return folder_digest(folder, without=("bento.yaml",))


def processor() -> str:
    """Name of this machine's processor."""
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.*)", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.exists() else None
    return found[1] if found else platform.processor() or platform.machine()


def is_source(name: str) -> bool:
    """Is this file no compiled Python?"""
    return "__pycache__" not in name and not name.endswith(".pyc")


def git_state(root: Path) -> tuple[str, bool]:
    """(commit, dirty); `("", True)` where git tells no commit, for then nothing says what the code was."""
    commit = commit_of(root, "HEAD")
    others = [f":!{name}" for name in RECORDS]
    dirty = bool(git(root, "status", "--porcelain", "--untracked-files=no", "--", ".", *others))
    return commit, dirty or not commit


def uncommitted_record(root: Path) -> list[str]:
    """The files that tell of the last run and are in no commit yet as they are: what it used, and what it wrote."""
    status = git(root, "status", "--porcelain", "--", "data.dvc", "labels.csv", "params.yaml", *RECORDS).decode()
    return [line[3:] for line in status.splitlines()]


def why_no_commit(root: Path) -> str:
    """Why git tells no commit of this project, and what to do; "" where it does."""
    if commit_of(root, "HEAD"):
        return ""
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return "git is not installed. Install it, so that a model's record names the code that made it."
    if "dubious ownership" in done.stderr:
        remedy = f"Allow it: `git config --global --add safe.directory {root}`."
        return f"git refuses {root}, which belongs to another user. {remedy}"
    if "not a git repository" in done.stderr:
        return f"{root} is no git repository. `git init && git add -A && git commit -m start` makes it one."
    return "there is no commit yet. `git add -A && git commit -m start` makes one."


def why_unknown(root: Path, commit: str) -> str:
    """Why this repository does not have the commit that a record names."""
    if not commit:
        return "git told no commit"
    if git(root, "rev-parse", "--is-shallow-repository").strip() == b"true":
        return "not in this clone, which is shallow: `git fetch --unshallow`"
    return why_no_commit(root).removesuffix(".") or "not in this repository"


def commit_in_words(record: Lineage) -> str:
    """The commit for a person."""
    if not record.git_commit:
        return "none (git told no commit: the code is not proved)"
    return record.git_commit[:12] + (" (with uncommitted changes)" if record.git_dirty else "")


def commit_of(root: Path, word: str) -> str:
    """The full id of the commit that `word` names; "" where this repository has none."""
    return git(root, "rev-parse", "--verify", "--quiet", f"{word}^{{commit}}").decode().strip()


def at_commit(root: Path, commit: str, path: str) -> bytes:
    """A file as it was in a commit; empty where it was not there."""
    return git(root, "show", f"{commit}:./{path}")


def files_at(root: Path, commit: str, paths: Iterable[str]) -> list[str]:
    """The files of a commit that `paths`, files or folders, name or contain."""
    return git(root, "ls-tree", "-rz", "--name-only", commit, "--", *paths).decode().split("\0")[:-1]


def git(root: Path, *words: str) -> bytes:
    """The output of git; empty where it fails or is not there."""
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, check=False)
    except FileNotFoundError:
        return b""
    return done.stdout if done.returncode == 0 else b""


def claimed(folder: Path) -> frozenset[str]:
    """The hashes in photographs.txt of a model folder; empty where it is missing."""
    try:
        return frozenset((folder / "photographs.txt").read_text(encoding="ascii").split())
    except (OSError, ValueError):
        return frozenset()

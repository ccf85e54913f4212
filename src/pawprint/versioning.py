"""The few calls to DVC: add, pull, repro, push, status. All of them are the `dvc` of this environment.

versioning.pull(root, "data.dvc")
for line in versioning.repro(root): print(line)
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from pawprint.errors import PawprintError

SAMPLE_REMOTE = "sample"  # ships with the project: read from, never written to


def main_workspace(folder: Path) -> Path:
    """The workspace a person works in, also when `folder` is DVC's temporary copy for an experiment."""
    folder = folder.resolve()
    for parent in folder.parents:
        if parent.name == "exps" and parent.parent.name == "tmp" and parent.parent.parent.name == ".dvc":
            return parent.parents[2]
    return folder


def status(root: Path) -> dict[str, Any]:
    """What is stale, by stage; empty when `dvc repro` has nothing to do."""
    report: dict[str, Any] = json.loads(_dvc(root, "status", "--json"))
    return report


def add(root: Path, target: str = "data") -> None:
    """Version a folder of photographs: hashes it and writes `<target>.dvc`.

    The sample's pointer says that it comes from the remote `sample` and is never pushed. DVC carries that over to
    whatever is added in its place, hence `own`; a person's own photographs must go to the person's own remote.
    """
    _dvc(root, "add", target, show=True)
    own(root, target)


def own(root: Path, target: str = "data") -> None:
    """Make `<target>.dvc` forget the sample's remote: what lies in the sample's place is a person's own."""
    pointer = root / f"{target}.dvc"
    if not pointer.exists():
        return
    content = yaml.safe_load(pointer.read_text(encoding="utf-8"))
    for out in content["outs"]:
        out.pop("remote", None)
        out.pop("push", None)
    pointer.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def pull(root: Path, target: str = "data.dvc") -> None:
    """Bring what `target` names into the workspace; a bare pull would stop at outputs no remote has."""
    _dvc(root, "pull", target, show=True)


def pull_elsewhere(root: Path, worktree: Path, target: str = "data.dvc") -> None:
    """Bring what `target` names into a git worktree of `root`, from the cache and the remotes of `root`."""
    local = root / ".dvc" / "config.local"
    if local.exists():
        shutil.copy(local, worktree / ".dvc")
    cache = (root / _dvc(root, "cache", "dir").strip()).resolve()
    _dvc(worktree, "config", "--local", "cache.dir", str(cache))
    _dvc(worktree, "pull", target)


def commit(root: Path, *stages: str) -> None:
    """Take the outputs of `stages` as they now are in the workspace."""
    _dvc(root, "commit", "--force", *stages)


def default_remote(root: Path) -> str:
    """The name of DVC's default remote; empty where there is none."""
    return _dvc(root, "config", "core.remote", check=False).strip()


def remote(root: Path, name: str) -> dict[str, str]:
    """What DVC's configuration says of a remote: url, endpointurl, ..."""
    head = f"remote.{name}."
    lines = (line.partition("=") for line in _dvc(root, "config", "--list", check=False).splitlines())
    return {key.removeprefix(head): value for key, _, value in lines if key.startswith(head)}


def push(root: Path, remote: str | None = None) -> str:
    """Send data and outputs to a remote (the default one if none is named); returns the remote's name."""
    name = remote or default_remote(root)
    if not name:
        raise PawprintError(
            "DVC has no default remote to push to. Add your own: `dvc remote add --default --local NAME URL`."
        )
    if name == SAMPLE_REMOTE:
        raise PawprintError(
            "The remote `sample` ships with the project and holds the drawn sample only; nothing is pushed to it. "
            "Add your own: `dvc remote add --default --local NAME URL`."
        )
    _dvc(root, "push", "--remote", name, show=True)
    return name


def repro(root: Path, *arguments: str, environment: dict[str, str] | None = None) -> Iterator[str]:
    """Run the stale stages, giving DVC's and the stages' output line by line; PawprintError if one fails."""
    process = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", *arguments],
        cwd=root,
        env=_environment() | (environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        bufsize=1,
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            yield line.rstrip("\n")
        code = process.wait()
    finally:
        if process.poll() is None:  # the reader went away (cancelled, killed): the stage must not live on
            process.terminate()
            process.wait()
    if code != 0:
        raise PawprintError(
            "`dvc repro` stopped; the lines above say at which stage and why. Mend that and run it again: "
            "finished stages are not repeated."
        )


def _environment() -> dict[str, str]:
    # dvc.yaml says `python`: let it be this environment's, also where nobody has activated it.
    return os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}


def _dvc(root: Path, *words: str, check: bool = True, show: bool = False) -> str:
    """Run dvc; its standard output as text. `show` lets progress and messages through to the terminal."""
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *words],
        cwd=root,
        env=_environment(),
        stdout=subprocess.PIPE,
        stderr=None if show else subprocess.PIPE,
        text=True,
        check=False,
    )
    if check and done.returncode != 0:
        said = (done.stderr or "").strip() or "the lines above say why"
        raise PawprintError(f"`dvc {' '.join(words)}` failed: {said}")
    return done.stdout

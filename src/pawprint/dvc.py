"""DVC's commands (add, pull, repro, push, status) and what its files say. The `dvc` is the one of this environment.

with dvc.lock(root):                             # no other pipeline works here meanwhile
    dvc.pull(root, "data.dvc")
    for line in dvc.repro(root): print(line)
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil
import yaml
from filelock import FileLock

from pawprint import files, lineage, progress
from pawprint.errors import DISK_FULL, PawprintError

SAMPLE_REMOTE = "sample"  # ships with the project: read from, never written to
TEAM_REMOTE = "team"  # what `use_remote` calls the remote that the environment names
_MADE_BY_INIT = ".pawprint.json"  # a project whose code is the installed package
PATIENCE = 15.0  # seconds that DVC and its stage have to end by themselves when a run is stopped
BUSY = 2.0  # of these, that DVC may be busy with no stage running
LOCKFILE = "dvc.lock"
BEFORE = Path(".dvc") / "tmp" / "data.dvc.before"  # the pointer to the photographs that were replaced last
# `dvc` without its own messages: its stages inherit the file descriptor, not the Python object. Of errors the one that
# a stage failed is left out, because the stage has said why.
_QUIET = """
import logging, os, sys
sys.stdout = open(os.devnull, "w")
from dvc import progress
from dvc.cli import main
from dvc.stage.exceptions import StageCmdFailedError
from dvc_data import callbacks
transfers = []
def is_of_dvc(record):
    if record.getMessage().startswith("failed to transfer"):  # a line a file: the first says why
        transfers.append(record)
        if record is not transfers[0]:
            return False
    error = record.exc_info and record.exc_info[1]
    return record.levelno >= logging.ERROR and not isinstance(getattr(error, "__cause__", None), StageCmdFailedError)
for bars in (progress, callbacks):  # none between the stages' own lines
    bars.logger.setLevel(logging.CRITICAL)
for handler in logging.getLogger("dvc").handlers:
    handler.addFilter(is_of_dvc)
sys.exit(main(sys.argv[1:]))
"""

_held: dict[Path, FileLock] = {}  # the workspaces whose lock this process holds


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
    files.refuse_link(root / target)
    with progress.stage("version the photographs"):
        _dvc(root, "add", target)
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
    files.write_text(pointer, yaml.safe_dump(content, sort_keys=False))


def snapshot(root: Path, target: str = "data") -> bytes:
    """Version `target` as it is, before a command replaces it; `keep` and `undo` take what this gives.

    b"" where there is none yet, or no DVC.
    """
    pointer = root / f"{target}.dvc"
    if not (root / ".dvc").is_dir() or not (root / target).exists():
        return b""
    if not pointer.exists() or json.loads(_dvc(root, "status", "--json", pointer.name)):
        add(root, target)
    return pointer.read_bytes()


def keep(root: Path, version: bytes) -> None:
    """Remember the version of `snapshot`, which was replaced meanwhile, for `undo`."""
    if version:
        files.write_bytes(root / BEFORE, version)


def undo(root: Path, target: str = "data") -> None:
    """Bring back what `keep` remembers; a second call undoes that.

    Raises:
        PawprintError: Nothing is remembered, or DVC's cache no longer holds it.
    """
    if not (root / BEFORE).exists():
        raise PawprintError("There are no photographs of before: none were imported or corrected here.")
    before, now = (root / BEFORE).read_bytes(), snapshot(root, target)
    pointer = root / f"{target}.dvc"
    files.write_bytes(pointer, before)
    try:
        _dvc(root, "pull" if default_remote(root) and _missing(root, pointer) else "checkout", pointer.name)
    except PawprintError:
        gone = _missing(root, pointer)
        files.write_bytes(pointer, now)
        _dvc(root, "checkout", "--force", pointer.name)
        if not gone:
            raise
        raise PawprintError(
            f"The photographs of before cannot be brought back: DVC's cache (and the default remote, where there is "
            f"one) no longer has {gone}, as after `dvc gc`. {target}/ stays as it is. Import them again from where "
            "they came: `pawprint photos import SOURCE`."
        ) from None
    keep(root, now)


def _missing(root: Path, pointer: Path) -> str:
    """What of the folder that `pointer` names is not in DVC's cache, in words; "" where it has all."""
    kept = objects(root)
    listed = kept.get(yaml.safe_load(pointer.read_bytes())["outs"][0]["md5"])
    if listed is None:
        return "the list of their files"
    entries = json.loads(listed.read_bytes())
    names = [one["relpath"] for one in entries if one["md5"] not in kept]
    return f"{len(names):,} of {len(entries):,} files ({', '.join(names[:3])})" if names else ""


def data_hash(root: Path, commit: str = "") -> str:
    """The hash of the photographs that data.dvc names; with `commit` the data.dvc of that commit, "" without one.

    Raises:
        PawprintError: The workspace's data.dvc is missing or names no photographs.
    """
    try:
        pointer = lineage.at_commit(root, commit, "data.dvc") if commit else (root / "data.dvc").read_bytes()
        return str(yaml.safe_load(pointer)["outs"][0]["md5"])
    except (OSError, KeyError, IndexError, TypeError, yaml.YAMLError):
        if commit:
            return ""
        raise PawprintError(
            "data.dvc is missing or names no photographs. `dvc add data` versions what is in data/; without a data/, "
            "`make run PHOTOS=<zip or folder>` takes your own and `git checkout data.dvc` the sample."
        ) from None


def code_digest(root: Path, commit: str = "") -> str:
    """Digest of the code (src/, flows/) that the stage `train` depends on, in the workspace or in `commit`.

    "" where dvc.yaml names none.
    """
    try:
        pipeline = lineage.at_commit(root, commit, "dvc.yaml") if commit else (root / "dvc.yaml").read_bytes()
        deps = yaml.safe_load(pipeline)["stages"]["train"]["do"]["deps"]
    except (OSError, KeyError, TypeError, yaml.YAMLError):
        return ""
    code = [name for name in deps if name.startswith(("src/", "flows/"))]
    if not code:
        return ""
    if commit:
        names = lineage.files_at(root, commit, code)
        content = {name: lineage.at_commit(root, commit, name) for name in names}
        if not lineage.files_at(root, commit, [_MADE_BY_INIT]):
            return lineage.digest_of(content.items())
        code = [name for name in code if name.startswith("src/")]  # in no commit: the installed package's
    else:
        content = {}
    paths = [path for name in code for path in (root / name, *(root / name).rglob("*")) if path.is_file()]
    found = ((path.relative_to(root).as_posix(), path) for path in paths)
    content |= {name: path.read_bytes() for name, path in found if lineage.is_source(name)}
    return lineage.digest_of(content.items())


def pull(root: Path, target: str = "data.dvc") -> None:
    """Bring what `target` names into the workspace; a bare pull would stop at outputs no remote has."""
    with progress.stage("pull the photographs"):
        _dvc(root, "pull", target)


def pull_elsewhere(root: Path, worktree: Path, target: str = "data.dvc") -> None:
    """Bring what `target` names into a git worktree of `root`, from the cache and the remotes of `root`."""
    local = root / ".dvc" / "config.local"
    if local.exists():
        shutil.copy(local, worktree / ".dvc")
    _dvc(worktree, "config", "--local", "cache.dir", str(_cache(root)))
    _dvc(worktree, "pull", target)


def commit(root: Path, *stages: str) -> None:
    """Take the outputs of `stages` as they now are in the workspace."""
    _dvc(root, "commit", "--force", *stages)


def default_remote(root: Path) -> str:
    """The name of DVC's default remote; empty where there is none."""
    return _dvc(root, "config", "core.remote", check=False).strip()


def remote(root: Path, name: str) -> dict[str, str]:
    """The options of a remote in DVC's configuration: url, endpointurl, ..."""
    head = f"remote.{name}."
    lines = (line.partition("=") for line in _dvc(root, "config", "--list", check=False).splitlines())
    return {key.removeprefix(head): value for key, _, value in lines if key.startswith(head)}


def objects(root: Path) -> dict[str, Path]:
    """The files of DVC's cache by the MD5 that each is kept under."""
    found = (_cache(root) / "files" / "md5").glob("??/*")
    return {path.parent.name + path.name: path for path in found if path.is_file()}


def remotes(root: Path) -> list[str]:
    """The names of all remotes but the sample's, which ships with the project."""
    listed = re.findall(r"^remote\.(.+)\.url=", _dvc(root, "config", "--list", check=False), re.MULTILINE)
    return [name for name in listed if name != SAMPLE_REMOTE]


def stored(root: Path, name: str, hashes: Iterable[str]) -> list[str]:
    """Those of the objects (by their MD5) that a remote has."""
    system, base = _store(root, name)
    return [one for one in hashes if system.exists(_place(base, one))]


def delete(root: Path, name: str, hashes: Iterable[str]) -> int:
    """Delete objects of a remote, by their MD5; how many were there."""
    system, base = _store(root, name)
    there = [place for one in hashes if system.exists(place := _place(base, one))]
    for place in there:
        system.rm(place)
    return len(there)


def _place(base: str, digest: str) -> str:
    return f"{base}/files/md5/{digest[:2]}/{digest[2:]}"


def _store(root: Path, name: str) -> tuple[Any, str]:
    """(fsspec's file system of a remote, the path in it)."""
    import fsspec  # here: nothing else of DVC's needs it

    about = remote(root, name)
    options = {"client_kwargs": {"endpoint_url": about["endpointurl"]}} if "endpointurl" in about else {}
    url = about["url"] if "://" in about["url"] else str((root / ".dvc" / about["url"]).resolve())
    system, base = fsspec.core.url_to_fs(url, **options)
    return system, str(base)


def _cache(root: Path) -> Path:
    return (root / _dvc(root, "cache", "dir").strip()).resolve()


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
    with progress.stage(f"push to {name}"):
        _dvc(root, "push", "--remote", name)
    return name


@contextlib.contextmanager
def lock(root: Path, patience: float = 0.0) -> Iterator[None]:
    """Hold the workspace's lock, and remove what a killed run has left in DVC's way.

    DVC's stages inherit it: where only the pipeline itself was killed, what it started still holds it.

    Raises:
        PawprintError: Another pipeline still runs here after `patience` seconds, or DVC cannot work here.
    """
    root = root.resolve()
    if root in _held:
        yield
        return
    if problem := no_repository(root):
        raise PawprintError(problem)
    path = root / ".dvc" / "tmp" / "pawprint.lock"
    owner = path.with_suffix(".pid")
    who = owner.read_text(encoding="ascii") if owner.exists() else "?"
    busy = f"Another run of the pipeline (process {who}) works in {root}. Wait until it has ended, or end it."
    with files.lock(path, busy, timeout=patience) as held:
        files.write_text(owner, str(os.getpid()))
        _held[root] = held
        try:
            _remove_stale_rwlock(root)
            repair_lockfile(root)
            if (root / ".dvc" / "config").exists():
                keep_index_private(root)
            yield
        finally:
            del _held[root]


def no_repository(root: Path) -> str:
    """Why DVC cannot work in this project, and what to do; "" where it can."""
    config = root / ".dvc" / "config"
    if not config.exists() or (root / ".git").exists() or "no_scm" in config.read_text(encoding="utf-8"):
        return ""
    remedy = "`git init && git add -A && git commit -m start` there makes it one."
    return f"{root} is no git repository (a ZIP download has none), and DVC needs one: {remedy}"


def is_damaged(root: Path) -> bool:
    """Was dvc.lock cut off? DVC writes it in place."""
    try:
        content = yaml.safe_load((root / LOCKFILE).read_bytes())
    except FileNotFoundError:
        return False
    except (OSError, ValueError, yaml.YAMLError):
        return True
    return not isinstance(content, dict) or "stages" not in content


def repair_lockfile(root: Path) -> None:
    """Keep a copy of dvc.lock while it is whole; put it back where a DVC that was killed has left it cut off."""
    kept = root / ".dvc" / "tmp" / f"{LOCKFILE}.kept"
    if not is_damaged(root):
        with contextlib.suppress(FileNotFoundError):
            files.write_bytes(kept, (root / LOCKFILE).read_bytes())
        return
    if kept.exists():
        files.write_bytes(root / LOCKFILE, kept.read_bytes())
        return
    (root / LOCKFILE).unlink()  # DVC then finds what finished stages left in its run cache


def _remove_stale_rwlock(root: Path) -> None:
    """Remove DVC's list of who reads and writes what, where it is torn or names only processes that are gone.

    DVC itself looks whether a process of that number lives; after a restart of a container another one does.
    """
    path = root / ".dvc" / "tmp" / "rwlock"
    try:
        written = path.stat().st_mtime
        listed = json.loads(path.read_bytes())
        users = [*listed.get("write", {}).values(), *(user for one in listed.get("read", {}).values() for user in one)]
        pids = {int(user["pid"]) for user in users if user}
    except FileNotFoundError:
        return
    except (ValueError, AttributeError, KeyError, TypeError):
        pids = set()
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            if psutil.Process(pid).create_time() <= written:
                return  # a `dvc` that a person started is at work; DVC reports it itself
    path.unlink(missing_ok=True)


def use_remote(root: Path, url: str) -> None:
    """Make `url` this workspace's default remote, in `.dvc/config.local`, which git does not see.

    Keys and the endpoint of an S3 store stay where they are: its client reads AWS_* from the environment.
    """
    if default_remote(root) != TEAM_REMOTE or remote(root, TEAM_REMOTE).get("url") != url:
        _dvc(root, "config", "--local", f"remote.{TEAM_REMOTE}.url", url)
        _dvc(root, "config", "--local", "core.remote", TEAM_REMOTE)


def repro(
    root: Path,
    *arguments: str,
    environment: dict[str, str] | None = None,
    terminal: bool = False,
    verbose: bool = False,
) -> Iterator[str]:
    """Run the stale stages, giving their output line by line; PawprintError if one fails.

    `terminal`: stages write to this process's terminal themselves, and no line is given. `verbose`: with DVC's own
    messages.
    """
    locks = [held._context.lock_file_fd for held in _held.values() if held._context.lock_file_fd is not None]
    process = subprocess.Popen(
        [sys.executable, *(("-m", "dvc") if verbose else ("-c", _QUIET)), "repro", *arguments],
        cwd=root,
        env=_environment(root) | (environment or {}),
        stdout=None if terminal else subprocess.PIPE,
        stderr=None if terminal else subprocess.STDOUT,
        text=True,
        bufsize=1,
        start_new_session=True,  # so that it and its stages can be ended together, whoever else shares our group
        pass_fds=locks if os.name == "posix" else (),
    )
    try:
        for line in process.stdout or ():
            yield line.rstrip("\n")
        code = process.wait()
    finally:
        if process.poll() is None:  # the reader went away (cancelled, timed out): the stage must not live on
            _end_group(process, root)
    if code != 0:
        raise PawprintError(
            "The pipeline stopped; the lines above say at which stage and why. Mend that and run it again: "
            "finished stages are not repeated."
        )


def _end_group(process: subprocess.Popen[str], root: Path) -> None:
    """End DVC and all that it started.

    Its stage gets what Ctrl-C sends, and DVC stops because the stage does: a DVC that is interrupted itself may leave
    dvc.lock empty. One that is busy without a stage is interrupted after a while; what does not end is killed.
    """
    if process.stdout:
        threading.Thread(target=process.stdout.read, daemon=True).start()  # a full pipe would hold it up
    repair_lockfile(root)
    began, told = time.monotonic(), set[int]()
    while _alive(process.pid) and time.monotonic() < began + PATIENCE:
        process.poll()
        with contextlib.suppress(psutil.Error):
            for stage in psutil.Process(process.pid).children(recursive=True):
                if stage.pid not in told:
                    stage.send_signal(signal.SIGINT)
                told.add(stage.pid)
        if not told and time.monotonic() > began + BUSY:
            told.add(process.pid)
            process.send_signal(signal.SIGINT)
        time.sleep(0.05)
    for ending in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + 3.0
        while _alive(process.pid) and time.monotonic() < deadline:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, ending)
            process.poll()
            time.sleep(0.1)
    repair_lockfile(root)


def _alive(group: int) -> bool:
    """Does a process of the group run still? A zombie does not count."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                return True
    return False


def keep_index_private(root: Path) -> None:
    """Let every `dvc` that is typed in `root` keep its index in `.dvc/tmp/site`, which its owner alone can open.

    DVC reads its index by pickle, and its own place for it, /var/tmp/dvc, is writable for everybody. The setting is in
    `.dvc/config.local`: it has to be an absolute path, because DVC takes a relative one from wherever `dvc` is typed.
    A clone has no such file, and a copy one that names another place, so each run of the pipeline looks.
    """
    index, settings = str(_private_index(root)), root / ".dvc" / "config.local"
    if not settings.exists() or index not in settings.read_text(encoding="utf-8"):
        _dvc(root, "config", "--local", "core.site_cache_dir", index)


def link_code(root: Path) -> None:
    """Let `src/pawprint` of a project be the installed package, so that DVC sees when the code of a stage has changed.

    A checkout has its own. Git does not see the link, which is this machine's.
    """
    link, package = root / "src" / "pawprint", Path(__file__).resolve().parent
    if link.is_dir() and (not link.is_symlink() or link.resolve() == package):
        return
    link.parent.mkdir(exist_ok=True)
    (link.parent / ".gitignore").write_text("*\n", encoding="ascii")
    link.unlink(missing_ok=True)
    with contextlib.suppress(FileExistsError):  # another process was faster
        link.symlink_to(package, target_is_directory=True)


def index_is_private(root: Path) -> bool:
    """Does a `dvc` that is typed in `root` keep its index where nobody else can write?"""
    named = os.environ.get("DVC_SITE_CACHE_DIR") or _dvc(root, "config", "core.site_cache_dir", check=False).strip()
    return bool(named) and Path(named).is_dir() and not Path(named).stat().st_mode & 0o022


def _private_index(root: Path) -> Path:
    folder = root.resolve() / ".dvc" / "tmp" / "site"
    folder.parent.mkdir(exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    folder.chmod(0o700)
    return folder


def _environment(root: Path) -> dict[str, str]:
    # dvc.yaml names `python`: this environment's, also where it is not activated.
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    if "DVC_SITE_CACHE_DIR" not in environment and (root / ".dvc").is_dir():
        environment["DVC_SITE_CACHE_DIR"] = str(_private_index(root))
    if (root / _MADE_BY_INIT).exists():
        link_code(root)
    return environment


def _dvc(root: Path, *words: str, check: bool = True) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *words],
        cwd=root,
        env=_environment(root),
        capture_output=True,
        text=True,
        check=False,
    )
    if check and done.returncode != 0:
        if DISK_FULL.search(done.stderr):
            raise PawprintError(
                f"No space left on the disk for {root}, so `dvc {words[0]}` stopped. Free some, run again."
            )
        raise PawprintError(no_repository(root) or f"`dvc {' '.join(words)}` failed: {done.stderr.strip()}")
    return done.stdout

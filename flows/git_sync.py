"""The worker's clone of the project: brought to the head of its branch before each run, never losing work done in it.

settings = Settings()                  # from the environment
prepare(settings)                      # clone or update
data_commit(settings)                  # which commit of the branch last changed data.dvc
publish(settings, ["data.dvc"], "why")  # commit and push
"""

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pawprint import dvc, files, lineage
from pawprint.data import labels
from pawprint.errors import PawprintError, without_password

WORKER = "pawprint"  # who commits what the worker makes
KEPT = (*lineage.RECORDS, labels.FILE)  # what is written in the clone, and survives an update
PUBLISHING = Path(".dvc") / "tmp" / "publishing"  # there while a data version is made here and not pushed yet
SYNCED = "refs/pawprint/synced"  # the branch's head that the clone was last brought to: no commit of anybody's here


def _given(name: str, default: str = "") -> str:
    return field(default_factory=lambda: os.environ.get(name) or default)


@dataclass(frozen=True)
class Settings:
    """What the environment says of the worker; see docs/decisions/schedule.md."""

    repository: str = _given("PAWPRINT_REPOSITORY")  # a git URL or a path
    branch: str = _given("PAWPRINT_BRANCH", "main")
    workspace: str = _given("PAWPRINT_WORKSPACE")  # where the clone lives
    remote: str = _given("PAWPRINT_REMOTE")  # DVC's, e.g. s3://bucket/prefix
    cron: str = _given("PAWPRINT_CRON", "0 3 * * *")

    @property
    def upstream(self) -> str:
        """The branch as git names it in the clone."""
        return f"origin/{self.branch}"

    @property
    def root(self) -> Path:
        """The clone."""
        for name in ("repository", "workspace"):
            if not getattr(self, name):
                raise PawprintError(
                    f"PAWPRINT_{name.upper()} is not set. The worker needs PAWPRINT_REPOSITORY (a git URL or path) and "
                    "PAWPRINT_WORKSPACE (a folder for its clone)."
                )
        return Path(self.workspace).resolve()


def prepare(settings: Settings) -> str:
    """Clone or update; the commit that the workspace is at.

    Raises:
        PawprintError: git cannot reach the repository, or something in the clone would be lost.
    """
    root = settings.root
    if not (root / ".git").exists():
        _clone(settings, root)
    _recover(root)
    fetch(settings)
    ahead = _git(root, "rev-parse", settings.upstream)
    if (root / PUBLISHING).exists():  # a worker was killed meanwhile: back, so that it begins again
        _move(root, ahead)
        files.recover(root / "data")
        shutil.rmtree(root / "data", ignore_errors=True)
        (root / PUBLISHING).unlink()
    head = _git(root, "rev-parse", "HEAD")
    _refuse_to_lose(root, head, settings)
    if head != ahead:
        _move(root, ahead)
    _git(root, "update-ref", SYNCED, ahead)
    if settings.remote:
        dvc.use_remote(root, settings.remote)
    return ahead


def fetch(settings: Settings) -> None:
    """Look at the branch; `settings.upstream` is its head then."""
    _git(settings.root, "remote", "set-url", "origin", settings.repository, hide=settings.repository)
    where = f"+refs/heads/{settings.branch}:refs/remotes/{settings.upstream}"
    _git(settings.root, "fetch", "--quiet", "origin", where, hide=settings.repository)


def data_commit(settings: Settings) -> str:
    """The commit of the branch, as it was last fetched, that changed data.dvc; "" where none ever did."""
    return _git(settings.root, "log", "-1", "--format=%H", settings.upstream, "--", "data.dvc")


def data_reason(settings: Settings) -> str:
    """Why the worker made the newest data version; "" where a person did."""
    shown = _git(settings.root, "log", "-1", "--format=%an%n%s", settings.upstream, "--", "data.dvc")
    who, _, reason = shown.partition("\n")
    return reason if who == WORKER else ""


def publish(settings: Settings, names: Sequence[str], message: str) -> None:
    """Commit files of the clone and push them to the branch.

    Raises:
        PawprintError: The push is refused: no right to, or somebody was faster. The files are as the branch has them,
            but for labels.csv.
    """
    root = settings.root
    who = ("-c", f"user.name={WORKER}", "-c", "user.email=pawprint@localhost")
    _git(root, "add", "--", *names)
    _git(root, *who, "commit", "--quiet", "--message", message, "--", *names)
    try:
        _git(root, "push", "--quiet", "origin", f"HEAD:refs/heads/{settings.branch}", hide=settings.repository)
    except PawprintError:
        _move(root, _git(root, "rev-parse", settings.upstream))
        raise
    _git(root, "update-ref", SYNCED, "HEAD")


def _clone(settings: Settings, root: Path) -> None:
    """Whole or not at all: `.git` comes last. `root` may be a volume's mount point, which cannot be replaced."""
    scratch = root / ".clone.new"
    if root.exists() and any(path.name not in ("lost+found", scratch.name) for path in root.iterdir()):
        if not (scratch / ".git").exists():
            raise PawprintError(
                f"PAWPRINT_WORKSPACE={root} holds files and is no git clone. Name an empty folder, or empty this one."
            )
    else:
        shutil.rmtree(scratch, ignore_errors=True)
        root.mkdir(parents=True, exist_ok=True)
        words = ("clone", "--quiet", "--branch", settings.branch, "--", settings.repository, str(scratch))
        _git(root, *words, hide=settings.repository)
        _git(scratch, "update-ref", SYNCED, "HEAD")
    for path in [path for path in scratch.iterdir() if path.name != ".git"]:
        path.rename(root / path.name)
    (scratch / ".git").rename(root / ".git")
    scratch.rmdir()


def _refuse_to_lose(root: Path, head: str, settings: Settings) -> None:
    others = [f":!{name}" for name in KEPT]
    changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", ".", *others)
    if changed:
        names = ", ".join(line.split(maxsplit=1)[-1] for line in changed.splitlines()[:5])
        raise PawprintError(
            f"Somebody changed files in the worker's workspace {root}: {names}. Commit and push them from a clone of "
            f"your own, then `git -C {root} checkout -- .` here."
        )
    synced = _git(root, "rev-parse", "--verify", "--quiet", SYNCED, check=False)
    known = [f"^{commit}" for commit in (settings.upstream, synced) if commit]
    made_here = _git(root, "rev-list", "--count", head, *known)
    if made_here != "0":
        raise PawprintError(
            f"The worker's workspace {root} has {made_here} commits that are not on the branch {settings.branch}. Push "
            f"them, or drop them with `git -C {root} reset --hard {settings.upstream}`."
        )


def _move(root: Path, commit: str) -> None:
    """To `commit`, with what this workspace's runs wrote kept: stages that are up to date here stay so. What people
    decided here is kept too, beside what they decided elsewhere."""
    for name in KEPT:
        if (root / name).exists():
            files.write_bytes(root / ".dvc" / "tmp" / name, (root / name).read_bytes())
    _git(root, "reset", "--quiet", "--hard", commit)
    _recover(root)


def _recover(root: Path) -> None:
    """Put it back, also where an earlier update was killed before it could."""
    for name in KEPT:
        kept = root / ".dvc" / "tmp" / name
        if not kept.exists():
            continue
        if name == labels.FILE and (root / name).exists():
            lines = dict.fromkeys(line for path in (root / name, kept) for line in path.read_text("utf-8").splitlines())
            files.write_text(root / name, "".join(f"{line}\n" for line in lines))  # as git's merge=union
            kept.unlink()
        else:
            kept.replace(root / name)
    for left in ("index.lock", "HEAD.lock"):  # of a git that was killed; nobody else works here
        (root / ".git" / left).unlink(missing_ok=True)


def _git(root: Path, *words: str, check: bool = True, hide: str = "") -> str:
    """What git says, without asking for a password; `hide` (it may hold one) is not repeated in the error."""
    environment = os.environ | {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    done = subprocess.run(
        ["git", "-C", str(root), *words], env=environment, capture_output=True, text=True, check=False, timeout=600
    )
    if check and done.returncode != 0:
        output = " ".join((done.stderr or done.stdout).split())
        shown = " ".join(words)
        if hide:
            output, shown = (text.replace(hide, without_password(hide)) for text in (output, shown))
        raise PawprintError(
            f"`git {shown}` failed: {output}. Correct PAWPRINT_REPOSITORY and PAWPRINT_BRANCH, or what git names."
        )
    return done.stdout.strip()

"""`pawprint init` makes a project; `pawprint upgrade` shows what the installed version would change in it."""

import difflib
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from pawprint import __version__, progress, project
from pawprint.cli.common import ROOT, examples
from pawprint.errors import PawprintError
from pawprint.project import RECORD


@examples("pawprint init pets | pawprint init pets --photos train.zip --name dogs-cats")
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="a new or empty folder")],
    photos: Annotated[str, typer.Option(help="as for `run`; default: the drawn sample")] = "",
    name: Annotated[str, typer.Option(help="name of the data set; default: from the photographs")] = "",
) -> None:
    """Make a project: parameters, stages, flows and photographs, under git and DVC."""
    from pawprint import dvc

    if folder.exists() and (not folder.is_dir() or any(path.name != ".git" for path in folder.iterdir())):
        raise PawprintError(f"{folder} is not empty. Name a new or empty folder.")
    if not shutil.which("git"):
        raise PawprintError("git is not installed, and a project is versioned by it. On Debian: apt install git")
    before = set(folder.iterdir()) if folder.exists() else None
    try:
        _write(folder, photos="" if photos else "sample")
        dvc.link_code(folder)
        if not (folder / ".git").exists():
            _git(folder, "init", "--quiet", "--initial-branch", "main")
        dvc.keep_index_private(folder)
        if photos:
            from pawprint.data import ingest

            progress.say(ingest.ingest(photos, folder / "data", name or None).summary())
            dvc.add(folder)
    except BaseException:
        _undo(folder, before)
        raise
    _git(folder, "add", "--all")
    committed = _git(folder, "commit", "--quiet", "--message", f"pawprint init, version {__version__}", check=False)
    print(f"A project in {folder}, for pawprint {__version__}.")
    if not committed:
        print("Nothing is committed yet: git has no name and address for you (`git config --global user.name ...`).")
    print(f"Now: cd {folder} && pawprint run")


@examples("pawprint upgrade | pawprint upgrade > upgrade.patch")
def upgrade() -> None:
    """Show what the installed version would change in this project's files, as a patch for `git apply`.

    A file that both you and the new version have changed is named, and is for you to compare.
    """
    try:
        record = json.loads((ROOT / RECORD).read_text(encoding="utf-8"))
        written: dict[str, str] = record["files"]
    except (OSError, ValueError, KeyError, TypeError):
        raise PawprintError(f"{ROOT} was not made by `pawprint init`: {RECORD} is missing or damaged.") from None
    new = dict(_contents())
    patch, yours = [], []
    for name in sorted(written.keys() | new):
        theirs, here = new.get(name), ROOT / name
        mine = here.read_text(encoding="utf-8") if here.is_file() else None
        if mine == theirs or (theirs is not None and _digest(theirs) == written.get(name)):
            continue
        if mine is None or _digest(mine) == written.get(name):
            patch += _diff(name, mine, theirs)
        else:
            yours.append(name)
    if not patch and not yours:
        print(f"These files are those of pawprint {__version__}, but for what you have changed.", file=sys.stderr)
        return
    old = (ROOT / RECORD).read_text(encoding="utf-8")
    sys.stdout.writelines([*patch, *_diff(RECORD, old, _record(new))])
    for name in yours:
        print(
            f"{name}: changed by you and by pawprint {__version__}; compare it with {project.top() / name}",
            file=sys.stderr,
        )
    print(
        f"From pawprint {record['version']} to {__version__}. `pawprint upgrade | git apply` makes it so.",
        file=sys.stderr,
    )


def _contents() -> list[tuple[str, str]]:
    readme = Path(__file__).with_name("templates") / "README.md"
    return [(name, path.read_text(encoding="utf-8")) for name, path in [*project.files(), ("README.md", readme)]]


def _write(folder: Path, photos: str) -> None:
    contents = dict(_contents())
    modes = {name: path.stat().st_mode for name, path in project.files()}
    for name, content in [*contents.items(), (RECORD, _record(contents))]:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content, encoding="utf-8", newline="\n")
        target.chmod(modes.get(name, 0o644) | 0o200)
    for name, path in project.files(project.SAMPLE) if photos else ():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / name)


def _record(contents: dict[str, str]) -> str:
    digests = {name: _digest(content) for name, content in sorted(contents.items())}
    return json.dumps({"version": __version__, "files": digests}, indent=1) + "\n"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _diff(name: str, old: str | None, new: str | None) -> list[str]:
    """A unified diff that `git apply` takes; None is no file."""
    lines = difflib.unified_diff(
        (old or "").splitlines(keepends=True),
        (new or "").splitlines(keepends=True),
        f"a/{name}" if old is not None else "/dev/null",
        f"b/{name}" if new is not None else "/dev/null",
    )
    return [line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines]


def _undo(folder: Path, before: set[Path] | None) -> None:
    """Leave the folder as it was before."""
    if before is None:
        shutil.rmtree(folder, ignore_errors=True)
        return
    for path in set(folder.iterdir()) - before:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _git(folder: Path, *words: str, check: bool = True) -> bool:
    done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise PawprintError(f"`git {words[0]}` failed: {done.stderr.strip()}")
    return done.returncode == 0

"""A folder is replaced all or nothing, also when the process is killed.

with replacing(Path("data")) as fresh:       # an empty folder beside it, for this process alone
    ...                                      # fill it; an exception leaves data/ as it was
recover(Path("data"))                        # what a kill between two renames left is finished

Beside `data` lies `.data-import/` for as long as it takes: `building` (being filled), then `ready` (renamed when
whole), then `old` (what was there before). Each step is one rename, so what lies there says how far a killed process
came: `ready` and no `data` is the one state in which something is missing, and it is finished, not undone.
"""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pawprint.errors import PawprintError


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Give an empty folder that takes the place of `folder` when the block ends without an exception.

    A block that empties its folder away (removes it) leaves `folder` as it is.

    Raises:
        PawprintError: another process is replacing it, or the disk is full.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = _scratch(folder)
    with _locked(scratch, importing=True) as mine:
        if not mine:
            raise PawprintError(f"Another import into {folder}/ is running. Wait for it, or end it.")
        try:
            _finish(folder, scratch)
            building = scratch / "building"
            building.mkdir()
            with _enough_disk(folder):
                yield building
            if building.exists():
                building.rename(scratch / "ready")
                if folder.exists():
                    folder.rename(scratch / "old")
                (scratch / "ready").rename(folder)
        finally:  # also after Ctrl-C between two renames
            _finish(folder, scratch)
            shutil.rmtree(scratch, ignore_errors=True)


def recover(folder: Path) -> None:
    """Finish a replacement that was killed when `folder` was away; nothing to do at any other time."""
    if folder.exists() or not (_scratch(folder) / "ready").exists():
        return
    with _locked(_scratch(folder), importing=False) as mine:
        if mine:
            _finish(folder, _scratch(folder))
            shutil.rmtree(_scratch(folder), ignore_errors=True)


def _scratch(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}-import")


def _finish(folder: Path, scratch: Path) -> None:
    if not folder.exists() and (scratch / "ready").exists():
        (scratch / "ready").rename(folder)
    for leftover in scratch.iterdir():
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()


@contextmanager
def _locked(scratch: Path, importing: bool) -> Iterator[bool]:
    """Is `scratch` this process's alone? The system gives a killed process's lock back.

    Who imports makes the folder, and does not wait for another import. Who recovers waits: the owner, if it lives, is
    between two renames.
    """
    while True:
        if importing:
            scratch.mkdir(exist_ok=True)
        try:
            descriptor = os.open(scratch, os.O_RDONLY)
        except FileNotFoundError:  # its owner has just finished
            if importing:
                continue
            yield False
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (fcntl.LOCK_NB if importing else 0))
        except BlockingIOError:
            os.close(descriptor)
            yield False
            return
        with suppress(FileNotFoundError):
            if os.fstat(descriptor).st_ino == scratch.stat().st_ino:
                break
        os.close(descriptor)  # the lock of a folder that its owner has just removed
    try:
        yield True
    finally:
        os.close(descriptor)


@contextmanager
def _enough_disk(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise PawprintError(
            f"No space left on the disk for the photographs of {folder}/. Free some, run again."
        ) from None

"""Files and folders that are replaced atomically, and locks between processes.

write_json(Path("champion.json"), values)        # whole or not at all
with replace_folder(Path("data")) as fresh:      # an exception, or a kill, leaves data/ as it was
    ...
with lock(Path("cache/sweep.lock"), "Another sweep is running."):
    ...

A target is never written in place: it may be a link into DVC's cache, or read-only.
"""

import base64
import csv
import errno
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from pydantic import BaseModel, ConfigDict

from pawprint.errors import PawprintError

if TYPE_CHECKING:
    from filelock import FileLock


class Closed(BaseModel):
    """The content of a JSON file: frozen, and a field that is not known is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A path beside `path`, which it replaces when the block ends without an exception. Makes missing folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Replace a file atomically."""
    with new_file(path) as partial:
        partial.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Replace a file atomically by `text` in UTF-8, with line feeds as they are."""
    write_bytes(path, text.encode())


def replace_section(path: Path, name: str, section: str, empty: str) -> None:
    """Put `section` into a Markdown file, in the place of its earlier one; a new file begins with `empty`."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    whole = "\n".join([begin, section, end])
    text = path.read_text(encoding="utf-8") if path.exists() else empty
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    found = pattern.sub(lambda _: whole, text) if pattern.search(text) else f"{text.rstrip()}\n\n{whole}\n"
    write_text(path, found)


def write_json(path: Path, values: Any) -> None:
    """Replace a file atomically by JSON that a person can read."""
    write_text(path, json.dumps(values, indent=1) + "\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object; None where the file is missing or damaged."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def write_csv(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    """Replace a file atomically by a table."""
    with new_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def read_csv(path: Path) -> Iterator[list[str]]:
    """The rows of a table, its header too, one by one: there may be a million, or a thousand columns."""
    with path.open(newline="", encoding="utf-8") as file:
        yield from csv.reader(file)


def file_system(url: str) -> tuple[Any, str]:
    """(fsspec's file system of a path or URL, the path in it). A bucket is listed anew each time."""
    import fsspec  # here: most commands need none

    options = {"use_listings_cache": False} if url.startswith("s3://") else {}
    system, path = fsspec.core.url_to_fs(url, **options)
    return system, str(path).rstrip("/")


def etag(info: Any) -> str:
    """What a bucket says of an object's content; "" where it says nothing."""
    return str(info.get("ETag", "")).strip('"')


def data_url(kind: str, picture: bytes) -> str:
    """A picture (`png`, `jpeg`) as an address that holds it, for a page that fetches nothing."""
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


def read_range(path: Path, start: int, length: int) -> bytes:
    """`length` bytes of a file from `start`; OSError where it ends before.

    The file is opened for each call, a hundredth of the time in which a picture is decoded: so a set of any number of
    shards needs no more open files than there are threads.
    """
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        data = file.read(length)
    if len(data) != length:
        raise OSError(f"{path} ends before {start + length} bytes")
    return data


def render(package: str, template: str, **values: Any) -> str:
    """A file of the package's folder templates/, filled in; a text in HTML, or in Markdown, is escaped."""
    import jinja2  # here: most commands need none

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(package),
        autoescape=jinja2.select_autoescape(),
        finalize=in_markdown if template.endswith(".md") else None,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(values)


def in_markdown(value: Any) -> Any:
    """A text whose characters stand for themselves in a table of Markdown, and are no HTML."""
    return re.sub(r"([\\|<*`])", r"\\\1", value) if isinstance(value, str) else value


@contextmanager
def replace_folder(folder: Path) -> Iterator[Path]:
    """An empty folder that replaces `folder` when the block ends without an exception.

    No kill at any moment loses the old content and the new. Beside `data` lies `.data.partial/` meanwhile: `building`
    (being filled), `ready` (renamed when whole), `old` (the content before). Each step is one rename; `ready` without
    `data` is the one state in which `data` is missing, and it is finished, not undone: by the next replacement, or by
    `recover`. A block that removes its folder leaves `folder` as it is.

    Raises:
        PawprintError: another process replaces it, or the disk is full.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = _scratch(folder)
    with lock(_lock_of(folder), f"Another process is writing {folder}/. Wait for it, or end it."):
        try:
            scratch.mkdir(exist_ok=True)
            _finish(folder, scratch)
            building = scratch / "building"
            building.mkdir()
            yield building
            if building.exists():
                building.rename(scratch / "ready")
                if folder.exists():
                    folder.rename(scratch / "old")
                (scratch / "ready").rename(folder)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise PawprintError(f"No space left on the disk for {folder}/. Free some, run again.") from None
        finally:  # also after Ctrl-C between two renames
            _finish(folder, scratch)
            shutil.rmtree(scratch, ignore_errors=True)


def recover(folder: Path) -> None:
    """Finish a replacement that was killed while `folder` was away; nothing to do at any other time."""
    if folder.exists() or not (_scratch(folder) / "ready").exists():
        return
    with lock(_lock_of(folder), timeout=-1):  # the owner, if it lives, is between two renames
        _finish(folder, _scratch(folder))
        shutil.rmtree(_scratch(folder), ignore_errors=True)


@contextmanager
def lock(path: Path, busy: str = "", timeout: float = 0) -> Iterator["FileLock"]:
    """Hold the lock file `path`; the system releases it when the process ends, however it ends.

    The file is removed at the end, while it is held: who waited for it meanwhile notices and makes a new one.

    Raises:
        PawprintError: `busy`, where another process holds it still after `timeout` seconds (-1 waits for ever).
    """
    from filelock import FileLock, Timeout  # here: a Bento, which locks nothing, does without it

    path.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(path, timeout=timeout)
    try:
        held.acquire()
    except Timeout:
        raise PawprintError(busy) from None
    try:
        yield held
    finally:
        with suppress(OSError):  # Windows removes no open file; filelock does it there
            path.unlink()
        held.release()


def _scratch(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.partial")


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.lock")


def _finish(folder: Path, scratch: Path) -> None:
    if not folder.exists() and (scratch / "ready").exists():
        (scratch / "ready").rename(folder)
    for leftover in scratch.iterdir() if scratch.exists() else ():
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()


def refuse_link(data: Path) -> None:
    """PawprintError where data/ is a link, which DVC does not version."""
    if data.is_symlink():
        raise PawprintError(
            f"{data} is a link to {data.resolve()}, and DVC versions no folder behind a link. Remove the link; "
            f"`pawprint run --photos {data.resolve()}` takes the photographs. To keep them on a larger disk, "
            "keep DVC's files there: `dvc cache dir FOLDER` and `dvc config cache.type symlink`."
        )


def hidden(name: str) -> bool:
    """Whether a system put a file or folder of this name there, and no person."""
    return name.startswith(".") or name in ("__MACOSX", "@eaDir")


def files_in(folder: Path) -> list[Path]:
    """All files below a folder, good or bad; hidden ones are none. PawprintError where a folder cannot be read."""
    found = []
    for parent, inside, files in os.walk(folder, onerror=unreadable):
        inside[:] = [name for name in inside if not hidden(name)]
        found += [path for name in files if not hidden(name) and (path := Path(parent, name)).is_file()]
    return sorted(found)


def unreadable(error: OSError) -> NoReturn:
    """PawprintError for a folder or file that may not be read."""
    raise PawprintError(f"{error.filename} cannot be read ({error.strerror}). Change its permissions, or remove it.")

"""labels.csv beside data.dvc: what people decided of photographs, one line a decision, in git.

    labels = Labels(Path("labels.csv"))
    labels.add(["9f86d0..."], "class", "dog", who="Ann", why="audit")      # on disk when it returns
    labels.standing()["9f86d0..."].label                                    # "dog"
    labels.conflicts()                                                      # hashes that people decided differently

Lines are only ever added, and their order means nothing, so `merge=union` in .gitattributes merges two people's files.
A line names the lines that it replaces, which are those that its author had before them: what stands of a photograph
is every line that no other one replaces, whatever the clocks of two machines say. Two such lines that differ are a
conflict; a decision that is made with both in sight replaces both. docs/decisions/labels.md says why.
"""

import csv
import getpass
import hashlib
import io
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from pawprint import lineage
from pawprint.data.class_folders import has_control, refuse_name
from pawprint.errors import PawprintError
from pawprint.files import lock

FILE = "labels.csv"
# A test split that is cleaned by what a model says of it measures the model's opinion of itself.
TESTED = "a test photograph: look whether the label is right, as if there were no model"
Verb = Literal["keep", "class", "drop", "unsure", "undo"]
_HASH = re.compile("[0-9a-f]{64}")
_LONGEST = 200  # characters of `who` and `why`
_LAST = 8192  # bytes that hold a file's last line; a class's name has at most 255


class Decision(NamedTuple):
    """A line of labels.csv."""

    hash: str  # SHA-256 of the photograph's bytes
    decision: Verb  # keep: its label is right; undo: nothing is decided any more
    label: str  # the class of `class` and `keep`; the column is called `class`
    who: str
    when: str  # UTC, ISO 8601
    why: str  # the queue that it stood in, and what is known from there
    replaces: str = ""  # ids of the lines that it replaces: all that its author had before them and that still stood

    @property
    def id(self) -> str:
        """Of this line, for `replaces`."""
        return hashlib.sha256(self.line().encode()).hexdigest()[:12]

    @property
    def outcome(self) -> str:
        """What is to become of the photograph, as a phrase; equal outcomes are no conflict."""
        return {"drop": "dropped", "unsure": "unsure", "undo": ""}.get(self.decision, f"class {self.label}")

    def line(self) -> str:
        """Its line, with the line's end."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(self)
        return text.getvalue()


HEADER = ",".join("class" if name == "label" else name for name in Decision._fields)


class Labels:
    """The file at `path`, which may not be there yet. Others may add to it at any time.

    Raises:
        PawprintError: a line of it is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read: tuple[int, int] | None = None  # size and time of change of what was read
        self._lines: dict[str, dict[str, Decision]] = {}  # hash -> id -> decision
        self.refresh()

    def add(
        self,
        hashes: Iterable[str],
        verb: Verb,
        label: str,
        who: str,
        why: str,
        seen: Mapping[str, Iterable[str]] | None = None,
    ) -> list[Decision]:
        """Decide on photographs. On disk when it returns.

        What was decided of them before, by whomever, is replaced; with `seen` (hash -> ids of `open_ids`) only that: a
        decision that came meanwhile, unseen, stays beside the new one.

        Raises:
            PawprintError: the class cannot be one, or the file cannot be written.
        """
        if verb in ("keep", "class"):
            refuse_name(label, "The decision")
        when = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        with lock(self.path.with_name(f".{self.path.name}.lock"), f"{self.path} is being written.", timeout=10):
            self.refresh()
            given = label if verb in ("keep", "class") else ""
            new = []
            for one in dict.fromkeys(hashes):
                replaced = " ".join(id for id in self.open_ids(one) if seen is None or id in seen.get(one, ()))
                new.append(Decision(one, verb, given, _plain(who), when, _plain(why), replaced))
            try:
                self._append(new)
            except OSError as error:
                raise PawprintError(
                    f"{self.path} cannot be written ({error.strerror}), and nothing was decided. Free or unlock the "
                    "disk, and decide again."
                ) from None
        return new

    def of(self, digest: str) -> list[Decision]:
        """Every decision on a photograph, the earliest first."""
        self.refresh()
        return sorted(self._lines.get(digest, {}).values(), key=lambda one: one.when)

    def standing(self) -> dict[str, Decision]:
        """Hash -> the decision that stands; none for photographs in conflict, or of which nothing is decided."""
        self.refresh()
        found = {}
        for digest in self._lines:
            decided = self._decided(digest)
            if decided and len({one.outcome for one in decided}) == 1:
                found[digest] = max(decided, key=lambda one: one.when)
        return found

    def conflicts(self) -> dict[str, list[Decision]]:
        """Hash -> decisions that differ and of which none was made in sight of the other."""
        self.refresh()
        found = {digest: self._decided(digest) for digest in self._lines}
        return {digest: decided for digest, decided in found.items() if len({one.outcome for one in decided}) > 1}

    def open_ids(self, digest: str) -> list[str]:
        """Ids of the lines on a photograph that no other one replaces, as last read."""
        return sorted(self._open(digest))

    def _open(self, digest: str) -> dict[str, Decision]:
        """The lines on a photograph that no other one replaces, by id."""
        lines = self._lines.get(digest, {})
        replaced = {id for one in lines.values() for id in one.replaces.split()}
        return {id: one for id, one in lines.items() if id not in replaced}

    def _decided(self, digest: str) -> list[Decision]:
        """What is decided now; who is unsure contradicts nobody."""
        lines = [one for one in self._open(digest).values() if one.decision != "undo"]
        return [one for one in lines if one.decision != "unsure"] or lines

    def refresh(self) -> bool:
        """Read the file again if somebody else has changed it; whether that was so."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            gone = self._read is not None
            self._read, self._lines = None, {}
            return gone
        if (found.st_size, found.st_mtime_ns) == self._read:
            return False
        lines: dict[str, dict[str, Decision]] = defaultdict(dict)
        for one in _parse(self.path):
            lines[one.hash][one.id] = one
        self._read, self._lines = (found.st_size, found.st_mtime_ns), dict(lines)
        return True

    def _append(self, new: list[Decision]) -> None:
        text = "".join(one.line() for one in new)
        begun = not self.path.exists()
        with self.path.open("w+b" if begun else "r+b", buffering=0) as file:
            start = max(0, file.seek(0, os.SEEK_END) - _LAST)
            file.seek(start)
            tail = _whole(file.read())
            size = start + len(tail)
            file.truncate(size)
            file.seek(size)
            end = b"" if not tail or tail.endswith(b"\n") else b"\n"
            data = end + (text if tail else f"{HEADER}\n{text}").encode()
            try:
                while data:
                    data = data[file.write(data) :]
                os.fsync(file.fileno())
            except OSError:
                file.truncate(size)  # not half of a decision, nor one that its author was told is not there
                raise
            found = os.fstat(file.fileno())
        if begun and os.name == "posix":  # the file's name is on disk too
            folder = os.open(self.path.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
        for one in new:
            self._lines.setdefault(one.hash, {})[one.id] = one
        self._read = (found.st_size, found.st_mtime_ns)


def author(root: Path) -> str:
    """The name that git has for the person at this machine, else the user's."""
    return lineage.git(root, "config", "user.name").decode().strip() or getpass.getuser()


def _plain(text: str) -> str:
    """A text that fits on a line."""
    return "".join(" " if has_control(character) else character for character in text)[:_LONGEST].strip()


def _whole(data: bytes) -> bytes:
    """Without a last line that a loss of power has cut off: nobody was told that it is written."""
    head, _, tail = data.rpartition(b"\n")
    if not tail or _decision(tail.decode(errors="replace")):
        return data
    return head + b"\n" if head else b""


def _parse(path: Path) -> list[Decision]:
    try:
        text = _whole(path.read_bytes()).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise PawprintError(f"{path} cannot be read ({error}). `git checkout {path.name}` brings it back.") from None
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith(("<<<<<<< ", "=======", ">>>>>>> ")):
            raise PawprintError(
                f"{path} has git's conflict markers, line {number}. Remove them and keep all other lines; and put "
                f"`{FILE} merge=union` into .gitattributes, with which git does that itself."
            )
        if not line.strip() or line == HEADER:  # a merge of two new files may have the header twice
            continue
        decision = _decision(line)
        if decision is None:
            raise PawprintError(f"{path}, line {number} is no decision: {line[:80]!r}. Its columns are {HEADER}.")
        found.append(decision)
    return found


def _decision(line: str) -> Decision | None:
    try:
        (row,) = csv.reader([line])
        one = Decision(*row)  # type: ignore[arg-type]
    except (csv.Error, ValueError, TypeError):
        return None
    known = one.decision in get_args(Verb) and bool(one.label) == (one.decision in ("keep", "class"))
    return one if known and _HASH.fullmatch(one.hash) else None

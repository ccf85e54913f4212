"""What people decided (labels.csv), applied to data/, all or nothing: another class, dropped, new photographs.

    applied = apply(Labels(Path("labels.csv")), Path("data"), Inbox(Path("inbox")), is_test)
    applied.summary()

Applied twice, the second time changes nothing. The bytes of no photograph change. Decisions stay in origins.csv too, so
that adding the same source again does not undo them. What changes the test side is applied by itself (`test_side`), as
a data version of its own: figures of before and after it are of other photographs (docs/decisions/labels.md).
"""

import hashlib
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from pawprint.config import Params
from pawprint.data import origins
from pawprint.data.class_folders import DATASET, NAME, ORIGINS, class_folders, dataset, description, refuse_name
from pawprint.data.inbox import Inbox, Incoming
from pawprint.data.ingest import free_name, known_origins, link
from pawprint.data.labels import Decision, Labels
from pawprint.data.origins import Origin, Origins
from pawprint.data.splits import split_of
from pawprint.errors import PawprintError
from pawprint.files import files_in, recover, refuse_link, replace_folder, write_bytes, write_json

TEST_SIDE = "test_side"  # of dataset.json: how many times people have corrected the test side


@dataclass
class Applied:
    """What came of the decisions."""

    relabelled: dict[str, str] = field(default_factory=dict)  # path before -> path now
    dropped: list[str] = field(default_factory=list)
    added: dict[str, str] = field(default_factory=dict)  # hash -> path
    waiting: int = 0  # decisions on the other side: on test photographs, or where these are applied on all others
    missing: int = 0  # photographs that are neither in data/ nor in the inbox
    conflicts: int = 0
    test_side: bool = False

    @property
    def changed(self) -> bool:
        """Is data/ another one now?"""
        return bool(self.relabelled or self.dropped or self.added)

    def summary(self) -> str:
        """Some lines for a person."""
        moved = Counter(f"{old.partition('/')[0]} -> {new.partition('/')[0]}" for old, new in self.relabelled.items())
        parts = [f"{count:,} {change}" for change, count in sorted(moved.items())]
        parts += [f"{len(self.dropped):,} dropped"] * bool(self.dropped)
        parts += [f"{count:,} new {label}" for label, count in sorted(Counter(
            path.partition("/")[0] for path in self.added.values()).items())]  # fmt: skip
        lines = [f"{', '.join(parts) or 'Nothing to change'}{' on the test side' * self.test_side}."]
        if self.waiting and not self.test_side:
            lines.append(
                f"{self.waiting:,} decisions on test photographs wait: they are a version of their own. Commit this "
                "one, then `pawprint photos apply --test-side`."
            )
        elif self.waiting:
            lines.append(f"{self.waiting:,} decisions on other photographs wait for `pawprint photos apply`.")
        if self.conflicts:
            lines.append(f"{self.conflicts:,} photographs in conflict stay as they are: `pawprint review --conflicts`.")
        if self.missing:
            lines.append(f"{self.missing:,} decisions name photographs that are not here.")
        return "\n".join(lines)


def on_test_side(data: Path, params: Params) -> Callable[[str], bool]:
    """Whether the photograph with a hash is, or would be, on the test side."""
    own_test, groups = origins.own_test(data), origins.Groups(data, params.split.group)
    return lambda digest: split_of(digest, params.seed, params.split, own_test, groups.of(digest)) == "test"


def waiting(labels: Labels, data: Path, inbox: Inbox, is_test: Callable[[str], bool]) -> int:
    """How many decisions `apply` would make data; those on the test side are not counted."""
    work = _Work(data, data, inbox, known_origins(data), Applied())
    return sum(work.changes(one) for digest, one in labels.standing().items() if not is_test(digest))


def apply(
    labels: Labels,
    data: Path,
    inbox: Inbox,
    is_test: Callable[[str], bool],
    test_side: bool = False,
    replace: bool = False,
) -> Applied:
    """Make data/ what labels.csv says.

    Args:
        is_test: whether the photograph with this hash is, or would be, on the test side.
        test_side: apply the decisions on the test side, and no others.
        replace: data/ becomes the labelled pictures of the inbox alone.

    Raises:
        PawprintError: a class would be empty or there would be fewer than two, a picture of the inbox is gone or
            another one, or photographs would come among drawings. data/ is as before.
    """
    refuse_link(data)
    recover(data)
    described = description(data) if not replace else {}
    if data.is_dir() and not replace:
        dataset(data)  # names what is wrong with data/ itself
    begun = data.is_dir() and not replace  # a first version has no test side to compare with yet
    applied = Applied(conflicts=len(labels.conflicts()), test_side=test_side)
    with replace_folder(data) as fresh:
        known = known_origins(data) if data.is_dir() and not replace else Origins()
        work = _Work(data, fresh, inbox, known, applied)
        before = set(work.hashes.values())
        both = {True: {}, False: {}}  # type: dict[bool, dict[str, Decision]]
        for digest, one in labels.standing().items():
            if one.decision == "unsure":
                continue
            both[begun and is_test(digest)][digest] = one
        applied.waiting = sum(map(work.changes, both[not test_side].values()))
        for one in both[test_side].values():
            work.decide(one)
        if described.get("drawn") and applied.added:
            raise PawprintError(
                f"{data}/ holds the drawn sample, and photographs do not belong among drawings. `pawprint photos apply "
                "--replace` puts the labelled photographs in their place."
            )
        if applied.changed:
            work.write()
            count = int(described.get(TEST_SIDE, 0)) + 1 if test_side else 0
            corrected = {TEST_SIDE: count} if count else {}
            write_json(fresh / DATASET, (described or _new(inbox, applied)) | corrected)
        else:
            shutil.rmtree(fresh)  # not even a file's time changes, for which DVC would hash it again
    if applied.changed:  # pictures of this version stay in the inbox until the next one: it may be undone
        inbox.remove(before)
    return applied


def group(table: Path, data: Path) -> tuple[int, int]:
    """Give photographs the groups of a table (see `origins.read_groups`): (photographs in groups, groups).

    Photographs that the table does not name are of no group. All or nothing; PawprintError as `origins.read_groups`.
    """
    dataset(data)  # names what is wrong with data/ itself
    grouped = origins.read_groups(table, known_origins(data))
    with replace_folder(data) as fresh:
        for path in files_in(data):
            if (file := path.relative_to(data).as_posix()) != ORIGINS:
                link(data, file, fresh, file)
        origins.write(grouped, fresh)
    rows = [row for row in grouped if row.group]
    return len({row.hash for row in rows}), len({row.group for row in rows})


def forget(data: Path, digest: str) -> None:
    """data/ without the photograph with this hash, and without what origins.csv says of it but the hash itself.

    The hash stays, as of a dropped photograph, so that no import brings it back.

    Raises:
        PawprintError: a class would be empty.
    """
    recover(data)
    with replace_folder(data) as fresh:
        known = known_origins(data)
        hashes = known.hashes()
        for path in files_in(data):
            file = path.relative_to(data).as_posix()
            if file != ORIGINS and hashes.get(file) != digest:
                link(data, file, fresh, file)
        others = [row for row in known if row.hash != digest]
        origins.write(Origins([*others, Origin("", "", digest, "erased", "")]), fresh)
        if gone := sorted({one.name for one in class_folders(data)} - {one.name for one in class_folders(fresh)}):
            raise PawprintError(f"No photograph would be left in {', '.join(gone)}. Nothing was changed.")


def _new(inbox: Inbox, applied: Applied) -> dict[str, object]:
    """dataset.json of a set that begins with the pictures of the inbox."""
    source = next((one.source for digest in applied.added if (one := inbox.get(digest))), "photos")
    name = source.lower().replace(" ", "-")
    return {"name": name if NAME.fullmatch(name) else "photos", "drawn": False, "source": source}


class _Work:
    """data/ as it is to become."""

    def __init__(self, data: Path, fresh: Path, inbox: Inbox, known: Origins, applied: Applied) -> None:
        self.data, self.fresh, self.inbox, self.applied = data, fresh, inbox, applied
        self.hashes = known.hashes()
        self.files: dict[str, list[str]] = defaultdict(list)  # hash -> where it lies
        for file, digest in sorted(self.hashes.items()):
            self.files[digest].append(file)
        self.known = known
        self.used = {file.casefold() for file in self.hashes}
        self.moves: dict[str, str] = {}  # file -> its new place; "" where it goes
        self.new: list[tuple[Incoming, str]] = []

    def changes(self, one: Decision) -> bool:
        """Would the decision change data/?"""
        files = self.files.get(one.hash, [])
        if one.decision == "unsure":
            return False
        if one.decision == "drop":
            return bool(files)
        return any(file.split("/")[0] != one.label for file in files) or (not files and one.hash in self.inbox)

    def decide(self, one: Decision) -> None:
        """Note what the decision moves, drops or brings in."""
        files = self.files.get(one.hash, [])
        if one.decision == "drop":
            self.moves |= dict.fromkeys(files, "")
            self.applied.dropped += files
        elif files:
            self._relabel(files, one)
        elif incoming := self.inbox.get(one.hash):
            refuse_name(one.label, "labels.csv")
            file = free_name(one.label, PurePosixPath(incoming.name).name + _suffix(incoming), one.hash, self.used)
            self.new.append((incoming, file))
            self.applied.added[one.hash] = file
        elif not self.known.files(one.hash, ""):  # it was dropped, or never here
            self.applied.missing += 1

    def _relabel(self, files: list[str], one: Decision) -> None:
        """All files with this content under one class; one of them is enough."""
        wrong = [file for file in files if file.split("/")[0] != one.label]
        if not wrong:
            return
        refuse_name(one.label, "labels.csv")
        right = [file for file in files if file not in wrong]
        target = right[0] if right else free_name(one.label, PurePosixPath(wrong[0]).name, one.hash, self.used)
        for number, file in enumerate(wrong):
            self.moves[file] = "" if right or number else target
            self.applied.relabelled[file] = target

    def write(self) -> None:
        before = {one.name for one in class_folders(self.data)} if self.hashes else set()
        for path in files_in(self.data) if self.hashes else ():
            file = path.relative_to(self.data).as_posix()
            if file not in (ORIGINS, DATASET) and self.moves.get(file, file):
                link(self.data, file, self.fresh, self.moves.get(file, file))
        for incoming, file in self.new:
            write_bytes(self.fresh / file, self._bytes(incoming))
        origins.write(Origins(self._origins()), self.fresh)
        now = {one.name for one in class_folders(self.fresh)}
        if gone := sorted(before - now):
            raise PawprintError(f"No photograph would be left in {', '.join(gone)}. Nothing was changed.")
        if len(now) < 2:
            raise PawprintError(
                f"A data set has two classes or more, and only {', '.join(now) or 'none'} would be there. Label some "
                "photographs of another class first."
            )

    def _origins(self) -> Iterator[Origin]:
        for row in self.known:
            yield row._replace(file=self.applied.relabelled.get(row.file, self.moves.get(row.file, row.file)))
        for incoming, file in self.new:
            yield Origin(file, file.split("/")[0], incoming.hash, incoming.source, incoming.name)

    def _bytes(self, incoming: Incoming) -> bytes:
        path = self.inbox.file(incoming)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise PawprintError(f"{path} cannot be read ({error.strerror}). Nothing was changed.") from None
        if hashlib.sha256(data).hexdigest() != incoming.hash:
            raise PawprintError(f"{path} is not the photograph you looked at. Nothing was changed; review it again.")
        return data


def _suffix(incoming: Incoming) -> str:
    """The file's suffix where the name has none: an answer's id."""
    suffix = PurePosixPath(incoming.file).suffix
    return "" if PurePosixPath(incoming.name).suffix else suffix

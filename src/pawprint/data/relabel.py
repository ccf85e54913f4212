"""A person's decisions on photographs, applied to data/: another class for some, others dropped. All or nothing.

    relabel([Decision("cat/7.jpg", "dog")], Path("data"))
    drop([Decision("cat/8.jpg")], Path("data"))
    decisions(Path("audit.csv"), "relabel", Path("data"))       # what a person wrote into the audit's list

The bytes of no photograph change. Decisions stay in origins.csv, so that adding the same source again does not
undo them; `pawprint photos undo` does.
"""

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from pawprint.data import origins
from pawprint.data.class_folders import ORIGINS, class_folders, dataset, files_in
from pawprint.data.ingest import free_name, known_origins, link
from pawprint.data.origins import Origins
from pawprint.errors import PawprintError
from pawprint.files import recover, replace_folder

DROP = "drop"  # what a person writes where a photograph should go
Verb = Literal["relabel", "drop"]


@dataclass(frozen=True)
class Decision:
    """What a person decided of one photograph."""

    file: str  # path below data/
    label: str = ""  # the right class
    hash: str = ""  # SHA-256 of what the person looked at, where the list has it


def decisions(listed: Path, verb: Verb, data: Path) -> list[Decision]:
    """The decisions of a list that are for `verb`.

    A list with the audit's columns is read by its column `decision`: a class is for relabel, `drop` for drop, and an
    empty cell for neither. Any other list has a path a line, and for relabel the class after a comma.

    Raises:
        PawprintError: it cannot be read, a line has no class, or nothing is decided.
    """
    try:
        text = listed.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        raise PawprintError(f"{listed} cannot be read. Name a list of photographs, or a photograph of data/.") from None
    rows = [row for row in csv.reader(text.splitlines()) if any(cell.strip() for cell in row)]
    if not rows:
        raise PawprintError(f"{listed} is empty. Write a photograph a line{', a comma, its class' * (verb != DROP)}.")
    if {"file", "decision"} <= set(rows[0]):
        table = [dict(zip(rows[0], row, strict=False)) for row in rows[1:]]
        found = [
            Decision(below(row["file"], data), decision if verb == "relabel" else "", row.get("hash", ""))
            for row in table
            if (decision := row.get("decision", "").strip()) and (decision == DROP) == (verb == "drop")
        ]
        if not found:
            raise PawprintError(
                f"{listed} decides nothing for {verb}: write the right class, or `{DROP}`, into its column `decision`."
            )
        return found
    for number, row in enumerate(rows, 1):
        if verb == "relabel" and (len(row) != 2 or not row[1].strip()):
            raise PawprintError(f"{listed}, line {number}: write a photograph, a comma, its class: cat/7.jpg,dog")
    return [Decision(below(row[0].strip(), data), row[1].strip() if verb == "relabel" else "") for row in rows]


def below(path: str, data: Path) -> str:
    """`cat/7.jpg`, also where somebody writes data/cat/7.jpg, the path from another folder or the whole path."""
    parts = PurePosixPath(path).parts
    if not Path(path).is_absolute():
        if (data / path).exists() or parts[:1] not in ((data.name,), ("..",)):
            return str(PurePosixPath(*parts))
        if parts[0] == data.name:
            return str(PurePosixPath(*parts[1:]))
    named, folder = (Path(os.path.abspath(one)) for one in (path, data))  # noqa: PTH100  resolve() follows links
    return named.relative_to(folder).as_posix() if named.is_relative_to(folder) else path


def relabel(decided: Sequence[Decision], data: Path) -> int:
    """Give photographs another class; how many moved (those that had it already do not).

    Raises:
        PawprintError: a photograph is not there or not the one that was looked at, a class is none of data/'s, a
            photograph is given two classes, or a class would be empty.
    """
    names = {one.name for one in class_folders(data)} if data.exists() else set()
    moves: dict[str, str] = {}
    for one in decided:
        if one.label not in names:
            raise PawprintError(f"{one.file}: there is no class `{one.label}`; there are {', '.join(sorted(names))}.")
        if moves.setdefault(one.file, one.label) != one.label:
            raise PawprintError(f"{one.file} is given two classes, {moves[one.file]} and {one.label}. Decide on one.")
    return _apply(decided, {file: label for file, label in moves.items() if file.split("/")[0] != label}, data)


def drop(decided: Sequence[Decision], data: Path) -> int:
    """Take photographs out of data/; how many. PawprintError as relabel."""
    return _apply(decided, dict.fromkeys((one.file for one in decided), ""), data)


def _apply(decided: Sequence[Decision], labels: Mapping[str, str], data: Path) -> int:
    """Write data/ anew with the photographs `labels` under another class, or (at "") without them."""
    recover(data)
    dataset(data)  # names what is wrong with data/ itself
    with replace_folder(data) as fresh:
        known = known_origins(data)
        hashes = known.hashes()
        for one in decided:
            if one.file not in hashes:
                raise PawprintError(f"{data / one.file} is not there. Nothing was changed; correct the list.")
            if one.hash and one.hash != hashes[one.file]:
                raise PawprintError(f"{data / one.file} is not the photograph that was looked at. Run the audit again.")
        used = {file.casefold() for file in hashes}
        moves = {
            file: free_name(label, PurePosixPath(file).name, hashes[file], used) if label else ""
            for file, label in labels.items()
        }
        for path in files_in(data):
            file = path.relative_to(data).as_posix()
            if file != ORIGINS and moves.get(file, file):
                link(data, file, fresh, moves.get(file, file))
        moved = Origins(row._replace(file=moves.get(row.file, row.file)) for row in known)
        origins.write(moved, fresh)
        gone = {one.name for one in class_folders(data)} - {one.name for one in class_folders(fresh)}
        if gone:
            raise PawprintError(f"No photograph would be left in {', '.join(sorted(gone))}. Nothing was changed.")
    return len(moves)

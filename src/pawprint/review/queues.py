"""Queues of photographs for a person to look at, each from what is there already.

    queue = everything(root)                    # all of data/, rejected ones too, with predictions out of the fold
    queue = mistakes(root, "efficientnet_lite0")

A queue lists its photographs in order, with a reason each, and what a model says of them. No pixel is read.
"""

import csv
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pawprint.config import load_params
from pawprint.data import inbox, manifest, origins
from pawprint.data.class_folders import ORIGINS, class_folders, dataset
from pawprint.data.corrections import on_test_side
from pawprint.data.dataset import PreparedDataset
from pawprint.data.duplicates import near_groups
from pawprint.data.inbox import Inbox, Incoming
from pawprint.data.labels import Labels
from pawprint.data.manifest import REJECTED, ManifestRow
from pawprint.errors import PawprintError
from pawprint.files import data_url, files_in, read_csv, read_json, read_range, render, write_csv
from pawprint.inference.classifier import FOLDS_FILE, ModelInfo

_SHOWN = 300  # photographs on a page, 20 kB each
_LARGEST = 100_000_000  # bytes of folds.csv that are read: of a thousand classes it takes minutes
CACHE = Path("cache") / "review"  # below the project


class Item(NamedTuple):
    """A photograph in a queue."""

    hash: str
    label: str  # "" where it has none yet
    split: str  # train, validation, test, rejected or new
    file: str  # below data/, or of the inbox
    reason: str = ""  # why it is here
    flags: str = ""
    source: str = ""  # of a picture of the inbox
    shard: str = ""  # where its 300x300 JPEG is
    offset: int = 0
    length: int = 0


class Says(NamedTuple):
    """What a model says of a photograph."""

    label: str
    confidence: float


@dataclass
class Queue:
    """Photographs in order, and what is said of them."""

    name: str  # goes into labels.csv as the reason of a decision
    about: str  # a sentence on what is in it and in which order
    items: list[Item]
    classes: list[str]
    says: dict[str, Says] = field(default_factory=dict)  # by hash
    incoming: dict[str, Incoming] = field(default_factory=dict)  # by hash
    model: str = ""  # whose words these are, in words
    before: dict[str, Says] = field(default_factory=dict)  # by hash: what the other model says, of `changed`


def everything(root: Path) -> Queue:
    """All photographs of data/, each content once, sorted by file; rejected ones with the reason."""
    path = root / "prepared" / manifest.FILE
    if path.exists():
        rows: dict[str, ManifestRow] = {}
        for row in manifest.read(path):
            if row.split != REJECTED or row.hash not in rows:
                rows[row.hash] = row
        items = [_item(row) for row in rows.values()]
        about = "All prepared photographs, by file"
    else:
        items, about = _unprepared(root), "All photographs of data/, by file; the pipeline has not run on them yet"
    classes = sorted({item.label for item in items})
    found = Queue("data", f"{about}.", sorted(items, key=lambda item: item.file), classes)
    found.says, found.model = _out_of_fold(root)
    return found


def audit(root: Path) -> Queue:
    """Label issues and outliers of `pawprint photos audit`."""
    path = root / "reports" / "audit" / "audit.csv"
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [(row["hash"], row["reason"]) for row in csv.DictReader(file)]
    except (OSError, KeyError):
        raise PawprintError(f"{path} is missing or of before. Run `pawprint photos audit`.") from None
    about = "Photographs whose label is doubtful and outliers, in turns, the most suspicious first"
    return _some(root, "audit", about, rows)


def mistakes(root: Path, model: str) -> Queue:
    """Validation photographs that the model gives another class, or refuses; the surest mistakes first."""
    says, name, scored = _of_model(root, model)
    wrong = [(one, refusal, *says[one]) for one, label, refusal in scored if says[one].label != label or refusal]
    wrong.sort(key=lambda one: -one[3])
    rows = [(one, f"refused: {refusal}" if refusal else "another class") for one, refusal, *_ in wrong]
    found = _some(root, "mistakes", f"Validation photographs that {model} gives another class or refuses", rows)
    return replace(found, says=says, model=name)


def changed(root: Path, first: str, second: str) -> Queue:
    """Validation photographs on whose class two models differ; what is shown is the second's."""
    (says, *_), (now, name, scored) = _of_model(root, first), _of_model(root, second)
    rows = [
        (one, f"{says[one].label} by {first}, {now[one].label} by {second}")
        for one, *_ in scored
        if one in says and says[one].label != now[one].label
    ]
    found = _some(root, "changed", f"Validation photographs on which {first} and {second} differ", rows)
    return replace(found, says=now, model=name, before=says)


def changed_page(root: Path, first: str, second: str) -> tuple[str, dict[str, float]]:
    """(a page with the photographs on whose class two models differ, its figures)."""
    queue = changed(root, first, second)
    right = [[says[item.hash].label == item.label for item in queue.items] for says in (queue.before, queue.says)]
    only = [sum(one and not other for one, other in zip(*both, strict=True)) for both in (right, right[::-1])]
    figures = {
        "validation": len(queue.says), "changed": len(queue.items), "right_first_only": only[0],
        "right_second_only": only[1], "neither_right": len(queue.items) - sum(only),
    }  # fmt: skip
    surest = sorted(queue.items, key=lambda item: -queue.says[item.hash].confidence)[:_SHOWN]
    shown = [
        {"item": item, "before": queue.before[item.hash], "now": queue.says[item.hash], "picture": _picture(root, item)}
        for item in surest
    ]
    page = render(
        "pawprint.review", "changed.html", first=first, second=second, count=len(queue.items), tested=len(queue.says),
        right=only, neither=figures["neither_right"], shown=shown,
    )  # fmt: skip
    return page, {name: float(value) for name, value in figures.items()}


def _picture(root: Path, item: Item) -> str:
    """Its prepared JPEG as a data URL."""
    packed = read_range(root / "prepared" / "shards" / item.shard, item.offset, item.length)
    return data_url("jpeg", packed)


def duplicates(root: Path) -> Queue:
    """Photographs of the same picture, group by group."""
    queue, params = everything(root), load_params(root / "params.yaml")
    listed = list(manifest.read(root / "prepared" / manifest.FILE))
    report = (read_json(root / "prepared" / "report.json") or {}).get("rejected", [])
    why = {one["path"]: one["message"] for one in report if one["reason"] in ("copy", "near_copy", "two_labels")}
    found = [(row.hash, f"rejected: {why[row.origin]}") for row in listed if row.origin in why]
    rows = [row for row in listed if row.phash]
    for number, group in enumerate(near_groups([row.phash for row in rows], params.preprocess.near_copy_bits)):
        names = [rows[index].origin for index in group]
        for index in group:
            others = [name for name in names if name != rows[index].origin]
            found.append((rows[index].hash, f"group {number + 1}: like {', '.join(others[:3])}"))
    about = "Photographs of which there are near-copies, group by group; a decision on one file holds for its content"
    return _restrict(queue, "duplicates", about, dict(found))


def waiting(root: Path, source: str = "") -> Queue:
    """Pictures of the inbox: harvested from the service's traffic, or a folder (`source`) without labels."""
    params, kept = load_params(root / "params.yaml"), Inbox(root / inbox.FOLDER)
    is_test = on_test_side(root / "data", params)
    here = {row.hash for row in origins.read_rows(root / "data") if row.file}
    incoming = {one.hash: one for one in kept if one.hash not in here and (not source or one.source == source)}
    items, says = [], {}
    for one in incoming.values():
        hint = f"feedback: {one.feedback}" if one.feedback else ""
        reason = ", ".join(filter(None, (one.why, hint)))
        items.append(Item(one.hash, "", "test" if is_test(one.hash) else "new", one.name, reason, source=one.source))
        if one.answer:
            says[one.hash] = Says(one.answer, float(one.score or 0))
    counts = Counter(one.why for one in incoming.values() if one.why)
    mix = ", ".join(f"{count:,} {why}" for why, count in sorted(counts.items()))
    about = f"Photographs that are not in data/ yet: {mix}." if mix else "Pictures that are not in data/ yet."
    name, model = ("pictures", "") if source else ("harvest", "the service")
    return Queue(name, about, items, _classes(root), says, incoming, model)


def conflicts(root: Path, labels: Labels) -> Queue:
    """Photographs that people decided differently; a decision here settles one."""
    rows = [
        (digest, "; ".join(f"{one.who}: {one.outcome}" for one in sorted(decided, key=lambda one: one.who)))
        for digest, decided in labels.conflicts().items()
    ]
    known, kept = everything(root), waiting(root)
    both = replace(known, items=[*known.items, *kept.items], incoming=kept.incoming)
    about = "Photographs that people decided differently; a decision here replaces theirs"
    return _restrict(both, "conflicts", about, dict(rows))


def _some(root: Path, name: str, about: str, rows: Iterable[tuple[str, str]]) -> Queue:
    return _restrict(everything(root), name, about, dict(rows))


def _restrict(queue: Queue, name: str, about: str, reasons: dict[str, str]) -> Queue:
    """The photographs of `reasons` (hash -> reason), in its order."""
    known = {item.hash: item for item in queue.items}
    items = [known[digest]._replace(reason=reason) for digest, reason in reasons.items() if digest in known]
    return replace(queue, name=name, about=f"{about}.", items=items)


def _item(row: ManifestRow) -> Item:
    return Item(
        row.hash, row.label, row.split, row.origin, row.reason, row.flags, "", row.shard, row.offset, row.length
    )


def _unprepared(root: Path) -> list[Item]:
    data = root / "data"
    photographs = [file for folder in class_folders(data) for file in files_in(folder)] if data.is_dir() else []
    known = origins.read(data, photographs, ORIGINS).hashes() if photographs else {}
    return [Item(digest, file.split("/")[0], "new", file) for digest, file in {d: f for f, d in known.items()}.items()]


def _classes(root: Path) -> list[str]:
    data = root / "data"
    described = read_json(data / "dataset.json") or {}
    if not data.is_dir() or described.get("drawn"):
        return []
    return list(dataset(data).classes)


def _out_of_fold(root: Path) -> tuple[dict[str, Says], str]:
    """What the first head that was trained here says of photographs that it has not seen."""
    for path in sorted((root / "models").glob(f"*/{FOLDS_FILE}")):
        if path.stat().st_size > _LARGEST:
            continue
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.reader(file)
            _, _, *classes = next(rows)
            says = {}
            for digest, _, *numbers in rows:
                values = list(map(float, numbers))
                best = max(values)
                says[digest] = Says(classes[values.index(best)], best)
        return says, f"{path.parent.name}, out of the fold"
    return {}, ""


def _of_model(root: Path, model: str) -> tuple[dict[str, Says], str, list[tuple[str, str, str]]]:
    """(what a model says of validation, its name, (hash, label, refusal) of each); computed once a model."""
    params, data = load_params(root / "params.yaml"), PreparedDataset.open(root / "prepared")
    split = data.split("validation")
    folder = model_folder(root, model)
    path = root / CACHE / f"{ModelInfo.read(folder).model_digest}.csv"
    known: dict[str, list[str]] = {}
    if path.exists():
        known = {row[0]: row[1:] for row in read_csv(path)}
    missing = split.only([digest for digest in split.hashes if digest not in known])
    if len(missing):
        from pawprint.evaluation import metrics  # here: it brings torch, which the other queues do without
        from pawprint.evaluation.evaluator import load_serving

        scores = metrics.score(load_serving(folder, params), missing)
        best = scores.probabilities.argmax(1)
        for digest, index, row, refusal in zip(scores.hashes, best, scores.probabilities, scores.refusals, strict=True):
            known[digest] = [scores.classes[index], f"{float(np.max(row)):.6f}", refusal]
        write_csv(path, ([digest, *values] for digest, values in known.items()))
    says = {digest: Says(known[digest][0], float(known[digest][1])) for digest in split.hashes}
    return says, model, [(row.hash, row.label, known[row.hash][2]) for row in split.rows]


def model_folder(root: Path, model: str) -> Path:
    """The folder of the champion, of a candidate, or of any model. PawprintError where there is none."""
    for folder in (root / "champion",) if model == "champion" else (root / "models" / model, root / model):
        if (folder / "model.json").exists():
            return folder
    raise PawprintError(f"There is no model {model!r} here. Name `champion`, a candidate or a model folder.")

"""Photographs -> prepared/: shards of 300x300 JPEGs, manifest.parquet, report.json and report.html.

    prepare(dataset(Path("data")), Path("data"), Path("prepared"), params)

A shard is a plain tar in WebDataset's layout (`<hash>.jpg`); the manifest holds each photograph's place in it, so that
any can be read alone. The same photographs give the same rows and the same members, whatever the number of workers and
whatever was there before. In which shard a member lies depends on what was there: new photographs get shards of their
own (`shards.write`), so that they cost what they are. The manifest's digest leaves the place out.

What an earlier run left in `out` is reused where its own checksums and the recipe vouch for it: never by a name or a
time, because DVC may have put another version there. The new set is complete before the old one is removed.
"""

import contextlib
import hashlib
import inspect
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from heapq import merge
from itertools import chain
from pathlib import Path
from typing import TypedDict

import cv2
import numpy as np
import PIL
import simplejpeg

from pawprint import image, parallel
from pawprint.config import Params
from pawprint.data import duplicates, inventory, manifest, origins, quality, shards
from pawprint.data.class_folders import INVENTORY, Dataset
from pawprint.data.manifest import REJECTED, ManifestRow
from pawprint.data.preprocess import CUTS, CUTS_TYPE, Packer
from pawprint.data.quality import Rejected
from pawprint.data.shards import Packed
from pawprint.data.splits import SPLITS, split_of
from pawprint.errors import PawprintError
from pawprint.files import data_url, read_json, render, replace_folder, write_json, write_text
from pawprint.lineage import sha256

BATCH = 64  # photographs that a thread, or a process of a cluster, takes at a time
SHOWN = 300  # thumbnails on the page; report.json lists all
SEEDS = 100  # that are tried for one with some photographs of each class in each split


class Report(TypedDict):
    """The content of report.json."""

    schema_version: int
    dataset: str
    drawn: bool
    classes: list[str]
    photographs: int
    splits: dict[str, dict[str, int]]
    own_test: int
    size: int  # pixels a side of a prepared photograph
    groups: int
    warnings: list[str]
    flags: dict[str, int]
    rejected: list[dict[str, str]]
    recipe: str
    manifest: str
    data_hash: str  # DVC's, of the photographs; "" where they are not versioned


def prepare(photographs: Dataset, data: Path, out: Path, params: Params, data_hash: str = "") -> Report:
    """Write the prepared set atomically, on every core or on a cluster (`parallel`): decoding, scaling, encoding and
    hashing release the GIL.

    Raises:
        PawprintError: more than `preprocess.max_bad_share` of the photographs are rejected, or all of a class.
    """
    with replace_folder(out) as fresh:
        members, recipe = fresh / "members", _recipe(params)
        (fresh / "shards").mkdir()
        earlier = _earlier(out, recipe)
        own_test = len(origins.own_test(data)) if params.split.keep_test else 0
        # 1. each photograph by itself: check it, make it a square
        files, packed = photographs.photographs, list[Packed | Rejected]()
        batches = (files[start : start + BATCH] for start in range(0, len(files), BATCH))
        with members.open("wb") as file:
            for one, member in chain.from_iterable(parallel.map(partial(Packer, data, params, earlier), batches)):
                if member and isinstance(one, Packed):
                    one = replace(one, file=os.fspath(members), start=file.tell())
                    file.write(member)
                packed.append(one)
        # 2. all of them together: the same file twice, the same picture twice
        used, rejected, warnings = duplicates.screen(packed, params.preprocess.near_copy_bits)
        warnings += _check_groups(used, params)
        _refuse_too_many(photographs, data, used, rejected, params)
        # 3. into shards, with a manifest and a report
        placed = shards.write(fresh / "shards", used, _shards(earlier))
        rows = (_row(*one) for one in placed), sorted(_rejected_row(one, data) for one in rejected)
        manifest.write(fresh / manifest.FILE, merge(*rows, key=lambda row: (row.hash, row.origin)))
        _write_cuts(fresh / CUTS, used)
        members.unlink()
        if (data / INVENTORY).exists():
            read = ((one.path.relative_to(data).as_posix(), one.hash) for one in packed)
            inventory.remember(data, read, fresh)
        counts = Counter((one.split, one.label) for one in used)
        report = Report(
            schema_version=manifest.VERSION,
            dataset=photographs.name,
            drawn=photographs.drawn,
            classes=list(photographs.classes),
            photographs=len(used),
            splits={split: {label: counts[split, label] for label in photographs.classes} for split in SPLITS},
            size=params.preprocess.size,
            own_test=own_test,
            groups=len({one.group for one in used} - {""}),
            warnings=warnings,
            flags=dict(sorted(Counter(flag for one in used for flag in one.flags.split()).items())),
            rejected=[
                {"path": one.path.relative_to(data).as_posix(), "reason": one.reason, "message": one.message}
                for one in rejected
            ],
            recipe=recipe,
            manifest=sha256(fresh / manifest.FILE),
            data_hash=data_hash,
        )
        write_json(fresh / "report.json", report)
        write_text(fresh / "report.html", _page(report, data))
    return report


def _earlier(out: Path, recipe: str) -> Path | None:
    """The folder of an earlier run, if it is complete and was made by this recipe."""
    report, listed = read_json(out / "report.json") or {}, out / manifest.FILE
    whole = listed.exists() and (out / CUTS).exists()
    return out if whole and (report.get("recipe"), report.get("manifest")) == (recipe, sha256(listed)) else None


def _shards(earlier: Path | None) -> dict[str, int]:
    """Shard of an earlier run -> photographs in it."""
    if not earlier:
        return {}
    names = manifest.read(earlier / manifest.FILE).of_splits(*SPLITS).column("shard").cast("string")
    counts = names.value_counts().to_pylist()
    return {os.fspath(earlier / "shards" / one["values"]): one["counts"] for one in counts}


def _refuse_too_many(
    photographs: Dataset, data: Path, used: list[Packed], rejected: list[Rejected], params: Params
) -> None:
    total, limit = len(photographs.photographs), params.preprocess.max_bad_share
    share = len(rejected) / total
    near = Counter(one.reason in ("near_copy", "two_labels") for one in rejected)
    turn_off = (
        "; `preprocess.near_copy_bits: 0` turns the search for near-copies off" if near[True] > near[False] else ""
    )
    if share > limit:
        first = "; ".join(f"{one.path.relative_to(data)}: {one.message}" for one in rejected[:3])
        counts = Counter(one.reason for one in rejected).most_common()
        reasons = ", ".join(f"{count} {reason}" for reason, count in counts)
        raise PawprintError(
            f"{len(rejected)} of {total} photographs are rejected ({share:.1%}; `preprocess.max_bad_share` allows "
            f"{limit:.1%}): {reasons}. The first: {first}. `pawprint photos check` lists all; correct or remove them, "
            f"or raise the limit{turn_off}."
        )
    there = {one.label for one in used}
    for label in photographs.classes:
        if label not in there:
            raise PawprintError(
                f"No photograph of `{label}` can be used. `pawprint photos check` lists the reasons{turn_off}."
            )


def _check_groups(used: list[Packed], params: Params) -> list[str]:
    """A warning where some photographs are of no group; PawprintError where none is, or one is on two splits."""
    pattern, alone = params.split.group, [one for one in used if not one.group]
    if pattern and len(alone) == len(used):
        raise PawprintError(
            f"`split.group` ({pattern}) matches the name of no photograph, such as {alone[0].origin}. Correct the "
            "pattern: it is searched in the path below data/ and in the name that the source had."
        )
    splits: dict[str, str] = {}
    for one in used:
        if one.group and splits.setdefault(one.group, one.split) != one.split:  # by the source's own test split
            raise PawprintError(
                f"The source has some photographs of the group `{one.group}` under test and some not, for example "
                f"{one.origin}. Set `split.keep_test: false`, so that whole groups are drawn, or correct the groups."
            )
    if not splits or not alone:
        return []
    return [
        f"{len(alone):,} of {len(used):,} photographs are of no group and are split each by itself, for example "
        f"{alone[0].origin}."
    ]


def refuse_untrainable(report: Report, params: Params, prepared: Path) -> None:
    """PawprintError before the first training, where a class has too few photographs, or none in train or test.

    `report` is the one of `prepared`.
    """
    least = params.preprocess.min_class
    for label in report["classes"]:
        counts = {split: by_class[label] for split, by_class in report["splits"].items()}
        total = sum(counts.values())
        if total < least:
            raise PawprintError(
                f"The class `{label}` has {total:,} usable photographs; {least:,} are the least "
                "(`preprocess.min_class`), and figures begin to mean something at a hundred. Bring more."
            )
        if empty := [split for split in ("train", "test") if not counts[split]]:
            seed = _seed_for_all(manifest.read(prepared / manifest.FILE), params)
            remedy = f"Bring more of it, or raise `split.{empty[0]}`"
            remedy += f"; with `seed: {seed}` every class has some in each split" if seed else ""
            if report["own_test"]:
                remedy = (
                    "The source's own test side is kept: bring some of it for both sides, or `split.keep_test: false`"
                )
            raise PawprintError(
                f"The class `{label}` has no photograph in {' and '.join(empty)} (of {total:,}), so it could not be "
                f"learned and tested. {remedy}."
            )
    if not any(report["splits"]["validation"].values()):
        raise PawprintError("No photograph is in validation. Bring more photographs, or raise `split.validation`.")


def _seed_for_all(rows: Sequence[ManifestRow], params: Params) -> int | None:
    """A seed that puts some photographs of each class into each split; None where SEEDS of them do not."""
    known = [(row.label, row.hash, row.group) for row in rows if row.split != REJECTED]
    everything = len({label for label, _, _ in known}) * len(SPLITS)
    for seed in range(params.seed + 1, params.seed + 1 + SEEDS):
        found = {(label, split_of(name, seed, params.split, group=group)) for label, name, group in known}
        if len(found) == everything and not params.split.keep_test:
            return seed
    return None


def _write_cuts(path: Path, used: Sequence[Packed]) -> None:
    """The bytes that np.save would write, without an array of all: 0.5 GB of a million photographs."""
    header = {"descr": np.lib.format.dtype_to_descr(CUTS_TYPE), "fortran_order": False, "shape": (len(used),)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.writelines(bytes.fromhex(one.hash) + one.cuts for one in used)


def _row(one: Packed, shard: str, offset: int) -> ManifestRow:
    place = shard, offset, one.length, f"{one.crc32:08x}"
    return ManifestRow(one.hash, one.label, one.split, *place, one.origin, one.flags, one.phash, "", one.group)


def _rejected_row(one: Rejected, data: Path) -> ManifestRow:
    origin = one.path.relative_to(data)
    return ManifestRow(one.hash, origin.parts[0], REJECTED, "", 0, 0, "", origin.as_posix(), "", "", one.reason)


def _page(report: Report, data: Path) -> str:
    """report.json as a page: what was rejected, with thumbnails. One file, nothing fetched."""
    found = inventory.Inventory.of(data)
    read = found.read if found else Path.read_bytes
    shown = [one | _shown(read(data / one["path"])) for one in report["rejected"][:SHOWN]]
    reasons = Counter(one["reason"] for one in report["rejected"]).most_common()
    return render("pawprint.data", "report.html", report=report, reasons=reasons, shown=shown)


def _shown(content: bytes) -> dict[str, str]:
    """Its hash, by which `photos erase` finds the page, and a thumbnail as a data URL, "" where it is no picture."""
    shown = {"hash": hashlib.sha256(content).hexdigest(), "picture": ""}
    with contextlib.suppress(image.BadImage):
        pixels = image.resize(image.decode(content), "letterbox")
        jpeg = image.encode(cv2.resize(pixels, (96, 96), interpolation=cv2.INTER_AREA), 80)
        shown["picture"] = data_url("jpeg", jpeg)
    return shown


def _recipe(params: Params) -> str:
    """What the bytes of a packed photograph depend on, apart from the photograph."""
    preprocess = params.preprocess
    code = [inspect.getsource(one) for one in (image, quality, shards.member)]
    versions = [cv2.__version__, np.__version__, PIL.__version__, simplejpeg.__version__]
    numbers = preprocess.size, preprocess.quality, preprocess.max_pixels, preprocess.min_side
    parts = [preprocess.fit, *numbers, *code, *versions]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

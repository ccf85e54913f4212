"""Photographs -> prepared/: shards of 300x300 JPEGs, manifest.csv, report.json and report.html.

    prepare(dataset(Path("data")), Path("data"), Path("prepared"), params)

A shard is a plain tar in WebDataset's layout (`<hash>.jpg`); the manifest says where in it each photograph's bytes
stand, so that any can be read alone. Where a photograph goes depends on the contents of the set and on nothing
else: the same photographs give the same bytes, whatever the number of workers and whatever was there before.

What an earlier run left in `out` is used again where its own checksums and the recipe vouch for it: never by a
name or a time, because DVC may have put another version there. The new set is complete before the old one goes.
"""

import csv
import hashlib
import inspect
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import TypedDict

import cv2
import numpy as np
import PIL
import simplejpeg

from pawprint import image
from pawprint.config import Params
from pawprint.data import quality, shards
from pawprint.data import report as report_page
from pawprint.data.ingest import Dataset
from pawprint.data.preprocess import Batch, pack
from pawprint.data.quality import Bad
from pawprint.data.shards import Packed
from pawprint.data.splits import SPLITS
from pawprint.errors import PawprintError
from pawprint.lineage import sha256

BATCH = 64  # photographs a worker takes at a time
COLUMNS = ("hash", "class", "split", "shard", "offset", "length", "crc32", "origin", "flags", "fingerprint")
Results = Iterable[list[Packed | Bad]]
Spread = Callable[[Callable[[Batch], list[Packed | Bad]], Sequence[Batch]], Results]  # like map(), in order


class Report(TypedDict):
    """What report.json holds."""

    dataset: str
    drawn: bool
    classes: list[str]
    photographs: int
    splits: dict[str, dict[str, int]]
    flags: dict[str, int]
    bad: list[dict[str, str]]
    recipe: str
    manifest: str


def on_threads(work: Callable[[Batch], list[Packed | Bad]], batches: Sequence[Batch]) -> Results:
    """Every core of this machine: decoding, scaling, encoding and hashing all release Python's lock."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(work, batches)


def prepare(
    photographs: Dataset, data: Path, out: Path, params: Params, spread: Spread = on_threads, batch: int = BATCH
) -> Report:
    """Write the prepared set, whole or not at all; `spread` says who does the work, `batch` photographs at a time.

    Raises:
        PawprintError: more than `preprocess.max_bad_share` of the photographs are bad, or all of a class.
    """
    _recover(out)
    partial = out.with_name(f".{out.name}.partial")
    try:
        (partial / "packed").mkdir(parents=True)
        (partial / "shards").mkdir()
        recipe = _recipe(params)
        # 1. each photograph by itself: what it is, whether it is any good, and its 300x300
        every, earlier = photographs.photographs, _earlier(out, recipe)
        parts = [every[start : start + batch] for start in range(0, len(every), batch)]
        results = spread(pack, [Batch(part, data, partial / "packed", params, earlier) for part in parts])
        packed: dict[Path, Packed] = {}
        bad: list[Bad] = []
        for one in chain.from_iterable(results):
            if isinstance(one, Bad):
                bad.append(one)
            else:
                packed[one.photograph.path] = one
        # 2. all of them together: the same file twice, the same picture twice
        kept, copies = quality.copies(one.photograph for one in packed.values())
        near = quality.near_copies(kept)
        left_out = {one.path for one in near}
        good = [packed[one.path] for one in kept if one.path not in left_out]
        bad = sorted(bad + copies + near, key=lambda one: one.path)
        _refuse(photographs, data, good, bad, params)
        # 3. into shards
        placed = shards.write(partial / "shards", good)
        shutil.rmtree(partial / "packed")
        # 4. the manifest and the report
        _write_manifest(placed, partial / "manifest.csv")
        report = _report(photographs, data, good, bad, recipe, partial)
        (partial / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        (partial / "report.html").write_text(report_page.report(report, data), encoding="utf-8")
        # 5. the new for the old
        _replace(out, partial)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return report


def _recover(out: Path) -> None:
    """Clear away what a killed run left; the old set comes back where it had gone and the new had not come."""
    old = _old(out)
    if old.exists() and not out.exists():
        old.rename(out)
    shutil.rmtree(old, ignore_errors=True)
    shutil.rmtree(out.with_name(f".{out.name}.partial"), ignore_errors=True)


def _replace(out: Path, partial: Path) -> None:
    if out.exists():
        out.rename(_old(out))
    partial.rename(out)
    shutil.rmtree(_old(out), ignore_errors=True)


def _old(out: Path) -> Path:
    return out.with_name(f".{out.name}.old")


def _earlier(out: Path, recipe: str) -> tuple[Path, str] | None:
    """An earlier run's manifest and its digest, if it is whole and was made by this recipe."""
    manifest = out / "manifest.csv"
    try:
        report = json.loads((out / "report.json").read_bytes())
        if report["recipe"] == recipe and report["manifest"] == sha256(manifest):
            return manifest, report["manifest"]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def _refuse(photographs: Dataset, data: Path, good: list[Packed], bad: list[Bad], params: Params) -> None:
    total, limit = len(photographs.photographs), params.preprocess.max_bad_share
    share = len(bad) / total
    if share > limit:
        first = "; ".join(f"{one.path.relative_to(data)}: {one.message}" for one in bad[:3])
        reasons = ", ".join(f"{count} {reason}" for reason, count in Counter(one.reason for one in bad).most_common())
        raise PawprintError(
            f"{len(bad)} of {total} photographs are bad ({share:.1%}; `preprocess.max_bad_share` allows {limit:.1%}): "
            f"{reasons}. The first: {first}. `pawprint photos check` lists all; mend or remove "
            "them, or raise the limit."
        )
    usable = {one.photograph.label for one in good}
    for kind in photographs.classes:
        if kind not in usable:
            raise PawprintError(f"No photograph of `{kind}` can be used. `pawprint photos check` says why.")


def _write_manifest(placed: Iterable[tuple[Packed, str, int]], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for one, shard, offset in placed:  # the shards' order, which is the hashes'
            photograph = one.photograph
            where = shard, offset, one.length, f"{one.crc32:08x}"
            told = photograph.origin, photograph.flags, photograph.fingerprint
            writer.writerow((photograph.hash, photograph.label, photograph.split, *where, *told))


def _report(photographs: Dataset, data: Path, good: list[Packed], bad: list[Bad], recipe: str, folder: Path) -> Report:
    counts = Counter((one.photograph.split, one.photograph.label) for one in good)
    flags = Counter(flag for one in good if one.photograph.flags for flag in one.photograph.flags.split())
    return Report(
        dataset=photographs.name,
        drawn=photographs.drawn,
        classes=list(photographs.classes),
        photographs=len(good),
        splits={split: {kind: counts[split, kind] for kind in photographs.classes} for split in SPLITS},
        flags=dict(sorted(flags.items())),
        bad=[
            {"path": one.path.relative_to(data).as_posix(), "reason": one.reason, "message": one.message} for one in bad
        ],
        recipe=recipe,
        manifest=sha256(folder / "manifest.csv"),
    )


def _recipe(params: Params) -> str:
    """What the bytes of a packed photograph depend on, apart from the photograph."""
    preprocess = params.preprocess
    code = [inspect.getsource(module) for module in (image, quality, shards)]
    versions = [cv2.__version__, np.__version__, PIL.__version__, simplejpeg.__version__]
    told = [preprocess.fit, preprocess.quality, preprocess.max_pixels, preprocess.min_side, *code, *versions]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()

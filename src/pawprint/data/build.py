"""Photographs -> prepared/: shards of 300x300 JPEGs, manifest.csv, report.json and report.html.

    prepare(dataset(Path("data")), Path("data"), Path("prepared"), params)

A shard is a plain tar in WebDataset's layout (`<hash>.jpg`); the manifest holds each photograph's place in it, so that
any can be read alone. A photograph's place depends on the contents of the set and on nothing else: the same photographs
give the same bytes, whatever the number of workers and whatever was there before.

What an earlier run left in `out` is reused where its own checksums and the recipe vouch for it: never by a name or a
time, because DVC may have put another version there. The new set is complete before the old one is removed.
"""

import base64
import hashlib
import inspect
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import TypedDict

import cv2
import jinja2
import numpy as np
import PIL
import simplejpeg

from pawprint import image
from pawprint.config import Params
from pawprint.data import quality, shards
from pawprint.data.class_folders import Dataset
from pawprint.data.dataset import MANIFEST_VERSION, ManifestRow, write_manifest
from pawprint.data.preprocess import Batch, pack
from pawprint.data.quality import Rejected
from pawprint.data.shards import Packed
from pawprint.data.splits import SPLITS
from pawprint.errors import PawprintError
from pawprint.files import write_json, write_text
from pawprint.lineage import sha256

BATCH = 64  # photographs a worker takes at a time
SHOWN = 300  # thumbnails on the page; report.json lists all


class Report(TypedDict):
    """The content of report.json."""

    schema_version: int
    dataset: str
    drawn: bool
    classes: list[str]
    photographs: int
    splits: dict[str, dict[str, int]]
    flags: dict[str, int]
    rejected: list[dict[str, str]]
    recipe: str
    manifest: str


def prepare(photographs: Dataset, data: Path, out: Path, params: Params) -> Report:
    """Write the prepared set atomically, on every core: decoding, scaling, encoding and hashing release the GIL.

    Raises:
        PawprintError: more than `preprocess.max_bad_share` of the photographs are rejected, or all of a class.
    """
    old, partial = out.with_name(f".{out.name}.old"), out.with_name(f".{out.name}.partial")
    if old.exists() and not out.exists():  # an earlier run was killed between two renames
        old.rename(out)
    for left in (old, partial):
        shutil.rmtree(left, ignore_errors=True)
    try:
        (partial / "packed").mkdir(parents=True)
        (partial / "shards").mkdir()
        recipe = _recipe(params)
        # 1. each photograph by itself: check it, make it 300x300
        files, earlier = photographs.photographs, _earlier(out, recipe)
        batches = [
            Batch(files[start : start + BATCH], data, partial / "packed", params, earlier)
            for start in range(0, len(files), BATCH)
        ]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            results = list(chain.from_iterable(pool.map(pack, batches)))
        packed = {one.photograph.path: one for one in results if isinstance(one, Packed)}
        rejected = [one for one in results if isinstance(one, Rejected)]
        # 2. all of them together: the same file twice, the same picture twice
        kept, copies = quality.copies(one.photograph for one in packed.values())
        near = quality.near_copies(kept)
        rejected = sorted(rejected + copies + near, key=lambda one: one.path)
        good = [packed[path] for one in kept if (path := one.path) not in {one.path for one in near}]
        _refuse_too_many(photographs, data, good, rejected, params)
        # 3. into shards
        placed = shards.write(partial / "shards", good)
        shutil.rmtree(partial / "packed")
        # 4. the manifest and the report
        write_manifest(partial / "manifest.csv", (_row(*one) for one in placed))
        report = _report(photographs, data, good, rejected, recipe, sha256(partial / "manifest.csv"))
        write_json(partial / "report.json", report)
        write_text(partial / "report.html", _page(report, data))
        # 5. the new for the old
        if out.exists():
            out.rename(old)
        partial.rename(out)
    finally:
        for left in (old, partial):
            shutil.rmtree(left, ignore_errors=True)
    return report


def _earlier(out: Path, recipe: str) -> tuple[Path, str] | None:
    """An earlier run's manifest and its digest, if it is complete and was made by this recipe."""
    manifest = out / "manifest.csv"
    try:
        report = json.loads((out / "report.json").read_bytes())
        if report["recipe"] == recipe and report["manifest"] == sha256(manifest):
            return manifest, report["manifest"]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def _refuse_too_many(
    photographs: Dataset, data: Path, good: list[Packed], rejected: list[Rejected], params: Params
) -> None:
    total, limit = len(photographs.photographs), params.preprocess.max_bad_share
    share = len(rejected) / total
    if share > limit:
        first = "; ".join(f"{one.path.relative_to(data)}: {one.message}" for one in rejected[:3])
        counts = Counter(one.reason for one in rejected).most_common()
        reasons = ", ".join(f"{count} {reason}" for reason, count in counts)
        raise PawprintError(
            f"{len(rejected)} of {total} photographs are rejected ({share:.1%}; `preprocess.max_bad_share` allows "
            f"{limit:.1%}): {reasons}. The first: {first}. `pawprint photos check` lists all; correct or remove them, "
            "or raise the limit."
        )
    usable = {one.photograph.label for one in good}
    for kind in photographs.classes:
        if kind not in usable:
            raise PawprintError(f"No photograph of `{kind}` can be used. `pawprint photos check` says why.")


def _row(packed: Packed, shard: str, offset: int) -> ManifestRow:
    one = packed.photograph
    place = shard, offset, packed.length, f"{packed.crc32:08x}"
    return ManifestRow(one.hash, one.label, one.split, *place, one.origin, one.flags, one.phash)


def _report(
    photographs: Dataset, data: Path, good: list[Packed], rejected: list[Rejected], recipe: str, manifest: str
) -> Report:
    counts = Counter((one.photograph.split, one.photograph.label) for one in good)
    flags = Counter(flag for one in good for flag in one.photograph.flags.split())
    return Report(
        schema_version=MANIFEST_VERSION,
        dataset=photographs.name,
        drawn=photographs.drawn,
        classes=list(photographs.classes),
        photographs=len(good),
        splits={split: {kind: counts[split, kind] for kind in photographs.classes} for split in SPLITS},
        flags=dict(sorted(flags.items())),
        rejected=[
            {"path": one.path.relative_to(data).as_posix(), "reason": one.reason, "message": one.message}
            for one in rejected
        ],
        recipe=recipe,
        manifest=manifest,
    )


def _page(report: Report, data: Path) -> str:
    """report.json as a page: what was rejected, with thumbnails. One file, nothing fetched."""

    def shown() -> Iterator[dict[str, str]]:
        for one in report["rejected"][:SHOWN]:
            yield one | {"picture": _thumbnail(data / one["path"])}

    environment = jinja2.Environment(loader=jinja2.PackageLoader("pawprint.data"), autoescape=True)
    reasons = Counter(one["reason"] for one in report["rejected"]).most_common()
    page = environment.get_template("report.html").render(report=report, reasons=reasons, shown=list(shown()))
    return page + "\n"


def _thumbnail(path: Path) -> str:
    """A data URL, or "" where the file is no picture."""
    try:
        pixels = image.resize(image.decode(path.read_bytes()), "letterbox")
    except image.BadImage:
        return ""
    jpeg = image.encode(cv2.resize(pixels, (96, 96), interpolation=cv2.INTER_AREA), 80)
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def _recipe(params: Params) -> str:
    """What the bytes of a packed photograph depend on, apart from the photograph."""
    preprocess = params.preprocess
    code = [inspect.getsource(module) for module in (image, quality, shards)]
    versions = [cv2.__version__, np.__version__, PIL.__version__, simplejpeg.__version__]
    parts = [preprocess.fit, preprocess.quality, preprocess.max_pixels, preprocess.min_side, *code, *versions]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

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
import io
import json
import os
import shutil
import tarfile
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, TypedDict

import cv2
import numpy as np
import PIL
import simplejpeg

from pawprint import image
from pawprint.errors import PawprintError
from pawprint.lineage import sha256
from pawprint.params import Params
from pawprint.photos import check
from pawprint.photos.check import Bad, Named
from pawprint.photos.sources import Dataset
from pawprint.photos.split import SIDES
from pawprint.prepared import page

SHARD = 1024  # photographs, at most
COLUMNS = ("hash", "class", "side", "shard", "offset", "length", "origin", "flags", "fingerprint")
_Row = dict[str, str | int]


class Report(TypedDict):
    """What report.json holds."""

    dataset: str
    drawn: bool
    classes: list[str]
    photographs: int
    sides: dict[str, dict[str, int]]
    flags: dict[str, int]
    bad: list[dict[str, str]]
    recipe: str
    manifest: str
    shards: dict[str, str]


@dataclass(frozen=True)
class _Packed:
    photograph: Named
    jpeg: bytes


def prepare(photographs: Dataset, data: Path, out: Path, params: Params) -> Report:
    """Write the prepared set, whole or not at all.

    Raises:
        PawprintError: more than `preprocess.max_bad_share` of the photographs are bad, or all of a class.
    """
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # a killed run's
    (partial / "shards").mkdir(parents=True)
    recipe = _recipe(params)
    earlier = _Earlier(out, recipe)
    try:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            # 1. every file's content; the same file twice
            kept, bad = check.copies(check.hash_all(photographs, data, params, pool))
            # 2. check, resize and pack, shard by shard
            good: list[Named] = []
            rows: list[_Row] = []
            for name, members in _shards(kept):
                packed = list(pool.map(lambda one: earlier.get(one) or _pack(one, params), members))
                bad += [one for one in packed if isinstance(one, Bad)]
                present = [one for one in packed if isinstance(one, _Packed)]
                if present:
                    rows += _write_shard(partial / "shards" / name, present)
                good += [one.photograph for one in present]
        # 3. the same picture twice
        near = check.near_copies(good)
        left_out = {one.path for one in near}
        bad = sorted(bad + near, key=lambda one: one.path)
        rows = [
            row
            for name, members in groupby(zip(rows, good, strict=True), key=lambda pair: str(pair[0]["shard"]))
            for row in _without(left_out, partial / "shards" / name, list(members))
        ]
        _refuse(photographs, data, rows, bad, params)
        # 4. the manifest and the report
        _write_manifest(rows, partial / "manifest.csv")
        report = _report(photographs, data, rows, bad, recipe, partial)
        (partial / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        (partial / "report.html").write_text(page.report(report, data), encoding="utf-8")
        # 5. the new for the old
        shutil.rmtree(out, ignore_errors=True)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return report


class _Earlier:
    """The photographs of an earlier run, as far as they are what they claim to be."""

    def __init__(self, folder: Path, recipe: str) -> None:
        self._rows: dict[str, dict[str, str]] = {}
        self._shards: dict[str, np.memmap[Any, np.dtype[np.uint8]]] = {}
        try:
            report = json.loads((folder / "report.json").read_bytes())
            if report["recipe"] != recipe or report["manifest"] != sha256(folder / "manifest.csv"):
                return
            with (folder / "manifest.csv").open(newline="", encoding="utf-8") as file:
                rows = {row["hash"]: row for row in csv.DictReader(file)}
            for name, digest in report["shards"].items():
                if sha256(folder / "shards" / name) == digest:
                    self._shards[name] = np.memmap(folder / "shards" / name, np.uint8, "r")
            self._rows = rows
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return  # none, or damaged: nothing is used again

    def get(self, one: Named) -> _Packed | None:
        row = self._rows.get(one.hash)
        if row is None or row["shard"] not in self._shards:
            return None
        if Path(row["origin"]).suffix != one.path.suffix:
            return None  # a new extension may be the wrong one: its flags are made anew
        start = int(row["offset"])
        jpeg = self._shards[row["shard"]][start : start + int(row["length"])].tobytes()
        return _Packed(replace(one, flags=row["flags"], fingerprint=row["fingerprint"]), jpeg)


def _pack(one: Named, params: Params) -> _Packed | Bad:
    data = one.path.read_bytes()
    if hashlib.sha256(data).hexdigest() != one.hash:
        raise PawprintError(f"{one.path} changed while it was read. Run again when nothing writes to the photographs.")
    try:
        looked = check.look(data, one.path.suffix, params.preprocess)
    except image.BadImage as error:
        return Bad(one.path, error.reason, str(error))
    jpeg = image.encode(looked.pixels, params.preprocess.quality)
    return _Packed(replace(one, flags=looked.flags, fingerprint=looked.fingerprint), jpeg)


def _shards(photographs: list[Named]) -> Iterable[tuple[str, list[Named]]]:
    """Name and members of each shard: as many shards as it takes, a power of two, by the hash's leading bits."""
    bits = max(0, (len(photographs) - 1) // SHARD).bit_length()
    shards: dict[int, list[Named]] = {}
    for one in photographs:  # sorted by hash, so the shards are too
        shards.setdefault(int(one.hash[:8], 16) >> (32 - bits), []).append(one)
    for number, members in shards.items():
        yield f"{number:05}.tar", members


def _write_shard(path: Path, packed: list[_Packed]) -> list[_Row]:
    rows: list[_Row] = []
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as shard:
        for one in packed:
            entry = tarfile.TarInfo(f"{one.photograph.hash}.jpg")  # no time, no owner: the same bytes on every run
            entry.size = len(one.jpeg)
            start = shard.offset + tarfile.BLOCKSIZE
            shard.addfile(entry, io.BytesIO(one.jpeg))
            rows.append(
                {
                    "hash": one.photograph.hash,
                    "class": one.photograph.label,
                    "side": one.photograph.side,
                    "shard": path.name,
                    "offset": start,
                    "length": len(one.jpeg),
                    "origin": one.photograph.origin,
                    "flags": one.photograph.flags,
                    "fingerprint": one.photograph.fingerprint,
                }
            )
    return rows


def _without(left_out: set[Path], path: Path, members: list[tuple[_Row, Named]]) -> list[_Row]:
    """The rows of a shard, which is written again where one of its photographs is left out after all."""
    if not any(one.path in left_out for _, one in members):
        return [row for row, _ in members]
    written = path.read_bytes()
    packed = [
        _Packed(one, written[int(row["offset"]) : int(row["offset"]) + int(row["length"])])
        for row, one in members
        if one.path not in left_out
    ]
    path.unlink()
    return _write_shard(path, packed) if packed else []


def _refuse(photographs: Dataset, data: Path, rows: list[_Row], bad: list[Bad], params: Params) -> None:
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
    for kind in photographs.classes:
        if not any(row["class"] == kind for row in rows):
            raise PawprintError(f"No photograph of `{kind}` can be used. `pawprint photos check` says why.")


def _write_manifest(rows: list[_Row], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)  # the shards' order, which is the hashes'


def _report(photographs: Dataset, data: Path, rows: list[_Row], bad: list[Bad], recipe: str, folder: Path) -> Report:
    counts = Counter((row["side"], row["class"]) for row in rows)
    flags = Counter(flag for row in rows for flag in str(row["flags"]).split())
    return Report(
        dataset=photographs.name,
        drawn=photographs.drawn,
        classes=list(photographs.classes),
        photographs=len(rows),
        sides={side: {kind: counts[side, kind] for kind in photographs.classes} for side in SIDES},
        flags=dict(sorted(flags.items())),
        bad=[
            {"path": one.path.relative_to(data).as_posix(), "reason": one.reason, "message": one.message} for one in bad
        ],
        recipe=recipe,
        manifest=sha256(folder / "manifest.csv"),
        shards={path.name: sha256(path) for path in sorted((folder / "shards").iterdir())},
    )


def _recipe(params: Params) -> str:
    """What the bytes of a packed photograph depend on, apart from the photograph."""
    preprocess = params.preprocess
    code = [inspect.getsource(module) for module in (image, check)]
    versions = [cv2.__version__, np.__version__, PIL.__version__, simplejpeg.__version__]
    told = [preprocess.fit, preprocess.quality, preprocess.max_pixels, preprocess.min_side, *code, *versions]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()

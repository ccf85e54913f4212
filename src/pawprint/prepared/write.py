"""Photographs -> prepared/: shards of 300x300 JPEGs, manifest.csv and report.json.

    prepare(dataset(Path("data")), Path("prepared"), params)

A shard is a plain tar in WebDataset's layout (`<hash>.jpg`); the manifest says where in it each photograph's bytes
stand, so that any can be read alone. The same photographs give the same bytes, whatever the number of workers.
"""

import csv
import hashlib
import io
import json
import os
import shutil
import tarfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from pawprint import image
from pawprint.errors import PawprintError
from pawprint.params import Params
from pawprint.photos.check import Bad
from pawprint.photos.sources import Dataset
from pawprint.photos.split import SIDES, side_of

SHARD = 1000  # photographs
COLUMNS = ("hash", "class", "side", "shard", "offset", "length", "origin", "flags")
AHEAD = 256  # photographs in flight: bounds memory


@dataclass(frozen=True)
class _Packed:
    hash: str
    label: str
    origin: str
    jpeg: bytes


def prepare(photographs: Dataset, data: Path, out: Path, params: Params) -> dict[str, object]:
    """Write the prepared set, whole or not at all; returns what report.json holds.

    Raises:
        PawprintError: more than `preprocess.max_bad_share` of the photographs are bad.
    """
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "shards").mkdir(parents=True)
    try:
        rows, bad = _write_shards(photographs, data, partial, params)
        share = len(bad) / len(photographs.photographs)
        if share > params.preprocess.max_bad_share:
            raise PawprintError(
                f"{len(bad)} of {len(photographs.photographs)} photographs are bad ({share:.1%}; "
                f"`preprocess.max_bad_share` allows {params.preprocess.max_bad_share:.1%}), the first: {bad[0].path}: "
                f"{bad[0].message}. Mend or remove them, or raise the limit."
            )
        _write_manifest(rows, partial / "manifest.csv")
        counts = Counter((row["side"], row["class"]) for row in rows)
        report: dict[str, object] = {
            "dataset": photographs.name,
            "drawn": photographs.drawn,
            "classes": list(photographs.classes),
            "photographs": len(rows),
            "sides": {side: {name: counts[side, name] for name in photographs.classes} for side in SIDES},
            "bad": [asdict(one) | {"path": str(one.path.relative_to(data))} for one in bad],
        }
        (partial / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        shutil.rmtree(out, ignore_errors=True)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return report


def _write_shards(
    photographs: Dataset, data: Path, out: Path, params: Params
) -> tuple[list[dict[str, str | int]], list[Bad]]:
    rows: list[dict[str, str | int]] = []
    bad: list[Bad] = []
    seen: dict[str, str] = {}
    shard: tarfile.TarFile | None = None
    for packed in _packed(photographs, data, params):
        if isinstance(packed, Bad):
            bad.append(packed)
            continue
        if packed.hash in seen:
            bad.append(Bad(data / packed.origin, "copy", f"the same file as {seen[packed.hash]}"))
            continue
        seen[packed.hash] = packed.origin
        if len(rows) % SHARD == 0:
            if shard:
                shard.close()
            shard = tarfile.open(out / "shards" / f"{len(rows) // SHARD:05}.tar", "w", format=tarfile.USTAR_FORMAT)
        assert shard is not None
        entry = tarfile.TarInfo(f"{packed.hash}.jpg")  # no time, no owner: the same bytes on every run
        entry.size = len(packed.jpeg)
        shard.addfile(entry, io.BytesIO(packed.jpeg))
        blocks = -(-entry.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        rows.append(
            {
                "hash": packed.hash,
                "class": packed.label,
                "side": side_of(packed.hash, params.seed, params.split),
                "shard": Path(str(shard.name)).name,
                "offset": shard.offset - blocks,
                "length": entry.size,
                "origin": packed.origin,
                "flags": "",
            }
        )
    if shard:
        shard.close()
    return rows, bad


def _packed(photographs: Dataset, data: Path, params: Params) -> Iterator[_Packed | Bad]:
    """Every photograph in order, decoded and packed by threads (the codecs release the GIL)."""
    preprocess = params.preprocess

    def work(label: str, path: Path) -> _Packed | Bad:
        try:
            raw = path.read_bytes()
            jpeg = image.pack(raw, preprocess.fit, preprocess.quality, preprocess.max_pixels)
        except image.BadImage as error:
            return Bad(path, error.reason, str(error))
        origin = path.relative_to(data).as_posix()
        return _Packed(hashlib.sha256(raw).hexdigest(), label, origin, jpeg)

    everything = photographs.photographs
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(everything), AHEAD):
            yield from pool.map(work, *zip(*everything[start : start + AHEAD], strict=True))


def _write_manifest(rows: list[dict[str, str | int]], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(rows, key=lambda row: str(row["hash"])))

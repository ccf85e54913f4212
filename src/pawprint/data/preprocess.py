"""A batch of photographs by themselves: read once, checked, made 300x300, and kept as members of a tar.

    pack(Batch(photographs, data, into, params))       # a Packed or a Bad for each, in order

A batch needs nothing but the files it names, so that any thread, process or machine that sees them can take it.
Only where the bytes lie comes back; no pixels travel.
"""

import csv
import hashlib
import os
import socket
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pawprint import image
from pawprint.config import Params
from pawprint.data import quality, shards
from pawprint.data.quality import Bad, Named
from pawprint.data.shards import Packed
from pawprint.data.splits import split_of

_ONE_READS = threading.Lock()


@dataclass(frozen=True)
class Batch:
    """What `pack` is asked to do."""

    photographs: tuple[tuple[str, Path], ...]  # (class, file)
    data: Path
    into: Path  # a folder that exists
    params: Params
    earlier: tuple[Path, str] | None = None  # an earlier run's manifest and its SHA-256


@dataclass(frozen=True)
class _Kept:
    file: Path
    start: int
    length: int
    crc32: int
    suffix: str
    flags: str
    fingerprint: str


def pack(batch: Batch) -> list[Packed | Bad]:
    """Read, check and pack each; one that an earlier run packed by the same recipe is only looked up."""
    with _ONE_READS:
        known = _kept(*batch.earlier) if batch.earlier else {}
    shares, seed = batch.params.split, batch.params.seed
    root = len(os.fspath(batch.data)) + 1
    # A file for each worker, so that a batch that is done twice (a worker lost on the way) harms nothing.
    mine = batch.into / f"{socket.gethostname()}-{os.getpid()}-{threading.get_ident()}"
    done: list[Packed | Bad] = []
    with mine.open("ab", buffering=0) as file, _shards() as opened:
        end = file.seek(0, os.SEEK_END)
        for label, path in batch.photographs:
            where = os.fspath(path)
            content = _read(where)
            digest = hashlib.sha256(content).hexdigest()
            naming = digest, label, where[root:], path, split_of(digest, seed, shares)
            kept = known.get(digest)
            # a new extension may be the wrong one: its flags are made anew
            if kept and os.path.splitext(where)[1] == kept.suffix and _is_whole(kept, opened):  # noqa: PTH122
                one = Named(*naming, kept.flags, kept.fingerprint)
                done.append(Packed(one, kept.file, kept.start, kept.length, kept.crc32))
                continue
            try:
                looked = quality.look(content, path.suffix, batch.params.preprocess)
            except image.BadImage as error:
                done.append(Bad(path, error.reason, str(error)))
                continue
            jpeg = image.encode(looked.pixels, batch.params.preprocess.quality)
            member = shards.member(digest, jpeg)
            one = Named(*naming, looked.flags, looked.fingerprint)
            done.append(Packed(one, mine, end, len(jpeg), zlib.crc32(member)))
            end += shards.append(file, member)
    return done


def _read(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123  a Path's own costs as much as the hash
        return file.read()


@lru_cache(maxsize=1)
def _kept(manifest: Path, _digest: str) -> dict[str, _Kept]:
    """What the manifest with this digest lists, by hash."""
    folder = manifest.parent / "shards"
    files: dict[str, Path] = {}
    kept = {}
    with manifest.open(newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        next(rows)
        for digest, _, _, shard, offset, length, crc32, origin, flags, fingerprint in rows:
            name = files.setdefault(shard, folder / shard)
            suffix = os.path.splitext(origin)[1]  # noqa: PTH122
            start = int(offset) - shards.BLOCK
            kept[digest] = _Kept(name, start, int(length), int(crc32, 16), suffix, flags, fingerprint)
    return kept


def _is_whole(kept: _Kept, opened: dict[Path, int]) -> bool:
    try:
        if kept.file not in opened:
            opened[kept.file] = os.open(kept.file, os.O_RDONLY)
        member = os.pread(opened[kept.file], shards.size(kept.length), kept.start)
    except OSError:
        return False
    return zlib.crc32(member) == kept.crc32


@contextmanager
def _shards() -> Iterator[dict[Path, int]]:
    opened: dict[Path, int] = {}
    try:
        yield opened
    finally:
        for descriptor in opened.values():
            os.close(descriptor)

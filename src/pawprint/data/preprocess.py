"""A batch of photographs by themselves: read once, checked, made 300x300, and kept as members of a tar.

    pack(Batch(photographs, data, into, params))       # a Packed or a Rejected for each, in order

A batch needs only the files that it names, so that any thread or process can take it. Only where the bytes lie is
returned; no pixels travel.
"""

import hashlib
import os
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
from pawprint.data.dataset import ManifestRow, read_manifest
from pawprint.data.quality import Photograph, Rejected
from pawprint.data.shards import Packed
from pawprint.data.splits import split_of

_ONE_READS = threading.Lock()


@dataclass(frozen=True)
class Batch:
    """The input of `pack`."""

    photographs: tuple[tuple[str, Path], ...]  # (class, file)
    data: Path
    into: Path  # a folder that exists
    params: Params
    earlier: tuple[Path, str] | None = None  # an earlier run's manifest and its SHA-256


def pack(batch: Batch) -> list[Packed | Rejected]:
    """Read, check and pack each; what an earlier run packed by the same recipe is reused."""
    with _ONE_READS:
        known = _known(*batch.earlier) if batch.earlier else {}
    shares, seed = batch.params.split, batch.params.seed
    root = len(os.fspath(batch.data)) + 1
    mine = batch.into / f"{os.getpid()}-{threading.get_ident()}"  # a file for each worker
    done: list[Packed | Rejected] = []
    with mine.open("ab", buffering=0) as file, _opened_shards() as opened:
        end = file.seek(0, os.SEEK_END)
        for label, path in batch.photographs:
            where = os.fspath(path)
            with open(where, "rb", buffering=0) as original:  # noqa: PTH123  a Path's own costs as much as the hash
                content = original.read()
            digest = hashlib.sha256(content).hexdigest()
            named = digest, label, where[root:], path, split_of(digest, seed, shares)
            # a changed suffix may be a wrong one: its flags are computed again
            if (kept := known.get(digest)) and os.path.splitext(where)[1] == os.path.splitext(kept.origin)[1]:  # noqa: PTH122
                shard = batch.earlier[0].parent / "shards" / kept.shard if batch.earlier else mine
                earlier = Packed(
                    Photograph(*named, kept.flags, kept.phash), shard, kept.offset - shards.BLOCK, kept.length,
                    int(kept.crc32, 16),
                )  # fmt: skip
                if _is_intact(earlier, opened):
                    done.append(earlier)
                    continue
            try:
                checked = quality.check(content, path.suffix, batch.params.preprocess)
            except image.BadImage as error:
                done.append(Rejected(path, error.reason, str(error)))
                continue
            jpeg = image.encode(checked.pixels, batch.params.preprocess.quality)
            member = shards.member(digest, jpeg)
            photograph = Photograph(*named, checked.flags, checked.phash)
            done.append(Packed(photograph, mine, end, len(jpeg), zlib.crc32(member)))
            end += shards.append(file, member)
    return done


@lru_cache(maxsize=1)
def _known(manifest: Path, _digest: str) -> dict[str, ManifestRow]:
    """The rows of the manifest with this digest, by hash."""
    return {row.hash: row for row in read_manifest(manifest)}


def _is_intact(packed: Packed, opened: dict[Path, int]) -> bool:
    try:
        if packed.file not in opened:
            opened[packed.file] = os.open(packed.file, os.O_RDONLY)
        member = os.pread(opened[packed.file], shards.size(packed.length), packed.start)
    except OSError:
        return False
    return zlib.crc32(member) == packed.crc32


@contextmanager
def _opened_shards() -> Iterator[dict[Path, int]]:
    opened: dict[Path, int] = {}
    try:
        yield opened
    finally:
        for descriptor in opened.values():
            os.close(descriptor)

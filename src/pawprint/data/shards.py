"""Shards: plain tars in WebDataset's layout, put together from members that are ready.

member("9f86d0...", jpeg)                # header, bytes and padding, as they stand in a tar
write(folder, packed)                    # (photograph, shard, offset of its JPEG), sorted by hash
"""

import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from pawprint import files
from pawprint.data.quality import Photograph
from pawprint.parallel import cores

SHARD = 1024  # photographs; as many shards as it takes to stay below, a power of two
BLOCK = tarfile.BLOCKSIZE


@dataclass(frozen=True)
class Packed(Photograph):
    """A photograph as a member of a tar."""

    file: str  # where the member lies: a shard of the earlier run, or the file of new ones
    start: int  # of the member's header in `file`
    length: int  # of the JPEG behind the header
    crc32: int  # of the whole member: header, JPEG and padding


def size(length: int) -> int:
    """Bytes of a member whose JPEG has `length`."""
    return BLOCK + -(-length // BLOCK) * BLOCK


def member(name: str, jpeg: bytes) -> bytes:
    """The member `<name>.jpg`, with no time and no owner: the same bytes on every run."""
    entry = tarfile.TarInfo(f"{name}.jpg")
    entry.size = len(jpeg)
    return entry.tobuf(tarfile.USTAR_FORMAT) + jpeg + bytes(-len(jpeg) % BLOCK)


def write(folder: Path, packed: Sequence[Packed]) -> Iterator[tuple[Packed, str, int]]:
    """All photographs (sorted by hash) into shards; (photograph, shard, offset of its JPEG) in the same order.

    The hash's leading bits name the shard: a photograph's place is a function of the set.
    """
    bits = max(0, (len(packed) - 1) // SHARD).bit_length()
    shards = {
        f"{number:05}.tar": list(members)
        for number, members in groupby(packed, lambda one: int(one.hash[:8], 16) >> (32 - bits))
    }
    with ThreadPoolExecutor(cores()) as pool:
        list(pool.map(lambda name: _write_shard(folder / name, shards[name]), shards))
    for name, members in shards.items():
        start = 0
        for one in members:
            yield one, name, start + BLOCK
            start += size(one.length)


def _write_shard(path: Path, members: Sequence[Packed]) -> None:
    with path.open("wb") as shard:
        for one in members:
            shard.write(files.read_range(Path(one.file), one.start, size(one.length)))
        end = shard.tell() + 2 * BLOCK
        shard.write(bytes(2 * BLOCK + -end % tarfile.RECORDSIZE))

"""Shards: plain tars in WebDataset's layout, put together from members that are ready.

member("9f86d0...", jpeg)                # header, bytes and padding, as they stand in a tar
write(folder, packed)                    # (photograph, shard, offset of its JPEG), sorted by hash
"""

import os
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pawprint.data.quality import Photograph

SHARD = 1024  # photographs; as many shards as it takes to stay below, a power of two
BLOCK = tarfile.BLOCKSIZE
RUN = 1 << 20  # bytes that are copied at once where members stand side by side


@dataclass(frozen=True)
class Packed:
    """A photograph as a member of a tar."""

    photograph: Photograph
    file: Path  # where the member lies: a shard of the earlier run, or a worker's own file
    start: int  # of the member's header in `file`
    length: int  # of the JPEG behind the header
    crc32: int  # of the whole member: header, JPEG and padding


def size(length: int) -> int:
    """Bytes of a member whose JPEG has `length`."""
    return BLOCK + -(-length // BLOCK) * BLOCK


def member(name: str, jpeg: bytes) -> bytes:
    """The member `<name>.jpg`, with no time and no owner: the same bytes on every run."""
    header = bytearray(_HEADER)
    header[: len(name) + 4] = f"{name}.jpg".encode()
    header[124:135] = b"%011o" % len(jpeg)
    header[148:156] = b"%06o\0 " % (sum(header) + 8 * 32)  # the sum is taken with spaces in its own place
    return b"".join((header, jpeg, bytes(-len(jpeg) % BLOCK)))


def write(folder: Path, packed: Sequence[Packed]) -> list[tuple[Packed, str, int]]:
    """All photographs (sorted by hash) into shards; (photograph, shard, offset of its JPEG) in the same order."""
    named = list(_shards(packed))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda one: _write_shard(folder / one[0], one[1]), named))
    placed = []
    for name, members in named:
        start = 0
        for one in members:
            placed.append((one, name, start + BLOCK))
            start += size(one.length)
    return placed


def _shards(packed: Sequence[Packed]) -> Iterator[tuple[str, list[Packed]]]:
    """Name and members of each shard, by the hash's leading bits: a photograph's place is a function of the set."""
    bits = max(0, (len(packed) - 1) // SHARD).bit_length()
    shards: dict[int, list[Packed]] = {}
    for one in packed:
        shards.setdefault(int(one.photograph.hash[:8], 16) >> (32 - bits), []).append(one)
    for number, members in shards.items():
        yield f"{number:05}.tar", members


def _write_shard(path: Path, members: Sequence[Packed]) -> None:
    with ExitStack() as stack, path.open("wb", buffering=0) as shard:
        opened: dict[Path, BinaryIO] = {}
        written = 0
        for file, start, length in _runs(members):
            if file not in opened:
                opened[file] = stack.enter_context(file.open("rb"))
            data = os.pread(opened[file].fileno(), length, start)
            if len(data) != length:
                raise OSError(f"{file} ends before {start + length} bytes")
            written += append(shard, data)
        end = 2 * BLOCK
        append(shard, bytes(end + -(written + end) % tarfile.RECORDSIZE))


def _runs(members: Sequence[Packed]) -> Iterator[tuple[Path, int, int]]:
    """(file, start, length): members that stand side by side, as in an earlier shard, are copied at once."""
    file, start, length = members[0].file, members[0].start, 0
    for one in members:
        if (one.file, one.start) != (file, start + length) or length > RUN:
            yield file, start, length
            file, start, length = one.file, one.start, 0
        length += size(one.length)
    yield file, start, length


def append(file: BinaryIO, data: bytes) -> int:
    """Write all of it, however the system cuts it, to an unbuffered file; its length."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
    return len(data)


_HEADER = tarfile.TarInfo("").tobuf(tarfile.USTAR_FORMAT)
_HEADER = _HEADER[:124] + b"0" * 11 + b"\0" + _HEADER[136:148] + bytes(8) + _HEADER[156:]

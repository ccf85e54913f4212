"""Shards: plain tars in WebDataset's layout, put together from members that are ready.

member("9f86d0...", jpeg)                # header, bytes and padding, as they stand in a tar
write(folder, packed, {})                # (photograph, shard, offset of its JPEG), sorted by hash
"""

import tarfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate, chain, groupby
from pathlib import Path

from pawprint import files
from pawprint.data.quality import Photograph
from pawprint.parallel import cores

SHARD = 1024  # photographs; as many shards as it takes to stay below, a power of two
GENERATIONS = 32  # of shards: what came in at one time; so many times a set grows before some are put together
BLOCK = tarfile.BLOCKSIZE


@dataclass(frozen=True, slots=True)
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


def write(folder: Path, packed: Sequence[Packed], before: Mapping[str, int]) -> Iterator[tuple[Packed, str, int]]:
    """All photographs (sorted by hash) into shards; (photograph, shard, offset of its JPEG) in the same order.

    `before` has the shards of the earlier run: path -> photographs in it. Each is taken as it is where all of its
    photographs are used still, and is written without the others where not. New photographs become a generation of
    shards of their own, in which the hash's leading bits name the shard. Where there are more than GENERATIONS, the
    newest are written anew as one: from the first that is no larger than all after it, so that a photograph is written
    again a few times while the set grows, and the oldest and largest stay.
    """
    kept: dict[str, list[int]] = defaultdict(list)  # shard of before, "" for new ones -> places in `packed`
    for place, one in enumerate(packed):
        kept[one.file if one.file in before else ""].append(place)
    again, generations = kept.pop("", []), defaultdict[int, list[str]](list)
    for file in sorted(kept):
        generations[int(Path(file).name.rpartition("-")[0] or 0)].append(file)
    numbers = sorted(generations)
    stay = len(numbers)
    if again and stay >= GENERATIONS:
        sizes = [*(sum(len(kept[file]) for file in generations[number]) for number in numbers), len(again)]
        stay = next((first for first in range(stay) if sizes[first] <= sum(sizes[first + 1 :])), stay)
    staying = [file for number in numbers[:stay] for file in generations[number]]
    written = {Path(file).name: kept.pop(file) for file in staying}
    linked = {Path(file).name: Path(file) for file in staying if before[file] == len(written[Path(file).name])}
    if again := sorted(chain(again, *kept.values())):
        number = numbers[stay] if stay < len(numbers) else numbers[-1] + 1 if numbers else 0
        bits = max(0, (len(again) - 1) // SHARD).bit_length()
        for part, group in groupby(again, lambda place: int(packed[place].hash[:8], 16) >> (32 - bits)):
            written[f"{number:04}-{part:05}.tar" if number else f"{part:05}.tar"] = list(group)

    def make(name: str) -> None:
        members = [packed[place] for place in written[name]]
        if not (name in linked and _link(linked[name], folder / name, members)):
            _write_shard(folder / name, members)

    with ThreadPoolExecutor(cores()) as pool:
        list(pool.map(make, written))
    placed = [("", 0)] * len(packed)
    for name, places in written.items():
        start = 0
        for place in places:
            placed[place] = name, start + BLOCK
            start += size(packed[place].length)
    for one, (name, offset) in zip(packed, placed, strict=True):
        yield one, name, offset


def _link(shard: Path, target: Path, members: Sequence[Packed]) -> bool:
    """Take a shard of the earlier run, whose members were checked, as it is; False where it is none.

    Nothing is copied where the disk has hard links; no shard is ever written in place.
    """
    end = sum(size(one.length) for one in members)
    tail = _tail(end)
    starts = accumulate((size(one.length) for one in members), initial=0)
    try:
        if shard.stat().st_size != end + len(tail) or files.read_range(shard, end, len(tail)) != tail:
            return False
        if any(one.start != start for one, start in zip(members, starts)):  # noqa: B905
            return False
        target.hardlink_to(shard.resolve())
    except OSError:
        return False
    return True


def _write_shard(path: Path, members: Sequence[Packed]) -> None:
    with path.open("wb") as shard:
        for one in members:
            shard.write(files.read_range(Path(one.file), one.start, size(one.length)))
        shard.write(_tail(shard.tell()))


def _tail(end: int) -> bytes:
    """What closes a tar whose last member ends at `end`."""
    return bytes(2 * BLOCK + -(end + 2 * BLOCK) % tarfile.RECORDSIZE)

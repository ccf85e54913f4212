"""Photographs by themselves: each is read once, checked, made 300x300 and kept as a member of a tar.

pack = Packer(data, params, earlier=Path("prepared"))
pack([("cat", Path("data/cat/1.jpg"))])            # [(Packed, its member)] or [(Rejected, b"")]; in any thread

survey(dataset(data), data, params)                # the same checks, and nothing is written
"""

import hashlib
import os
import zlib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from pawprint import files, image
from pawprint.config import Params
from pawprint.data import duplicates, manifest, origins, quality, shards
from pawprint.data.class_folders import INVENTORY, Dataset
from pawprint.data.inventory import Entries, Entry, Inventory
from pawprint.data.quality import Photograph, Rejected
from pawprint.data.shards import Packed
from pawprint.data.splits import SPLITS, split_of
from pawprint.parallel import cores

CUTS = "cuts.npy"  # of a prepared set: the hashes of cut pictures of each photograph that is used, sorted by hash
KNOWN = "hash", "origin", "flags", "phash", "shard", "offset", "length", "crc32"  # of a photograph's row, to reuse it
CUTS_TYPE = np.dtype([("hash", "S32"), ("cuts", np.uint8, (quality.CUTS, quality.BITS // 8))])


class Packer:
    """Packs photographs; what an earlier run packed by the same recipe is reused where it lies."""

    def __init__(self, data: Path, params: Params, earlier: Path | None = None) -> None:
        self._data, self._params = data, params
        self._own_test, self._groups = origins.own_test(data), origins.Groups(data, params.split.group)
        rows = manifest.read(earlier / manifest.FILE) if earlier else manifest.Rows.of(())
        used = rows.of_splits(*SPLITS)
        self._known = [used.column(name) for name in KNOWN]
        self._cuts = np.asarray(np.load(earlier / CUTS, mmap_mode="r")) if earlier else np.empty(0, CUTS_TYPE)
        self._hashes = np.ascontiguousarray(self._cuts["hash"])  # in the order of the rows
        self._shards = (earlier or Path()) / "shards"
        self._inventory, seen = Inventory.of(data), (earlier or Path()) / INVENTORY
        self._seen = Entries.read(seen) if earlier and self._inventory and seen.exists() else None

    def __call__(self, photographs: Sequence[tuple[str, Path]]) -> list[tuple[Packed | Rejected, bytes]]:
        """Read, check and pack photographs, given their class and file. A new member's bytes are the caller's to write:
        its Packed has no `file` yet."""
        return [self._pack(label, path) for label, path in photographs]

    def _pack(self, label: str, path: Path) -> tuple[Packed | Rejected, bytes]:
        about = self._data, self._params, self._own_test, self._groups
        if self._inventory:
            known = self._read_before(self._inventory.entry(path))
            if known and (earlier := self._reused(*_named(label, path, known, *about))):
                return earlier, b""
            content = self._inventory.read(path)
        else:
            with path.open("rb", buffering=0) as original:
                content = original.readall()
        identity = _named(label, path, hashlib.sha256(content).hexdigest(), *about)
        if earlier := self._reused(*identity):
            return earlier, b""
        try:
            checked = quality.check(content, path.suffix, self._params.preprocess)
        except image.BadImage as error:
            return Rejected(path, identity[0], error.reason, str(error)), b""
        jpeg = image.encode(checked.pixels, self._params.preprocess.quality)
        member = shards.member(identity[0], jpeg)
        packed = Packed(*identity, checked.flags, checked.phash, checked.cuts, "", 0, len(jpeg), zlib.crc32(member))
        return packed, member

    def _read_before(self, now: Entry) -> str:
        """The hash of an object that an earlier run read, and that is the same still; "" of another."""
        before = self._seen.find(now.label, now.key) if self._seen else None
        return before.hash if before and before._replace(hash="") == now else ""

    def _reused(self, digest: str, label: str, origin: str, path: Path, split: str, group: str) -> Packed | None:
        """The member of the earlier run, if it is intact. A changed suffix may be a wrong one: its flags differ."""
        name = bytes.fromhex(digest)
        place = int(self._hashes.searchsorted(name))
        if place >= min(len(self._hashes), len(self._known[0])) or self._hashes[place].ljust(32, b"\0") != name:
            return None
        known, before, flags, phash, in_shard, offset, length, crc32 = (one[place].as_py() for one in self._known)
        if known != name or before.rpartition(".")[2] != path.name.rpartition(".")[2]:
            return None
        shard, start = self._shards / in_shard, offset - shards.BLOCK
        try:
            if zlib.crc32(files.read_range(shard, start, shards.size(length))) != crc32:
                return None
        except OSError:
            return None
        cuts, member = self._cuts["cuts"][place].tobytes(), (os.fspath(shard), start, length, crc32)
        return Packed(digest, label, origin, path, split, group, flags, phash.hex(), cuts, *member)


def survey(photographs: Dataset, data: Path, params: Params) -> tuple[list[Rejected], Counter[str]]:
    """Check the whole set and write nothing: what would be rejected, and how many carry each flag."""
    own_test, groups = origins.own_test(data), origins.Groups(data, params.split.group)
    inventory = Inventory.of(data)

    def work(photograph: tuple[str, Path]) -> Photograph | Rejected:
        label, path = photograph
        content = inventory.read(path) if inventory else path.read_bytes()
        identity = _named(label, path, hashlib.sha256(content).hexdigest(), data, params, own_test, groups)
        try:
            checked = quality.check(content, path.suffix, params.preprocess)
        except image.BadImage as error:
            return Rejected(path, identity[0], error.reason, str(error))
        return Photograph(*identity, checked.flags, checked.phash, checked.cuts)

    with ThreadPoolExecutor(cores()) as pool:
        seen = list(pool.map(work, photographs.photographs))
    used, rejected, _ = duplicates.screen(seen, params.preprocess.near_copy_bits)
    return rejected, Counter(flag for one in used for flag in one.flags.split())


def _named(
    label: str, path: Path, digest: str, data: Path, params: Params, own_test: frozenset[str], groups: origins.Groups
) -> tuple[str, str, str, Path, str, str]:
    """The first fields of a Photograph."""
    origin = path.as_posix()[len(data.as_posix()) + 1 :]
    group = groups.of(digest, origin)
    return digest, label, origin, path, split_of(digest, params.seed, params.split, own_test, group), group

"""Which photographs are bad, by name and reason.

    looked = look(Path("cat.jpg").read_bytes(), ".jpg", params.preprocess)   # pixels, flags, fingerprint; or BadImage
    kept, bad = copies(named)                                                # the same file twice
    bad += near_copies(fingerprinted)                                        # the same picture twice
    survey(dataset(Path("data")), params)                                    # all of it, with nothing written

Bad is what gives no photograph to learn from. What is only unusual (CMYK, a wrong extension) is converted, and
flagged.
"""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from pawprint import image
from pawprint.params import Params, Preprocess
from pawprint.photos.sources import Dataset
from pawprint.photos.split import side_of

BLANK = 3.0  # standard deviation of the grey levels; a lens cap has 1 to 2, fog about 8
BITS = 144  # of a fingerprint: nine words of 16 bits
NEAR = 8  # bits: with nine words, two fingerprints this close have at least one word in common
NOTHING = hashlib.sha256().hexdigest()
NEIGHBOURS = 64  # compared with in each word's order: bounds the cost when thousands share a word
SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"), "MPO": (".jpg", ".jpeg", ".mpo"), "PNG": (".png", ".apng"),
    "GIF": (".gif",), "WEBP": (".webp",), "BMP": (".bmp", ".dib"), "TIFF": (".tif", ".tiff"),
}  # fmt: skip


@dataclass(frozen=True)
class Bad:
    """A photograph that is left out, and why."""

    path: Path
    reason: str  # a short code: BadImage's, or blank, tiny, copy, near_copy, two_labels
    message: str


@dataclass(frozen=True)
class Look:
    """What one photograph is, by itself."""

    pixels: image.Pixels  # uint8 [300, 300, 3]
    flags: str  # what was converted, words with spaces between: "cmyk wrong_extension"
    fingerprint: str  # hex of BITS bits; near pictures have near fingerprints


@dataclass(frozen=True)
class Named:
    """A photograph in the set."""

    hash: str  # SHA-256 of its bytes
    label: str
    origin: str  # path below data/
    path: Path
    side: str
    flags: str = ""
    fingerprint: str = ""


def look(data: bytes, suffix: str, preprocess: Preprocess) -> Look:
    """Check and resize one photograph, given its bytes and its file's suffix.

    Raises:
        BadImage: as image.decode does, and `tiny` or `blank`.
    """
    header = image.inspect(data)
    if min(header.width, header.height) < preprocess.min_side:
        raise image.BadImage(
            "tiny", f"it is {header.width}x{header.height}; a side has at least {preprocess.min_side} pixels"
        )
    pixels = image.resize(image.decode(data, preprocess.max_pixels), preprocess.fit)
    small = cv2.cvtColor(cv2.resize(pixels, (60, 60), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
    if small.std() < BLANK:
        raise image.BadImage("blank", "it shows one colour and nothing else")
    return Look(pixels, " ".join(_flags(header, suffix)), _fingerprint(small))


def hash_all(photographs: Dataset, data: Path, params: Params, pool: ThreadPoolExecutor) -> list[Named]:
    """Every file of the set by its content hash, and the side that follows from it; in the set's order."""

    def work(labelled: tuple[str, Path]) -> Named:
        label, path = labelled
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        return Named(digest, label, path.relative_to(data).as_posix(), path, side_of(digest, params.seed, params.split))

    return list(pool.map(work, photographs.photographs))


def copies(named: Iterable[Named]) -> tuple[list[Named], list[Bad]]:
    """One of each content, sorted by hash, and the rest. The same file under two labels is left out altogether."""
    groups: dict[str, list[Named]] = defaultdict(list)
    for one in named:
        groups[one.hash].append(one)
    kept, bad = [], []
    for digest, (first, *others) in sorted(groups.items()):
        if digest == NOTHING:
            kept += [first, *others]  # each is bad by itself, as `empty`
            continue
        if any(other.label != first.label for other in others):
            everyone = ", ".join(one.origin for one in (first, *others))
            bad += [
                Bad(one.path, "two_labels", f"the same file has two labels: {everyone}") for one in (first, *others)
            ]
            continue
        kept.append(first)
        bad += [Bad(other.path, "copy", f"the same file as {first.origin}") for other in others]
    return kept, bad


def near_copies(named: Sequence[Named]) -> list[Bad]:
    """Who must be left out because the same picture is there in another file.

    A group under two labels is left out altogether, for one label is wrong. Of a group that spans sides, what
    lies on validation and test is left out: the model would be asked what it was told. Nothing is moved.
    """
    bad = []
    for group in _groups([one.fingerprint for one in named]):
        members = [named[index] for index in group]
        for one in members:
            others = ", ".join(other.origin for other in members if other is not one)
            if len({other.label for other in members}) > 1:
                bad.append(Bad(one.path, "two_labels", f"the same picture has two labels: {one.origin}, {others}"))
            elif len({other.side for other in members}) > 1 and one.side != "train":
                bad.append(Bad(one.path, "near_copy", f"on {one.side}, and the same picture as {others} elsewhere"))
    return bad


def survey(photographs: Dataset, data: Path, params: Params) -> tuple[list[Bad], Counter[str]]:
    """Check the whole set and write nothing: what is bad, and how many carry each flag."""

    def work(one: Named) -> Named | Bad:
        try:
            looked = look(one.path.read_bytes(), one.path.suffix, params.preprocess)
        except image.BadImage as error:
            return Bad(one.path, error.reason, str(error))
        return replace(one, flags=looked.flags, fingerprint=looked.fingerprint)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        kept, bad = copies(hash_all(photographs, data, params, pool))
        seen = list(pool.map(work, kept))
    good = [one for one in seen if isinstance(one, Named)]
    bad += [one for one in seen if isinstance(one, Bad)]
    bad += near_copies(good)
    return bad, Counter(flag for one in good for flag in one.flags.split())


def _flags(header: image.Header, suffix: str) -> Iterable[str]:
    if header.frames > 1 and header.format != "MPO":  # a camera's MPO holds a preview, not a film
        yield "animated"
    if header.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        yield "alpha"
    if header.mode == "CMYK":
        yield "cmyk"
    if header.mode.startswith("I") or header.mode == "F":
        yield "deep"
    if header.mode in ("1", "L", "LA"):
        yield "grey"
    if header.orientation not in (0, 1):
        yield "rotated"
    if suffix.lower() not in SUFFIXES.get(header.format, (suffix.lower(),)):
        yield "wrong_extension"


def _fingerprint(grey: NDArray[np.uint8]) -> str:
    """Signs of the 144 lowest frequencies of grey [60, 60]: the same for a copy that was scaled or compressed."""
    frequencies = cv2.dct(grey.astype(np.float32))[:17, :17]
    return np.packbits(frequencies[_LOWEST] >= 0).tobytes().hex()


def _lowest() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    rows, columns = np.indices((17, 17))
    order = np.argsort((rows + columns).ravel(), kind="stable")[1 : BITS + 1]  # the first is the mean
    return rows.ravel()[order], columns.ravel()[order]


_LOWEST = _lowest()


def _groups(fingerprints: Sequence[str]) -> list[list[int]]:
    """Indices of pictures that are near each other, directly or by way of others; groups of two and more.

    Two that differ in at most NEAR of BITS bits agree in one of nine words. So each word in turn orders the set,
    and each picture is compared with those that follow it and share the word: the cost grows linearly.
    """
    if len(fingerprints) < 2:
        return []
    words = np.frombuffer(bytes.fromhex("".join(fingerprints)), np.uint16).reshape(len(fingerprints), -1)
    parents = list(range(len(fingerprints)))

    def root(index: int) -> int:
        while parents[index] != index:
            parents[index] = parents[parents[index]]
            index = parents[index]
        return index

    for column in range(words.shape[1]):
        order = np.lexsort((*words.T, words[:, column]))  # then by all of it: equal ones stand side by side
        for apart in count(1):
            first, second = order[:-apart], order[apart:]
            same = words[first, column] == words[second, column]
            if apart > NEIGHBOURS or not same.any():
                break
            first, second = first[same], second[same]
            near = np.bitwise_count(words[first] ^ words[second]).sum(1) <= NEAR
            for one, other in zip(first[near].tolist(), second[near].tolist(), strict=True):
                parents[root(one)] = root(other)
    groups: dict[int, list[int]] = defaultdict(list)
    for index in range(len(fingerprints)):
        groups[root(index)].append(index)
    return [group for group in groups.values() if len(group) > 1]

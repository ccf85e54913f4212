"""Near-copies that are found among all photographs of an archive, by how they were changed, and what the search costs.

    python benchmarks/near_copies.py train.zip --changed 250

Some photographs are changed and compressed again; each is then looked for among all others of the archive. "whole" are
the pictures within `preprocess.near_copy_bits` as they are, "found" what preprocess finds. Besides: groups among the
photographs themselves, for a person to look at.
"""

import argparse
import os
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from pawprint import image
from pawprint.config import Preprocess
from pawprint.data import duplicates, quality
from pawprint.data.quality import CheckResult
from pawprint.evaluation.summary import machine

Pixels = NDArray[np.uint8]
RNG = np.random.default_rng(2017)


def cut(left: float, top: float, right: float, bottom: float) -> Callable[[Pixels], Pixels]:
    """Without these shares of the sides."""

    def change(pixels: Pixels) -> Pixels:
        height, width = pixels.shape[:2]
        down, across = (top, height - round(bottom * height)), (left, width - round(right * width))
        return pixels[round(down[0] * height) : down[1], round(across[0] * width) : across[1]]

    return change


def anywhere(share: float) -> Callable[[Pixels], Pixels]:
    """Without `share` of each side, at a place that is drawn."""

    def change(pixels: Pixels) -> Pixels:
        left, top = RNG.random(2) * share
        return cut(left, top, share - left, share - top)(pixels)

    return change


def border(share: float, grey: int) -> Callable[[Pixels], Pixels]:
    """With a border of one grey."""

    def change(pixels: Pixels) -> Pixels:
        down, across = (round(share * side) for side in pixels.shape[:2])
        colour = (grey, grey, grey)
        return np.asarray(
            cv2.copyMakeBorder(pixels, down, down, across, across, cv2.BORDER_CONSTANT, value=colour), np.uint8
        )

    return change


def mirror(pixels: Pixels) -> Pixels:
    return pixels[:, ::-1]


CHANGES: dict[str, Callable[[Pixels], Pixels]] = {
    "compressed again": lambda pixels: pixels,
    "mirror image": mirror,
    "5 % of each side cut off": cut(0.05, 0.05, 0.05, 0.05),
    "2.5 % of each side cut off": cut(0.025, 0.025, 0.025, 0.025),
    "3 % of each side cut off": cut(0.03, 0.03, 0.03, 0.03),
    "5 % of one side cut off": cut(0.05, 0, 0, 0),
    "5 % of two sides cut off": cut(0, 0.05, 0.05, 0),
    "5 % cut off, anywhere": anywhere(0.05),
    "10 % cut off, anywhere": anywhere(0.1),
    "border of 5 %, black": border(0.05, 0),
    "border of 5 %, white": border(0.05, 255),
    "border of 2 %, black": border(0.02, 0),
    "border of 10 %, white": border(0.1, 255),
    "mirrored, 5 % cut off": lambda pixels: mirror(cut(0.05, 0.05, 0.05, 0.05)(pixels)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("archive", type=Path, help="a zip of photographs")
    parser.add_argument("--changed", type=int, default=250, help="how many photographs are changed")
    arguments = parser.parse_args()
    preprocess = Preprocess()
    archive = zipfile.ZipFile(arguments.archive)
    contents = {name: archive.read(name) for name in sorted(archive.namelist()) if Path(name).suffix == ".jpg"}

    def check(content: bytes) -> CheckResult | None:
        try:
            return quality.check(content, ".jpg", preprocess)
        except image.BadImage:
            return None

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        began = time.perf_counter()
        checked = dict(zip(contents, pool.map(check, contents.values()), strict=True))
        seconds = time.perf_counter() - began
        known = {name: one for name, one in checked.items() if one}
        names = list(known)
        began = time.process_time()
        for one in known.values():
            quality._cuts(one.pixels)
        hashing = time.process_time() - began
        phashes, cuts = [one.phash for one in known.values()], [one.cuts for one in known.values()]
        began = time.process_time()
        groups = duplicates.near_groups(phashes, preprocess.near_copy_bits, cuts)
        searching = time.process_time() - began
        table = Table(title=f"{len(names):,} photographs, {arguments.changed} changed; {machine()}")
        for column in ("change", "whole", "found"):
            table.add_column(column)
        chosen = RNG.choice(len(names), arguments.changed, replace=False).tolist()
        for words, change in CHANGES.items():

            def changed(place: int, change: Callable[[Pixels], Pixels] = change) -> CheckResult:
                pixels = np.ascontiguousarray(change(image.decode(contents[names[place]])))
                return quality.check(image.encode(pixels, 85), ".jpg", preprocess)

            new = list(pool.map(changed, chosen))
            bits = [bytes.fromhex(one.phash) for one in new]
            apart = [
                np.bitwise_count(np.frombuffer(one, np.uint8) ^ np.frombuffer(bytes.fromhex(phashes[place]), np.uint8))
                for one, place in zip(bits, chosen, strict=True)
            ]
            whole = sum(int(one.sum()) <= preprocess.near_copy_bits for one in apart)
            both = duplicates.near_groups(
                [*phashes, *(one.phash for one in new)],
                preprocess.near_copy_bits,
                [*cuts, *(one.cuts for one in new)],
            )
            group_of = {index: number for number, group in enumerate(both) for index in group}
            found = sum(
                group_of.get(len(names) + number, -1) == group_of.get(place, -2) for number, place in enumerate(chosen)
            )
            table.add_row(words, *(f"{count / arguments.changed:.1%}" for count in (whole, found)))
    console = Console(width=120)
    console.print(table)
    console.print(
        f"checking all {seconds:.1f} s on {os.cpu_count()} cores, of it {hashing:.1f} s of CPU for cut hashes; search "
        f"{searching:.2f} s of CPU"
    )
    for group in groups:
        console.print("alike:", ", ".join(names[index] for index in group))


if __name__ == "__main__":
    main()

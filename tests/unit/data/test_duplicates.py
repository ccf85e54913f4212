"""Near-copies: found exactly, in groups, at a cost that grows linearly."""

import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from odd_pictures import saved, scene
from pawprint.config import Preprocess
from pawprint.data import duplicates, quality


def test_near_copies_are_found_among_many_and_others_are_not() -> None:
    """Exactly the pairs within the distance, as comparing all with all finds them."""
    rng = np.random.default_rng(2017)
    phashes = rng.integers(0, 256, (2000, quality.BITS // 8), np.uint8)
    for index in range(0, 300, 3):  # some neighbours at 0 to 12 bits
        bits = np.unpackbits(phashes[index])
        bits[rng.choice(quality.BITS, rng.integers(0, 13), replace=False)] ^= 1
        phashes[index + 1] = np.packbits(bits)
    apart = np.bitwise_count(phashes[:, None] ^ phashes[None]).sum(2)
    expected = {(i, j) for i, j in zip(*np.nonzero(apart <= 8), strict=True) if i < j}
    near = {tuple(group) for group in duplicates.near_groups([one.tobytes().hex() for one in phashes], 3)}
    assert near == {(i, j) for i, j in zip(*np.nonzero(apart <= 3), strict=True) if i < j}
    found = {tuple(group) for group in duplicates.near_groups([one.tobytes().hex() for one in phashes], 8)}
    assert found == expected


@pytest.mark.parametrize("paired", [64, duplicates.PAIRED])
def test_near_copies_are_found_exactly_where_thousands_share_a_word(
    paired: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of nine words are the same in all 3,000, or mirrored; 300 pairs differ in 7 to 12 bits of all other words."""
    monkeypatch.setattr(duplicates, "PAIRED", paired)
    rng = np.random.default_rng(2017)
    hashes = rng.integers(0, 256, (3000, quality.BITS // 8), np.uint8)
    hashes[:, :4] = 7
    for index in range(0, 600, 2):
        bits = np.unpackbits(hashes[index])
        places = 32 + np.arange(112).reshape(7, 16)
        other = rng.choice(places[:, 8:].ravel(), rng.integers(0, 6), replace=False)
        bits[np.append(places[:, 0] + rng.integers(0, 8, 7), other)] ^= 1
        hashes[index + 1] = np.packbits(bits)
    hashes[rng.random(3000) < 0.5] ^= quality.MIRROR
    expected = near_pairs(hashes, 8)
    assert 60 < len(expected) < 150
    assert {tuple(group) for group in duplicates.near_groups(hashes, 8)} == expected


def near_pairs(hashes: np.ndarray, bits: int) -> set[tuple[int, int]]:
    """By comparing all with all, as they are and mirrored."""
    differ = hashes[:, None] ^ hashes[None]
    apart = np.minimum(np.bitwise_count(differ).sum(2), np.bitwise_count(differ ^ quality.MIRROR).sum(2))
    return {(int(i), int(j)) for i, j in zip(*np.nonzero(apart <= bits), strict=True) if i < j}


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32), values=st.integers(1, 300), drawn=st.integers(1, 9), paired=st.sampled_from([8, 2048])
)
def test_near_copies_and_mirror_images_are_found_exactly_whatever_words_are_shared(
    seed: int, values: int, drawn: int, paired: int
) -> None:
    """`drawn` of nine words have few values, so that hundreds share each; copies of copies too."""
    rng = np.random.default_rng(seed)
    words = rng.integers(0, 2**16, (600, 9)).astype(np.uint16)
    some = rng.choice(9, drawn, replace=False)
    words[:, some] = rng.integers(0, 2**16, (values, drawn))[rng.integers(0, values, (600, drawn)), np.arange(drawn)]
    hashes = words.view(np.uint8)
    copied = hashes[rng.integers(0, 600, 300)]
    for place in rng.integers(0, quality.BITS, (rng.integers(0, 11), 300)):
        copied[np.arange(300), place // 8] ^= (1 << place % 8).astype(np.uint8)
    copied[::2] ^= quality.MIRROR
    hashes = rng.permutation(np.concatenate([hashes, copied]))
    pairs = np.array([*near_pairs(hashes, 8)]).reshape(-1, 2)
    graph = coo_array((np.ones(len(pairs)), pairs.T), shape=(900, 900))
    group = connected_components(graph, directed=False)[1]
    expected = {tuple(np.flatnonzero(group == number)) for number in np.flatnonzero(np.bincount(group) > 1)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "PAIRED", paired)
        patch.setattr(duplicates, "NEIGHBOURS", 4)
        assert {tuple(one) for one in duplicates.near_groups(hashes, 8)} == expected


@pytest.mark.parametrize("count", [6, 7, 9, 10])
@pytest.mark.parametrize("order", [np.arange(quality.BITS), np.random.default_rng(15).permutation(quality.BITS)])
def test_words_are_the_bits_of_their_pieces(count: int, order: np.ndarray) -> None:
    """Side by side and not; a word that is wrong alike in all hashes would still find most near-copies."""
    hashes, pieces = np.random.default_rng(2017).integers(0, 256, (5, 18), np.uint8), np.array_split(order, count)
    expected = [[int("".join(map(str, bits[piece])), 2) for bits in np.unpackbits(hashes, axis=1)] for piece in pieces]
    assert duplicates._words(hashes, pieces).tolist() == expected


def test_hashes_that_differ_in_few_of_their_bits_are_divided_by_these(monkeypatch: pytest.MonkeyPatch) -> None:
    """104 of 144 bits are the same in all: each piece of them divided nothing, again at each depth."""
    searches, search = list[int](), duplicates._join_near

    def counted(hashes, *given):  # type: ignore[no-untyped-def]
        searches.append(len(hashes))
        assert len(searches) < 100
        search(hashes, *given)

    monkeypatch.setattr(duplicates, "_join_near", counted)
    monkeypatch.setattr(duplicates, "PAIRED", 512)
    hashes = np.zeros((1000, 18), np.uint8)
    hashes[:, :5] = np.random.default_rng(2017).integers(0, 256, (1000, 5))
    found = duplicates.near_groups(hashes, 8)
    assert len(searches) > 1
    assert {index for group in found for index in group} == {index for pair in near_pairs(hashes, 8) for index in pair}


def test_thousands_that_are_all_alike_are_one_group_and_reported_in_short_sentences() -> None:
    rng = np.random.default_rng(2017)
    bits = np.tile(rng.integers(0, 2, quality.BITS, np.uint8), (5000, 1))
    bits[np.arange(5000), rng.integers(0, quality.BITS, 5000)] ^= 1
    phashes = [one.tobytes().hex() for one in np.packbits(bits, axis=1)]
    splits = ["train", "test"]
    alike = [
        quality.Photograph(
            f"{n:064x}",
            "cat",
            f"cat/{n}.jpg",
            Path(f"{n}.jpg"),
            splits[n % 2],
            "",
            "",
            one,
            rng.bytes(18 * quality.CUTS),
        )
        for n, one in enumerate(phashes)
    ]
    bad = duplicates.near_copies(alike, 8)
    assert [one.path for one in bad] == [one.path for one in alike if one.split == "test"]
    assert max(len(one.message) for one in bad) < 200
    assert all("and 4,994 more" in one.message for one in bad)


CHANGES = {
    "mirror": lambda pixels: pixels[:, ::-1],
    "cut": lambda pixels: pixels[24:-24, 32:-32],
    "one side": lambda pixels: pixels[:, 32:],
    "corner": lambda pixels: pixels[24:, :-32],
    "black border": lambda pixels: cv2.copyMakeBorder(pixels, 24, 24, 32, 32, cv2.BORDER_CONSTANT),
    "wide border": lambda pixels: cv2.copyMakeBorder(pixels, 60, 60, 70, 70, cv2.BORDER_CONSTANT, value=(255,) * 3),
    "mirrored and cut": lambda pixels: pixels[24:-24, -32:32:-1],
}


def checked(pixels: np.ndarray) -> quality.CheckResult:
    return quality.check(saved(Image.fromarray(np.ascontiguousarray(pixels)), quality=85), ".jpg", Preprocess())


@pytest.mark.parametrize("change", CHANGES)
def test_a_mirrored_cut_or_bordered_copy_is_found_among_others(change: str) -> None:
    """Of twenty pictures, each with 5 % cut off or added; nothing else is found."""
    pictures = [np.asarray(scene(n, 640, 480)) for n in range(20)]
    both = [checked(one) for one in (*pictures, *map(CHANGES[change], pictures))]
    alone = duplicates.near_groups([one.phash for one in both[:20]], 8, [one.cuts for one in both[:20]])
    assert alone == []
    groups = duplicates.near_groups([one.phash for one in both], 8, [one.cuts for one in both])
    assert sorted(groups) == [[n, n + 20] for n in range(20)]
    if change == "mirror":  # of which the hash alone is enough, so that the gate finds it in a manifest of before
        assert duplicates.near_to([one.phash for one in both[:20]], [one.phash for one in both[20:]]) == set(range(20))


@pytest.mark.parametrize("words", duplicates.WORDS)
def test_hashes_of_cut_pictures_are_compared_exactly(words: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As comparing all with all does: within 16 bits of any hash of a cut picture, mirrored or not."""
    monkeypatch.setattr(duplicates, "WORDS", [words])
    rng = np.random.default_rng(4)
    whole = rng.integers(0, 256, (300, 18), np.uint8)
    cuts = rng.integers(0, 256, (300, quality.CUTS, 18), np.uint8)
    for number in range(0, 200, 2):  # 8 to 24 bits from a cut of the next
        bits = np.unpackbits(whole[number] ^ (quality.MIRROR if number % 3 else 0))
        bits[rng.choice(144, 8 + number % 17, replace=False)] ^= 1
        cuts[number + 1, number % quality.CUTS] = np.packbits(bits)
    either = np.stack([whole, whole ^ quality.MIRROR])
    apart = np.stack(
        [np.bitwise_count(either[:, :, None] ^ cuts[None, None, one]).sum(3).min((0, 2)) for one in range(300)]
    )  # fmt: skip  [whose cuts, whose whole picture]
    expected = {tuple(sorted((int(i), int(j)))) for i, j in zip(*np.nonzero(apart <= 16), strict=True) if i != j}
    found = duplicates.near_groups([one.tobytes().hex() for one in whole], 8, [one.tobytes() for one in cuts])
    assert {tuple(group) for group in found} == expected
    assert 40 < len(expected) < 60


def test_cut_pictures_are_found_where_hundreds_share_a_word() -> None:
    """146 cut pictures have the first 16 bits of each, and those of a pair differ in two of each other 16 bits."""
    rng = np.random.default_rng(2017)
    whole, cuts = (rng.integers(0, 256, (*shape, 18), np.uint8) for shape in ((3000,), (3000, quality.CUTS)))
    values = rng.integers(0, 256, (512, 2), np.uint8)
    for hashes in (whole, cuts):
        hashes[..., :2] = values[rng.integers(0, 512, hashes.shape[:-1])]
    for number in range(2800, 3000, 2):
        bits = np.unpackbits(whole[number]).reshape(9, 16)
        bits[1:, rng.choice(16, 2, replace=False)] ^= 1
        cuts[number + 1, number % quality.CUTS] = np.packbits(bits) ^ (quality.MIRROR * (number % 4 // 2))
    found = duplicates.near_groups(whole, 8, [one.tobytes() for one in cuts])
    assert found == [[number, number + 1] for number in range(2800, 3000, 2)]


def test_where_many_look_like_a_part_of_another_one_none_is_rejected_for_that() -> None:
    """Drawings of one thing on an even ground; a copy of the whole picture is rejected as before."""
    rng = np.random.default_rng(11)

    def drawn(number: int) -> quality.Photograph:
        canvas = np.full((200, 200, 3), 30, np.uint8)
        centre = tuple(int(place) for place in rng.integers(96, 105, 2))
        cv2.circle(canvas, centre, int(rng.integers(40, 50)), (220, 60, 60), -1)
        found, label = checked(canvas), ("round", "ball")[number % 2]
        name, split = f"{number:064x}", ("train", "test")[number % 3 // 2]
        return quality.Photograph(name, label, name, Path(name), split, "", "", found.phash, found.cuts)

    set_of = [drawn(number) for number in range(40)]
    used, rejected, warnings = duplicates.screen(set_of, 8)
    whole = duplicates.near_copies(set_of, 8, cut=False)
    assert len(duplicates.near_copies(set_of, 8)) > len(whole)
    assert any("with its edges cut off" in one for one in warnings)
    assert len(used) + len(rejected) == 40
    assert {one.path for one in rejected} <= {one.path for one in whole}


def test_memory_does_not_grow_with_pairs_that_share_a_word() -> None:
    """200,000 others for each of 8,000: so many are looked at, of so many photographs at a time."""
    hashes = np.random.default_rng(2017).integers(0, 256, (8000 * (quality.CUTS + 1), 18), np.uint8)
    hashes[:, :4] = 7
    joined = np.arange(8000, dtype=np.int32)
    tracemalloc.start()
    duplicates._join_cuts(hashes[:8000], hashes[8000:], 0, joined)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.array_equal(joined, np.arange(8000))
    assert peak < 250e6

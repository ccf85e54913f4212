"""Near-copies: found exactly, in groups, at a cost that grows linearly."""

from pathlib import Path

import numpy as np
import pytest

from pawprint.data import quality


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
    near = {tuple(group) for group in quality.near_groups([one.tobytes().hex() for one in phashes], 3)}
    assert near == {(i, j) for i, j in zip(*np.nonzero(apart <= 3), strict=True) if i < j}
    found = {tuple(group) for group in quality.near_groups([one.tobytes().hex() for one in phashes], 8)}
    assert found == expected


@pytest.mark.parametrize("paired", [64, quality.PAIRED])
def test_near_copies_are_found_exactly_where_thousands_share_a_word(
    paired: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of nine words are the same in all 3,000, and 300 pairs are 0 to 12 bits apart, all of them in other words."""
    monkeypatch.setattr(quality, "PAIRED", paired)
    rng = np.random.default_rng(2017)
    hashes = rng.integers(0, 256, (3000, quality.BITS // 8), np.uint8)
    hashes[:, :4] = 7
    for index in range(0, 600, 2):
        bits = np.unpackbits(hashes[index])
        bits[32 + rng.choice(quality.BITS - 32, rng.integers(0, 13), replace=False)] ^= 1
        hashes[index + 1] = np.packbits(bits)
    apart = np.bitwise_count(hashes[:, None] ^ hashes[None]).sum(2)
    expected = {(i, j) for i, j in zip(*np.nonzero(apart <= 8), strict=True) if i < j}
    assert 150 < len(expected) < 250
    found = quality.near_groups([one.tobytes().hex() for one in hashes], 8)
    assert {tuple(group) for group in found} == expected


def test_thousands_that_are_all_alike_are_one_group_and_reported_in_short_sentences() -> None:
    rng = np.random.default_rng(2017)
    bits = np.tile(rng.integers(0, 2, quality.BITS, np.uint8), (5000, 1))
    bits[np.arange(5000), rng.integers(0, quality.BITS, 5000)] ^= 1
    phashes = [one.tobytes().hex() for one in np.packbits(bits, axis=1)]
    splits = ["train", "test"]
    alike = [
        quality.Photograph(f"{n:064x}", "cat", f"cat/{n}.jpg", Path(f"{n}.jpg"), splits[n % 2], "", "", one)
        for n, one in enumerate(phashes)
    ]
    bad = quality.near_copies(alike, 8)
    assert [one.path for one in bad] == [one.path for one in alike if one.split == "test"]
    assert max(len(one.message) for one in bad) < 200
    assert all("and 4,994 more" in one.message for one in bad)

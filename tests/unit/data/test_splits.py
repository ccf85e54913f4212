"""What must be true of the split, whatever the photographs: nothing moves, nothing is told twice, the shares hold."""

import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pawprint.config import SplitShares, load_params
from pawprint.data import duplicates, quality
from pawprint.data.quality import Photograph
from pawprint.data.splits import SPLITS, split_of

ROOT = Path(__file__).parents[3]
PARAMS = load_params(ROOT / "params.yaml")
# A picture (which decides the phash), a file of it (which decides the hash), how far its bits are off, a label.
FILES = st.tuples(st.integers(0, 8), st.integers(0, 5), st.integers(0, 3), st.sampled_from(["cat", "dog"]))


def no_cuts(digest: str) -> bytes:
    """Hashes of cut pictures that are like no other's."""
    return np.random.default_rng(int(digest[:8], 16)).bytes(18 * quality.CUTS)


def photograph(picture: int, file: int, off: int, label: str) -> Photograph:
    """Files of one picture lie at most 6 bits from each other, those of another about 72."""
    rng = np.random.default_rng((picture, 99))
    bits = rng.integers(0, 2, quality.BITS, np.uint8)
    bits[np.random.default_rng((picture, file, off)).choice(quality.BITS, off, replace=False)] ^= 1
    digest = hashlib.sha256(f"{picture} {file} {off}".encode()).hexdigest()
    path = Path(label) / f"{picture}-{file}-{off}.jpg"
    split = split_of(digest, PARAMS.seed, PARAMS.split)
    return Photograph(
        digest, label, path.as_posix(), path, split, "", "", np.packbits(bits).tobytes().hex(), no_cuts(digest)
    )


def settled(photographs: list[Photograph]) -> tuple[dict[Path, str], set[Path]]:
    """(split of each that is used, those that are rejected), as preprocess does it."""
    kept, bad = duplicates.copies(photographs)
    bad += duplicates.near_copies(kept, 8)
    rejected = {one.path for one in bad}
    return {one.path: one.split for one in kept if one.path not in rejected}, rejected


@settings(max_examples=150, deadline=None)
@given(st.lists(FILES, unique=True, max_size=60), st.data())
def test_a_photograph_s_split_never_changes_as_others_come_and_go(files: list, data: st.DataObject) -> None:
    every = [photograph(*one) for one in files]
    some = data.draw(st.lists(st.sampled_from(every), unique=True)) if every else []
    among_all, _ = settled(every)
    among_some, _ = settled(some)
    for path in among_all.keys() & among_some.keys():
        assert among_all[path] == among_some[path]


@settings(max_examples=150, deadline=None)
@given(st.lists(FILES, unique=True, max_size=60))
def test_what_is_near_across_splits_is_out_of_validation_and_test_and_listed(files: list) -> None:
    every = [photograph(*one) for one in files]
    used, rejected = settled(every)
    assert used.keys() | rejected == {one.path for one in every}
    assert not used.keys() & rejected
    splits: dict[int, set[str]] = {}
    labels: dict[int, set[str]] = {}
    for (picture, *_, label), one in zip(files, every, strict=True):
        labels.setdefault(picture, set()).add(label)
        if one.path in used:
            splits.setdefault(picture, set()).add(used[one.path])
    for picture, found in splits.items():
        assert len(labels[picture]) == 1  # under two labels none is used
        assert len(found) == 1
    for (picture, *_), one in zip(files, every, strict=True):
        if one.split == "train" and len(labels[picture]) == 1:
            assert one.path in used  # training keeps its own


def shares(photographs: list[tuple[str, str]]) -> dict[tuple[str, str], float]:
    """(class, split) -> share of the class that lies on the split."""
    total = Counter(label for label, _ in photographs)
    return {key: count / total[key[0]] for key, count in Counter(photographs).items()}


def test_the_shares_hold_on_the_sample() -> None:
    """Within 2 points all together; a class of 200 within what chance does to any draw by content (3 sigma)."""
    store = ROOT / "sample" / "files" / "md5"
    directory = yaml.safe_load((ROOT / "data.dvc").read_text())["outs"][0]["md5"]
    if not (listing := store / directory[:2] / directory[2:]).exists():
        pytest.skip("data.dvc names a person's photographs")
    found = []
    for entry in json.loads(listing.read_bytes()):
        if entry["relpath"] != "dataset.json":
            content = (store / entry["md5"][:2] / entry["md5"][2:]).read_bytes()
            split = split_of(hashlib.sha256(content).hexdigest(), PARAMS.seed, PARAMS.split)
            found.append((entry["relpath"].split("/")[0], split))
    wanted = dict(zip(SPLITS, (PARAMS.split.train, PARAMS.split.validation, PARAMS.split.test), strict=True))
    for (_, split), share in shares([("all", split) for _, split in found]).items():
        assert abs(share - wanted[split]) < 0.02
    for (_, split), share in shares(found).items():
        assert abs(share - wanted[split]) < 3 * (wanted[split] * (1 - wanted[split]) / 200) ** 0.5


def test_the_shares_hold_within_2_points_in_each_class_of_thousands() -> None:
    wanted = dict(zip(SPLITS, (PARAMS.split.train, PARAMS.split.validation, PARAMS.split.test), strict=True))
    found = [
        (f"class{n % 4}", split_of(hashlib.sha256(b"%d" % n).hexdigest(), PARAMS.seed, PARAMS.split))
        for n in range(12_000)
    ]
    for (_, split), share in shares(found).items():
        assert abs(share - wanted[split]) < 0.02


HASHES = st.text("0123456789abcdef", min_size=64, max_size=64)
SPLIT = SplitShares()


@given(st.lists(HASHES, min_size=1, max_size=50, unique=True), st.data())
def test_a_split_depends_on_nothing_but_content_and_seed(hashes: list[str], data: st.DataObject) -> None:
    """Whatever else is there: the split of each is what it is alone."""
    some = data.draw(st.lists(st.sampled_from(hashes)))
    among_all = {one: split_of(one, 2017, SPLIT) for one in hashes}
    assert {one: split_of(one, 2017, SPLIT) for one in some} == {one: among_all[one] for one in some}


def test_the_shares_are_kept_and_another_seed_shuffles() -> None:
    hashes = [f"{number:064x}" for number in range(20_000)]
    splits = [split_of(one, 2017, SPLIT) for one in hashes]
    for split, share in zip(SPLITS, (0.70, 0.15, 0.15), strict=True):
        assert abs(splits.count(split) / len(splits) - share) < 0.01
    assert [split_of(one, 2018, SPLIT) for one in hashes] != splits


def test_a_larger_training_share_takes_from_the_others_and_gives_nothing_back() -> None:
    wider = SplitShares(train=0.8, validation=0.1, test=0.1)
    hashes = [f"{number:064x}" for number in range(2000)]
    assert all(split_of(one, 7, wider) == "train" for one in hashes if split_of(one, 7, SPLIT) == "train")


def test_a_source_s_own_test_photographs_are_the_test_split_where_that_is_asked_for() -> None:
    hashes = [hashlib.sha256(str(n).encode()).hexdigest() for n in range(2000)]
    own, kept = frozenset(hashes[:300]), SplitShares(keep_test=True)
    splits = {one: split_of(one, 2017, kept, own) for one in hashes}
    assert {one for one in hashes if splits[one] == "test"} == own
    assert abs(Counter(splits.values())["validation"] / 1700 - 0.15 / 0.85) < 0.03
    drawn = [split_of(one, 2017, SplitShares()) for one in hashes]
    assert [split_of(one, 2017, SplitShares(), own) for one in hashes] == drawn
    assert [split_of(one, 2017, kept) for one in hashes] == drawn  # the source has no test photographs


@given(st.lists(st.tuples(HASHES, st.sampled_from(["rex", "tom", "ada", "bo"])), min_size=1, max_size=50))
def test_a_group_never_spans_splits_and_does_not_move_as_it_grows(members: list[tuple[str, str]]) -> None:
    found: dict[str, set[str]] = {}
    for digest, group in members:
        found.setdefault(group, set()).add(split_of(digest, 2017, SPLIT, group=group))
    assert all(splits == {split_of("0" * 64, 2017, SPLIT, group=group)} for group, splits in found.items())


def test_the_shares_hold_over_many_groups() -> None:
    splits = [split_of("0" * 64, 2017, SPLIT, group=f"animal {n}") for n in range(20_000)]
    for split, share in zip(SPLITS, (0.70, 0.15, 0.15), strict=True):
        assert abs(splits.count(split) / len(splits) - share) < 0.01

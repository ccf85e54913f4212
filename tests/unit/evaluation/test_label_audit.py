"""The audit of labels finds what was planted: a wrong label, a picture of something else."""

import csv
import re
from pathlib import Path

import make_sample
import numpy as np
import pytest

from odd_pictures import photograph
from pawprint.data.build import prepare
from pawprint.data.class_folders import dataset
from pawprint.data.dataset import PreparedDataset
from pawprint.errors import PawprintError
from pawprint.evaluation import label_audit
from prepared_set import params


def test_a_wrong_label_and_a_picture_of_something_else_stand_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAWPRINT_CACHE", str(tmp_path / "cache"))
    data = tmp_path / "data"
    make_sample.write(data, per_class=20)
    (data / "cat" / "007.jpg").rename(data / "dog" / "wrong.jpg")
    (data / "cat" / "other.jpg").write_bytes(photograph(1))
    prepare(dataset(data), data, tmp_path / "prepared", params("efficientnet_lite0"))
    found = label_audit.audit(PreparedDataset.open(tmp_path / "prepared"), params("efficientnet_lite0"), top=12)
    assert len({one.file for one in found}) == 12
    reasons = {one.file: one.reason for one in found}
    assert "unlike the others" in reasons["cat/other.jpg"]
    wrong = next(one for one in found if one.file == "dog/wrong.jpg")
    assert ("called dog, looks like cat" in wrong.reason) == (wrong.split != "test")
    distances = [re.search(r"distance ([\d.]+), usual ([\d.]+)", one.reason) for one in found]
    assert all(float(match[1]) >= float(match[2]) for match in distances if match)
    for one in found:  # no model's guess may clean the test split
        assert (one.split != "test") or (one.guess == "" and "looks like" not in one.reason)
    label_audit.write(found, tmp_path / "audit")
    with (tmp_path / "audit" / "audit.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == label_audit.COLUMNS
    assert [row["file"] for row in rows] == [one.file for one in found]
    assert {row["split"] for row in rows} >= {"test", "train"}
    assert all((row["label_issue_score"] == "") == (row["split"] == "test") for row in rows)


def test_ranks_are_taken_in_turns_and_each_photograph_once() -> None:
    doubted, unlike = np.array([4, 1, 2, 3, 0]), np.array([1, 0, 4, 3, 2])
    assert label_audit.interleave(doubted, unlike, 3) == [
        (4, ("label", "outlier")),
        (1, ("outlier", "label")),
        (0, ("outlier",)),
    ]
    assert [index for index, _ in label_audit.interleave(doubted, unlike, 99)] == [4, 1, 0, 2, 3]


def test_the_outlier_score_is_the_distance_to_the_nearest_and_not_to_oneself() -> None:
    angles = np.deg2rad([0, 10, 20, 180])
    points = (np.stack([np.cos(angles), np.sin(angles)], 1) * [[1], [5], [2], [3]]).astype(np.float32)
    expected = 1 - np.cos(np.deg2rad([10, 10, 10, 160]))
    assert np.allclose(label_audit.outlier_score(points, neighbours=1), expected, atol=1e-6)


def test_no_photograph_is_judged_by_a_regression_that_has_seen_it() -> None:
    """Labels by chance: a regression that had seen them would know them all."""
    rng = np.random.default_rng(2017)
    features, labels = rng.normal(size=(60, 200)).astype(np.float32), rng.permutation(np.repeat([0, 1], 30))
    probabilities = label_audit.out_of_fold(features, labels, seed=2017)
    assert probabilities.shape == (60, 2)
    assert (probabilities.argmax(1) == labels).mean() < 0.75


def test_no_label_is_judged_by_photographs_of_its_own_group() -> None:
    """Two photographs of an animal are alike, and its label is drawn: alone nothing but its twin could know it."""
    rng = np.random.default_rng(2017)
    features = np.repeat(rng.normal(size=(60, 300)), 2, axis=0).astype(np.float32)
    labels = np.repeat(rng.permutation([0, 1] * 30), 2)
    animals = [f"animal {number // 2}" for number in range(120)]
    own = np.arange(120), labels
    assert label_audit.out_of_fold(features, labels, 2017, strength=1.0)[own].mean() > 0.8
    assert label_audit.out_of_fold(features, labels, 2017, strength=1.0, groups=animals)[own].mean() < 0.6
    with pytest.raises(PawprintError, match="photographs in two groups"):
        label_audit.out_of_fold(features, labels, 2017, groups=["one animal"] * 120)

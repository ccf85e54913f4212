"""Predictions out of the fold: of every photograph, by a head that has not seen it, the same twice."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pawprint.data.dataset import PreparedDataset
from pawprint.training import folds
from pawprint.training.train import Trained, fit
from prepared_set import ADAM, Memory, drawings, params


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return drawings(tmp_path_factory.mktemp("drawings"))


@pytest.fixture(scope="module")
def trained(data: PreparedDataset, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PAWPRINT_CACHE", str(tmp_path_factory.mktemp("cache")))
        return fit("efficientnet_lite0", params("efficientnet_lite0", epochs=10), data, Memory())


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAWPRINT_CACHE", str(tmp_path_factory.getbasetemp() / "folds-cache"))


def test_every_photograph_is_predicted_once_and_twice_the_same(trained: Trained, data: PreparedDataset) -> None:
    found, again = (folds.out_of_fold(trained, data) for _ in range(2))
    assert found is not None and again is not None
    assert found.hashes == tuple(row.hash for row in data.rows)
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1)
    np.testing.assert_array_equal(found.probabilities, again.probabilities)
    assert (found.probabilities.argmax(axis=1) == found.labels).mean() > 0.7


def test_a_photograph_is_not_learned_from_by_the_head_that_predicts_it(trained: Trained, data: PreparedDataset) -> None:
    """With its label turned round its own prediction stays as it is; those of the other folds change."""
    victim = data.rows[0]
    other = next(label for label in data.classes if label != victim.label)
    turned = replace(data, rows=(victim._replace(label=other), *data.rows[1:]))
    plain, changed = folds.out_of_fold(trained, data), folds.out_of_fold(trained, turned)
    assert plain is not None and changed is not None
    logits = [np.log(one.probabilities[:, 1] / one.probabilities[:, 0]) for one in (plain, changed)]
    assert (logits[0][0] > 0) == (logits[1][0] > 0)
    scale = logits[1][0] / logits[0][0]  # the temperature is fitted on the other folds, whose heads have changed
    assert scale == pytest.approx(1, abs=0.5)
    assert not np.allclose(plain.probabilities[1:], changed.probabilities[1:])


def test_a_group_lies_in_one_fold(data: PreparedDataset) -> None:
    rows = [row._replace(group=f"animal {place % 7}") for place, row in enumerate(data.rows)]
    found = {row.group: {folds._fold(other, 2017, 5) for other in rows if other.group == row.group} for row in rows}
    assert all(len(places) == 1 for places in found.values())
    assert len(set.union(*found.values())) > 1


def test_no_folds_for_what_is_no_head_or_where_they_are_off(trained: Trained, data: PreparedDataset) -> None:
    off = trained.params.training.model_copy(update={"folds": 0})
    assert folds.out_of_fold(replace(trained, params=trained.params.model_copy(update={"training": off})), data) is None
    whole = replace(trained, params=params("efficientnet_lite0", train="all", **ADAM))
    assert folds.out_of_fold(whole, data) is None
    assert folds.learning_curve(whole, data) == []


def test_a_learning_curve_rises_with_the_photographs(trained: Trained, data: PreparedDataset, tmp_path: Path) -> None:
    points = folds.learning_curve(trained, data)
    counts = [point.photographs for point in points]
    assert counts == sorted(counts)
    assert counts[-1] == len(data.split("train"))
    assert points[-1].log_loss < points[0].log_loss

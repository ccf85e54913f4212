"""The OOD score by its arithmetic, and the share that its threshold refuses."""

import tracemalloc

import numpy as np
import pytest

from pawprint.inference import ood
from pawprint.inference.ood import Bank

RNG = np.random.default_rng(0)
SURE = np.array([[0.999, 0.001]])


def test_typicality_is_the_similarity_to_the_kth_nearest() -> None:
    bank = Bank.of(np.eye(12, dtype=np.float32), None)
    assert bank.k == 10
    query = np.arange(12, dtype=np.float32)[None]
    unsure = np.array([[0.5, 0.5]])
    expected = np.sort(query[0])[-10] / np.linalg.norm(query) / (1 + ood.SURE * ood.SUREST)
    assert bank.typicality(query, unsure)[0] == pytest.approx(expected, rel=1e-3)
    assert bank.typicality(query, SURE)[0] > bank.typicality(query, unsure)[0]
    assert Bank.of(query, None).typicality(query, np.array([[1.0, 0.0]]))[0] == pytest.approx(1, abs=1e-3)


def test_neighbours_are_looked_for_among_class_scores_where_they_are_known() -> None:
    """Two directions that the class scores do not see change nothing."""
    scores = np.concatenate([np.eye(3), np.zeros((3, 3))], axis=1).astype(np.float32)  # of five numbers; no bias
    embeddings = RNG.normal(size=(40, 5)).astype(np.float32)
    bank = Bank.of(embeddings, scores)
    moved = embeddings + np.array([0, 0, 0, 50, -20], np.float32)
    np.testing.assert_allclose(bank.typicality(moved, SURE), bank.typicality(embeddings, SURE), atol=1e-6)
    again = Bank.from_tensors(bank.tensors())
    np.testing.assert_array_equal(again.typicality(embeddings, SURE), bank.typicality(embeddings, SURE))
    # By hand: the mean of the cosines of class scores and of class probabilities.
    likely = np.exp(embeddings[:, :3]) / np.exp(embeddings[:, :3]).sum(axis=1, keepdims=True)
    cosines = [ood.unit(one)[:1] @ ood.unit(one).T for one in (embeddings[:, :3], likely)]
    expected = np.sort(np.mean(cosines, axis=0)[0])[-10] + ood.SURE * ood.SUREST
    found = bank.typicality(embeddings[:1], np.array([[1.0, 0.0]]))[0]
    assert found * (1 + ood.SURE * ood.SUREST) == pytest.approx(expected, abs=2e-3)


def test_a_photograph_of_the_bank_is_measured_without_itself() -> None:
    embeddings = RNG.normal(size=(30, 8)).astype(np.float32)
    bank, left = Bank.of(embeddings, None), Bank.of(embeddings[1:], None)
    one = np.repeat(SURE, 30, axis=0)
    assert bank.left_out(embeddings, one)[0] == pytest.approx(left.typicality(embeddings[:1], SURE)[0], abs=1e-3)
    assert not len(Bank.of(embeddings[:1], None).left_out(embeddings[:1], SURE))


def test_memory_does_not_grow_with_photographs_times_the_bank(monkeypatch: pytest.MonkeyPatch) -> None:
    """150,000 of 1,000 classes against the 20,000 of their bank took 24 GB."""
    embeddings = RNG.normal(size=(3000, 8)).astype(np.float32)
    sure, bank = RNG.dirichlet((1, 1), 3000), Bank.of(embeddings, None)
    whole = bank.typicality(embeddings, sure), bank.left_out(embeddings, sure)
    monkeypatch.setattr(ood, "NUMBERS", 2**17)
    tracemalloc.start()
    parts = bank.typicality(embeddings, sure), bank.left_out(embeddings, sure)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < embeddings.shape[0] ** 2 * 4 / 8
    for one, other in zip(parts, whole, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_a_bank_of_before_answers_as_before() -> None:
    directions = ood.unit(RNG.normal(size=(20, 4)).astype(np.float32))
    old = Bank.from_tensors({"embeddings": directions, "k": np.array([3])})
    cosine = directions[:1] @ directions.T
    assert old.typicality(directions[:1], SURE)[0] == pytest.approx(np.sort(cosine[0])[-3:].mean(), rel=1e-5)
    scores = np.eye(4, 5, dtype=np.float32)  # one with class scores alone
    old = Bank.from_tensors({"directions": directions, "k": np.array([3]), "class_scores": scores})
    found = old.typicality(directions[:1], np.array([[1.0, 0.0]]))[0] * (1 + ood.SURE * ood.SUREST)
    assert found == pytest.approx(np.sort(cosine[0])[-3] + ood.SURE * ood.SUREST, rel=1e-5)


@pytest.mark.parametrize("n", [20, 99, 100, 400])
def test_the_threshold_refuses_no_more_than_its_share_on_average(n: int) -> None:
    """The percentile of 20 scores refuses 5.7 % of the next ones where it should refuse 1 %."""
    refused = [(RNG.random(500) < ood.threshold(RNG.random(n), 0.01)).mean() for _ in range(1500)]
    assert np.mean(refused) <= 0.0105
    if n >= 99:
        assert np.mean(refused) > 0.005
    assert ood.threshold(RNG.random(20), 0.01) == -1


def test_the_cheapest_threshold_of_known_scores() -> None:
    """Ten photographs at 0.55 to 1.0, strangers at 0.1 to 0.6: two of these look like photographs."""
    own, strangers = np.arange(0.55, 1.01, 0.05), np.array([0.1, 0.2, 0.3, 0.56, 0.6])
    catching = {cost: ood.cheapest_threshold(own, strangers, cost) for cost in (0.1, 1.0, 10.0)}
    assert 0.3 < catching[0.1] <= 0.56  # the two cost less than the photographs that would go with them
    assert catching[10.0] > 0.6
    assert (own < catching[0.1]).sum() == 0
    assert (own < catching[10.0]).sum() == 2
    assert ood.cheapest_threshold(own, strangers, 0.0) == -1

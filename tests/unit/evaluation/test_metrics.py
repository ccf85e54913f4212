"""Figures against scikit-learn's, and intervals against what theory says of them."""

import numpy as np
import pytest
from sklearn import metrics as sk

from pawprint.evaluation.metrics import Scores, calibration_error, measure, paired_interval


def drawn(n: int, classes: int, seed: int) -> Scores:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    logits = rng.normal(size=(n, classes)) + 2.0 * np.eye(classes)[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    names = tuple(str(i) for i in range(n))
    return Scores(names, names, labels, probabilities, tuple("abcdef"[:classes]), np.ones(n))


@pytest.mark.parametrize("classes", [2, 3])
def test_values_are_scikit_learn_s(classes: int) -> None:
    s = drawn(300, classes, seed=3)
    e = measure(s, resamples=200, seed=0)
    predicted = s.probabilities.argmax(axis=1)
    area = s.probabilities[:, 1] if classes == 2 else s.probabilities
    assert e.accuracy.value == pytest.approx(sk.accuracy_score(s.labels, predicted))
    assert e.balanced_accuracy.value == pytest.approx(sk.balanced_accuracy_score(s.labels, predicted))
    assert e.log_loss.value == pytest.approx(sk.log_loss(s.labels, s.probabilities))
    assert e.auroc is not None
    assert e.auroc.value == pytest.approx(sk.roc_auc_score(s.labels, area, multi_class="ovr"))
    assert e.average_precision is not None
    assert e.average_precision.value == pytest.approx(
        sk.average_precision_score(np.eye(classes)[s.labels], s.probabilities, average="macro")
    )
    f1 = sk.f1_score(s.labels, predicted, average=None)
    assert [figure.value for figure in e.f1.values()] == pytest.approx(list(f1))
    assert np.trace(e.confusion) == e.photographs - e.mistakes
    for figure in (e.accuracy, e.log_loss, e.auroc, e.balanced_accuracy):
        assert figure.low <= figure.value <= figure.high


def test_a_perfect_score_still_has_a_width() -> None:
    labels = np.array([0, 1] * 30)
    s = Scores(("x",) * 60, ("x",) * 60, labels, np.eye(2)[labels] * 0.98 + 0.01, ("a", "b"), np.ones(60))
    e = measure(s, resamples=200, seed=0)
    assert e.accuracy.value == 1
    assert 0.9 < e.accuracy.low < 0.95


def test_log_loss_interval_covers_as_often_as_it_says() -> None:
    """The mean of the losses of 200 photographs lies in nine of ten 95 % intervals or more, over many sets."""
    truth = float(drawn(100_000, 2, seed=99).losses.mean())
    hits = 0
    for seed in range(60):
        figure = measure(drawn(200, 2, seed), resamples=200, seed=seed).log_loss
        hits += figure.low <= truth <= figure.high
    assert hits >= 52


def test_a_paired_interval_finds_a_shift_and_nothing_in_noise() -> None:
    noise = np.random.default_rng(0).normal(0, 1, 500)
    low, high = paired_interval(noise - noise.mean(), 500, seed=0)
    assert low < 0 < high
    assert high - low == pytest.approx(2 * 1.96 * noise.std() / np.sqrt(500), rel=0.15)
    assert paired_interval(noise + 1, 500, seed=0)[0] > 0


def test_calibration_error_of_known_cases() -> None:
    assert calibration_error(np.full(100, 0.8), np.arange(100) < 80) == pytest.approx(0)
    assert calibration_error(np.full(100, 1.0), np.arange(100) < 60) == pytest.approx(0.4)


def test_a_class_that_is_not_there_has_no_auroc_but_everything_else() -> None:
    s = drawn(50, 3, seed=5)
    keep = s.labels != 2
    names = tuple(np.array(s.hashes)[keep])
    kept = Scores(names, names, s.labels[keep], s.probabilities[keep], s.classes, s.knn_similarity[keep])
    e = measure(kept, resamples=100, seed=0)
    assert e.auroc is None
    assert e.photographs == int(keep.sum())

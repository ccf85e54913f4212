"""Figures against scikit-learn's, and intervals against what theory says of them."""

import csv
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from pawprint.evaluation import curves, metrics
from pawprint.evaluation.metrics import Scores, calibration_error, measure, paired_losses


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
    e = measure(s)
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
    e = measure(s)
    assert e.accuracy.value == 1
    assert 0.9 < e.accuracy.low < 0.95


@pytest.mark.parametrize("n", [60, 100, 810])
def test_log_loss_interval_covers_as_often_as_it_says_where_mistakes_are_few(n: int) -> None:
    """98.8 % right: more than half of the samples of 60 hold no mistake, and a bootstrap of them covers in 6 of 10."""
    rng = np.random.default_rng(n)
    margins = rng.normal(5, 2.2, 200_000)
    truth = float(np.logaddexp(0, -margins).mean())
    hits = 0
    for _ in range(400):
        figure = measure(answered(rng.choice(margins, n))).log_loss
        hits += figure.low <= truth <= figure.high
    assert hits >= 0.945 * 400


def answered(margins: np.ndarray) -> Scores:
    """Two classes in turn, each photograph answered with this log-odds for the right one."""
    n = len(margins)
    labels, right = np.arange(n) % 2, 1 / (1 + np.exp(-margins))
    probabilities = np.where(np.arange(2) == labels[:, None], right[:, None], 1 - right[:, None])
    names = tuple(str(i) for i in range(n))
    return Scores(names, names, labels, probabilities, ("cat", "dog"), np.ones(n))


def test_a_paired_interval_finds_a_shift_and_nothing_in_noise() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(2, 1, 500)
    one, other = (answered(base + rng.normal(0, 0.1, 500)) for _ in range(2))
    low, high = paired_losses(one, other)
    assert low < 0 < high
    differences = other.losses - one.losses
    assert high - low == pytest.approx(2 * 1.96 * differences.std() / np.sqrt(500), rel=0.05)
    assert paired_losses(answered(base + 1), other)[0] > 0
    assert paired_losses(other, answered(base + 1))[1] < 0


def test_at_the_border_every_figure_has_a_width() -> None:
    labels = np.array([0, 1, 2] * 20)
    s = Scores(("x",) * 60, ("x",) * 60, labels, np.eye(3)[labels] * 0.97 + 0.01, ("a", "b", "c"), np.ones(60))
    e = measure(s)
    assert e.auroc is not None and e.average_precision is not None
    for figure in (e.accuracy, e.balanced_accuracy, e.auroc, e.average_precision, *e.f1.values()):
        assert figure.value == pytest.approx(1) == figure.high
        assert 0.7 < figure.low < 0.99


def test_intervals_of_balanced_accuracy_f1_and_auroc_cover() -> None:
    """400 photographs of two classes of unequal size, 90 % right: nine of ten intervals and more hold the truth."""
    rng, hits = np.random.default_rng(6), {"balanced": 0, "f1": 0, "auroc": 0}
    separation = 1.2816 * 2  # of two normal densities: 90 % right at the middle
    truth = {"balanced": 0.9, "f1": 2 * 0.27 / (0.3 + 0.27 + 0.07), "auroc": float(stats.norm.cdf(separation / 2**0.5))}
    for _ in range(200):
        labels = (rng.random(400) < 0.3).astype(int)
        logit = separation * (rng.normal(0, 1, 400) + separation * (labels - 0.5))
        second = 1 / (1 + np.exp(-logit))
        names = tuple(str(i) for i in range(400))
        e = measure(Scores(names, names, labels, np.stack([1 - second, second], axis=1), ("a", "b"), np.ones(400)))
        assert e.auroc is not None
        found = {"balanced": e.balanced_accuracy, "f1": e.f1["b"], "auroc": e.auroc}
        for name, figure in found.items():
            hits[name] += figure.low <= truth[name] <= figure.high
    assert min(hits.values()) >= 180, hits


def test_calibration_error_of_known_cases() -> None:
    assert calibration_error(np.full(3000, 0.8), np.arange(3000) % 10 < 8).value < 0.02
    assert calibration_error(np.full(3000, 0.8), np.arange(3000) % 10 < 6).value == pytest.approx(0.2, abs=0.01)
    assert calibration_error(np.full(100, 1.0), np.zeros(100, bool)).value == pytest.approx(1)


def test_calibration_error_of_a_perfect_model_is_what_it_says_of_a_perfect_model() -> None:
    """Not its own bias: labels drawn from the confidence of 810 photographs, 99 % right."""
    rng = np.random.default_rng(3)
    confidence = 1 / (1 + np.exp(-np.abs(rng.normal(5, 2.2, 810))))
    found = [calibration_error(confidence, rng.random(810) < confidence) for _ in range(200)]
    values = np.array([one.value for one in found])
    assert values.mean() == pytest.approx(found[0].perfect, abs=0.0015)
    assert (values <= found[0].perfect_high).mean() > 0.9


@pytest.mark.parametrize("rows", [7, 100, 1000])
def test_figures_do_not_depend_on_how_many_photographs_are_worked_on_at_a_time(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    s, other = drawn(300, 6, seed=4), drawn(300, 6, seed=4)
    at_once = measure(s), metrics.paired_losses(s, other), metrics._top5(s)
    monkeypatch.setattr(metrics, "ROWS", rows)
    assert (measure(s), metrics.paired_losses(s, other), metrics._top5(s)) == at_once


def test_memory_does_not_grow_by_more_than_a_number_a_photograph() -> None:
    """Beside the predictions themselves: draws, copies of all probabilities or one-hot labels would be thousands."""
    peaks = []
    for n in (20_000, 60_000):
        rng = np.random.default_rng(n)
        names, labels, second = ("x",) * n, rng.integers(0, 2, n), rng.random(n)
        s = Scores(names, names, labels, np.stack([1 - second, second], axis=1), ("a", "b"), np.ones(n))
        tracemalloc.start()
        measure(s)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert (peaks[1] - peaks[0]) / 40_000 < 300  # bytes


def test_measuring_takes_less_memory_than_the_probabilities_of_many_classes() -> None:
    """Of 6,000 photographs the orders of the classes took three times theirs."""
    n, k = 6000, 1000
    names, probabilities = ("x",) * n, np.random.default_rng(0).random((n, k))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    s = Scores(names, names, np.arange(n) % 999, probabilities, tuple(map(str, range(k))), np.ones(n))
    tracemalloc.start()
    measure(s)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < probabilities.nbytes


def test_scoring_takes_the_memory_of_the_probabilities_once() -> None:
    n, k = 2000, 1000
    names, classes = ("x",) * n, tuple(map(str, range(k)))
    split, classifier = MagicMock(hashes=names, origins=names), MagicMock()
    split.__len__.return_value = n
    split.images = len
    split.labels_among.return_value = np.zeros(n, np.int64)
    classifier.info.classes = classes
    classifier.predict = lambda rows, maps: SimpleNamespace(  # a mock is freed by the collector, some time
        probabilities=np.full((rows, k), 1 / k, np.float32), knn_similarity=np.ones(rows)
    )
    classifier.decide = lambda found: []
    tracemalloc.start()
    found = metrics.score(classifier, split)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.probabilities.sum() == pytest.approx(n, rel=1e-5)
    assert peak < 1.2 * found.probabilities.nbytes


@pytest.mark.parametrize("damaged", ["", "a.jpg,1,cat,0.9\n", "a.jpg,1,cat\n"])
def test_predictions_with_a_row_cut_short_are_refused(damaged: str, tmp_path: Path) -> None:
    """One number alone stood for those of all classes."""
    path = tmp_path / "test.csv"
    header = ",".join([*(name for name in metrics.COLUMNS if name != "refused"), "cat", "dog", "owl"]) + "\n"
    path.write_text(header + damaged if damaged else "")
    with pytest.raises(ValueError):
        Scores.load(path)
    path.write_text(f"hash,label,cat,dog,owl\n{damaged.removeprefix('a.jpg,')}" if damaged else "")
    with pytest.raises(ValueError):
        Scores.out_of_fold(path)


def test_of_many_classes_the_confused_ones_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """120 classes, of which the last three are taken for each other: they are among the 50."""
    n, k = 6000, 120
    labels = np.arange(n) % k
    named = np.where((labels >= 117) & (np.arange(n) % 7 < 3), 117 + (labels - 116) % 3, labels)
    probabilities = np.full((n, k), 0.1 / (k - 1))
    probabilities[np.arange(n), named] = 0.9 + np.random.default_rng(1).random(n) / 1000
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    names = tuple(str(i) for i in range(n))
    s = Scores(names, names, labels, probabilities, tuple(f"class {label}" for label in range(k)), np.ones(n))
    confusion = np.asarray(measure(s).confusion)
    shown = metrics.most_confused(confusion)
    assert len(shown) == metrics.MOST
    assert set(shown.tolist()) >= {117, 118, 119}
    assert list(metrics.most_confused(confusion[:3, :3])) == [0, 1, 2]
    curves.write(tmp_path, "one", {}, s)
    with (tmp_path / "confusion" / "one.csv").open(newline="") as file:
        pairs = [tuple(row) for row in list(csv.reader(file))[1:]]
    assert {name for pair in pairs for name in pair} <= {f"class {label}" for label in shown}
    assert pairs.count(("class 117", "class 118")) == confusion[117, 118] > 0
    points = np.loadtxt(tmp_path / "roc" / "one.csv", delimiter=",", skiprows=1)
    assert len(points) <= curves.POINTS + 1
    assert tuple(points[-1]) == (1, 1)
    monkeypatch.setattr(curves, "NUMBERS", n * k // 3)  # of every third photograph, nearly the same
    curves.write(tmp_path, "fewer", {}, s)
    fewer = np.loadtxt(tmp_path / "roc" / "fewer.csv", delimiter=",", skiprows=1)
    at = np.linspace(0.01, 1, 50)
    assert np.abs(np.interp(at, *fewer.T) - np.interp(at, *points.T)).max() < 0.02
    assert not np.array_equal(fewer, points)


def test_a_class_that_is_not_there_has_no_auroc_but_everything_else() -> None:
    s = drawn(50, 3, seed=5)
    keep = s.labels != 2
    names = tuple(np.array(s.hashes)[keep])
    kept = Scores(names, names, s.labels[keep], s.probabilities[keep], s.classes, s.knn_similarity[keep])
    e = measure(kept)
    assert e.auroc is None
    assert e.photographs == int(keep.sum())

"""Slices, corruptions, OOD, speed, pictures and the comparison: known answers and the odd cases."""

import csv
import hashlib
import json
import tracemalloc
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from matplotlib import font_manager
from PIL import Image
from scipy import stats

from pawprint.config import Preprocess
from pawprint.data.dataset import PreparedDataset, Split
from pawprint.data.origins import Origin, Origins
from pawprint.data.origins import write as write_origins
from pawprint.data.splits import split_of
from pawprint.errors import PawprintError
from pawprint.evaluation import comparison, corruptions, latency, ood, plots, slices
from pawprint.evaluation.corruptions import Corruptions
from pawprint.evaluation.evaluator import Evaluator, corrections
from pawprint.evaluation.metrics import Evaluation, Scores, measure
from pawprint.inference import cam, strangers
from pawprint.inference.classifier import Classifier, Predictions
from prepared_set import drawings, params


def scores(right: list[bool], probability: float = 0.9, classes: tuple[str, ...] = ("cat", "dog")) -> Scores:
    """Photographs of `cat` and `dog` in turn, each answered right or wrong with the same certainty."""
    n = len(right)
    labels = np.arange(n) % 2
    output = np.where(right, labels, 1 - labels)
    probabilities = np.full((n, len(classes)), (1 - probability) / (len(classes) - 1))
    probabilities[np.arange(n), output] = probability
    names = tuple(str(i) for i in range(n))
    return Scores(names, names, labels, probabilities, classes, np.linspace(0, 1, n))


@dataclass
class Answering:
    """Stands where a classifier does and answers by a rule: what is measured is the measuring, not the model."""

    rule: Any  # pixels [n, 300, 300, 3] -> (probabilities [n, k], knn_similarity [n])
    info: Any = field(default_factory=lambda: SimpleNamespace(ood_threshold=0.5))

    def predict(self, pixels: np.ndarray, maps: bool = True) -> Predictions:
        probabilities, knn_similarity = self.rule(pixels)
        return Predictions(probabilities, np.zeros((len(pixels), 1)), knn_similarity, np.zeros((len(pixels), 1, 1, 1)))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return drawings(tmp_path_factory.mktemp("drawn"), per_class=30)


@pytest.fixture(scope="module")
def test_side(prepared: PreparedDataset) -> Split:
    return prepared.split("test")


# slices


def test_a_slice_says_how_many_how_right_and_how_sure() -> None:
    s = scores([True] * 30 + [False] * 10)
    found = slices.slices(s, {"light": ["bright"] * 30 + ["dark"] * 10}, least=10)
    assert [(part.name, part.photographs, part.accuracy.value) for part in found] == [
        ("light: bright", 30, 1.0),
        ("light: dark", 10, 0.0),
    ]
    low, high = stats.binomtest(30, 30).proportion_ci(0.95, method="wilson")
    assert (found[0].accuracy.low, found[0].accuracy.high) == pytest.approx((low, high))
    assert found[0].log_loss == pytest.approx(-np.log(0.9))
    assert found[1].log_loss == pytest.approx(-np.log(0.1))
    assert slices.worst(found) == found[1]


def test_a_small_part_is_not_judged_and_a_trait_that_all_share_has_no_parts() -> None:
    s = scores([True] * 12)
    assert slices.slices(s, {"light": ["dark"] * 12}, least=1) == []
    assert [part.name for part in slices.slices(s, {"light": ["dark"] * 11 + ["odd"]}, least=2)] == ["light: dark"]
    assert slices.worst([]) is None


def test_among_equally_right_parts_the_less_sure_one_is_the_worst() -> None:
    s = scores([True] * 8)
    s.probabilities[4:] = np.where(s.probabilities[4:] > 0.5, 0.6, 0.4)
    found = slices.slices(s, {"half": ["first"] * 4 + ["second"] * 4}, least=1)
    worst = slices.worst(found)
    assert worst is not None
    assert worst.name == "half: second"


def test_traits_of_photographs_are_what_can_be_seen(prepared: PreparedDataset, test_side: Split) -> None:
    data = prepared.folder.parent / "data"
    found = slices.traits(test_side, data)
    assert {"class", "brightness", "sharpness", "original", "shape"} <= set(found)
    light = np.array([pixels.mean() for pixels in test_side.images(range(len(test_side)))])
    words = np.array(found["brightness"])
    assert light[words == "dark"].max() < light[words == "bright"].min()
    with Image.open(data / test_side.origins[0]) as picture:
        width, height = picture.size
    assert found["original"][0] == ("below 320 px" if max(width, height) < 320 else "320 to 639 px")
    assert "source" not in found
    assert "original" not in slices.traits(test_side, data / "nowhere")


def test_source_and_breed_come_from_origins_csv_where_it_is(test_side: Split, tmp_path: Path) -> None:
    with (tmp_path / "origins.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["hash", "class", "source", "name", "breed"])
        rows.writerow([test_side.hashes[0], "cat", "shelter", "x.jpg", "Abyssinian"])
        rows.writerow([test_side.hashes[1], "dog", "street", "y.jpg", ""])
    found = slices.traits(test_side, tmp_path)
    assert list(found["source"][:3]) == ["shelter", "street", "unknown"]
    assert list(found["breed"][:2]) == ["Abyssinian", "unknown"]
    (tmp_path / "origins.csv").write_text("hash,source\n")  # a table of other photographs tells nothing
    assert "source" not in slices.traits(test_side, tmp_path)
    (tmp_path / "origins.csv").write_bytes(b"\xff\xfe\x00")
    assert "source" not in slices.traits(test_side, tmp_path)


def test_slices_look_at_the_probabilities_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a slice was a wall: at 1,000 classes and 150,000 photographs 150 billion numbers."""
    asked = []
    for name in ("correct", "losses"):
        whole = getattr(Scores, name).fget
        monkeypatch.setattr(Scores, name, property(lambda self, whole=whole: asked.append(1) or whole(self)))
    s = scores([True, False] * 50, classes=tuple(map(str, range(50))))
    assert len(slices.slices(s, {"class": [str(n // 2) for n in range(100)]}, 1)) == 50
    assert len(asked) == 2


# predictions in a file


def test_predictions_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    s = scores([True] * 7 + [False] * 3, classes=("cat", "dog", "a, b"))
    exact = np.random.default_rng(1).dirichlet(np.ones(3), 10).astype(np.float32).astype(np.float64)
    s = replace(s, probabilities=exact, origins=tuple(f'cat/{n}, "x" ü.jpg' for n in range(10)))
    s = replace(s, knn_similarity=s.knn_similarity.astype(np.float32).astype(np.float64))
    s = replace(s, refusals=("unlike", "unsure", *[""] * 8))
    s.write(tmp_path / "test.csv")
    read = Scores.load(tmp_path / "test.csv")
    assert read.refusals == s.refusals
    assert (read.hashes, read.origins, read.classes) == (s.hashes, s.origins, s.classes)
    for name in ("labels", "probabilities", "knn_similarity", "losses"):
        np.testing.assert_array_equal(getattr(read, name), getattr(s, name))
    for damaged in ("", "photograph,hash\n", (tmp_path / "test.csv").read_text()[:-40]):
        (tmp_path / "damaged.csv").write_text(damaged)
        with pytest.raises(ValueError):
            Scores.load(tmp_path / "damaged.csv")


def test_predictions_of_an_earlier_version_are_read_too(tmp_path: Path) -> None:
    scores([True] * 4).write(tmp_path / "test.csv")
    with (tmp_path / "test.csv").open() as file:
        rows = [row[:4] + row[5:] for row in csv.reader(file)]
    with (tmp_path / "old.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    read = Scores.load(tmp_path / "old.csv")
    assert read.classes == ("cat", "dog")
    assert read.answered.all()


def test_reading_predictions_takes_little_more_memory_than_they_do(tmp_path: Path) -> None:
    """As text they took eight times that: 10 GB of 150,000 photographs and 1,000 classes."""
    scores([True] * 400, classes=("cat", "dog", *map(str, range(498)))).write(tmp_path / "test.csv")
    tracemalloc.start()
    try:
        read = Scores.load(tmp_path / "test.csv")
        assert tracemalloc.get_traced_memory()[1] < 2 * read.probabilities.nbytes
    finally:
        tracemalloc.stop()


def test_what_is_served_counts_refusals_as_mistakes() -> None:
    s = scores([True] * 8 + [False] * 2)
    s.probabilities[9] = [0.6, 0.4]  # wrong, and the least sure of all
    s = replace(s, refusals=("unlike", *[""] * 8, "unsure"))
    e = measure(s)
    assert (e.accuracy.value, e.served_accuracy.value, e.coverage.value) == (0.8, 0.7, 0.8)
    assert e.answered_accuracy.value == pytest.approx(7 / 8)
    assert (e.unlike.value, e.unsure.value) == (0.1, 0.1)
    assert e.risk_coverage["100 %"] == pytest.approx(0.2)
    assert e.risk_coverage["90 %"] == pytest.approx(1 / 9)
    flat = e.flat("test")
    assert flat["test_served_accuracy"] == 0.7
    none = measure(replace(s, refusals=("unsure",) * 10))
    assert (none.served_accuracy.value, none.coverage.value, none.answered_accuracy) == (0, 0, None)
    assert "test_answered_accuracy" not in none.flat("test")
    assert flat["test_risk_at_90"] == pytest.approx(1 / 9)


def test_many_classes_have_the_five_best_and_the_most_confused() -> None:
    classes = tuple(f"kind {number:02}" for number in range(37))
    labels = np.arange(370) % 37
    rng = np.random.default_rng(1)
    probabilities = rng.dirichlet(np.full(37, 0.01), 370) * 0.1
    probabilities[np.arange(370), labels] += 0.9
    for place in np.flatnonzero(labels == 3)[:6]:  # six of class 3 are called 7, with 3 second
        probabilities[place] = 0.01 / 35
        probabilities[place, [3, 7]] = 0.33, 0.66
    names = tuple(str(i) for i in range(370))
    e = measure(Scores(names, names, labels, probabilities, classes, np.ones(370)))
    assert e.top5 is not None
    assert e.top5.value == 1
    assert e.accuracy.value == pytest.approx(364 / 370)
    assert e.confused == [("kind 03", "kind 07", 6)]
    assert measure(scores([True] * 4)).top5 is None


# corruptions


def test_each_disturbance_changes_the_picture_as_its_name_says_and_twice_the_same(test_side: Split) -> None:
    plain = test_side.images(range(2))
    one, two = (dict(corruptions.corrupt(plain, seed=3)) for _ in range(2))
    assert list(one) == [
        "JPEG quality 30", "blur", "noise", "low light", "rotation by 15 degrees", "half size", "grayscale",
    ]  # fmt: skip
    for name, pixels in one.items():
        assert pixels.shape == plain.shape, name
        assert pixels.dtype == np.uint8
        assert np.array_equal(pixels, two[name]), name
        assert not np.array_equal(pixels, plain), name
    assert np.ptp(one["grayscale"], axis=-1).max() == 0
    assert one["low light"].mean() < 0.7 * plain.mean()
    edges = {name: np.abs(np.diff(pixels.astype(int), axis=1)).mean() for name, pixels in one.items()}
    sharp = np.abs(np.diff(plain.astype(int), axis=1)).mean()
    assert edges["blur"] < sharp < edges["noise"]


def test_accuracy_lost_is_counted_on_the_same_photographs(test_side: Split) -> None:
    most = 6
    evaluator = Corruptions(test_side, most, seed=1)
    truth = np.eye(2)[test_side.labels[:most]]

    def fooled_by_grey(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        grey = np.ptp(pixels, axis=-1).max() == 0
        return (1 - truth if grey else truth), np.ones(len(pixels))

    measured = evaluator.measure(Answering(fooled_by_grey))  # type: ignore[arg-type]
    assert (measured.photographs, measured.accuracy) == (most, 1.0)
    assert measured.under["grayscale"] == 0
    assert measured.under["blur"] == 1
    assert measured.worst
    name, lost = measured.worst
    assert (name, lost.value) == ("grayscale", 1.0)
    assert lost.low < 0.5  # six photographs show little


def test_without_corrupted_photographs_no_corruption_is_the_worst(test_side: Split) -> None:
    measured = Corruptions(test_side, 0, seed=1).measure(Answering(None))  # type: ignore[arg-type]
    assert measured.photographs == 0
    assert measured.worst is None


# OOD


def colours(shade: int, count: int) -> np.ndarray:
    return np.full((count, 300, 300, 3), shade, np.uint8)


def test_what_is_accepted_of_strangers_is_counted_with_an_interval(toy_model: Path) -> None:
    """Of 40 pictures of something else 10 are blue, which is a class of the toy."""
    classifier = Classifier(toy_model, precision="f32")
    pictures = np.concatenate([colours(0, 30), colours(0, 10)])
    pictures[:30, :, :, 1] = 255  # green: like none of its training photographs
    pictures[30:, :, :, 2] = 255
    measured = ood.measure(classifier, pictures, real=True)
    assert measured.accepted is not None
    assert (measured.pictures, measured.accepted.value) == (40, 0.25)
    assert (measured.accepted.low, measured.accepted.high) == pytest.approx(
        stats.binomtest(10, 40).proportion_ci(0.95, method="wilson")
    )
    assert ood.measure(classifier, pictures[:0], real=False).accepted is None


def test_a_folder_of_strangers_is_read_whatever_lies_in_it(tmp_path: Path) -> None:
    for name, shade in (("a.png", 10), ("b.jpg", 90), ("c.png", 10)):
        Image.new("RGB", (64, 48), (shade, 0, 0)).save(tmp_path / name)
    (tmp_path / "d.jpg").write_text("no photograph")
    assert strangers.read(tmp_path, Preprocess(), "all").shape == (2, 300, 300, 3)  # the same file twice is one
    with pytest.raises(PawprintError, match="which is no folder"):
        strangers.read(tmp_path / "nowhere", Preprocess(), "all")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "x.jpg").write_text("no photograph")
    with pytest.raises(PawprintError, match="no photograph that can be read"):
        strangers.read(tmp_path / "empty", Preprocess(), "all")


def test_a_folder_of_strangers_in_data_is_refused_for_it_would_be_a_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "wolf").mkdir(parents=True)
    for folder in (Path("data/wolf"), tmp_path / "data" / "wolf"):
        with pytest.raises(PawprintError, match=r"names .*data/wolf, which is in data/"):
            strangers.read(folder, Preprocess(), "all")


def test_drawn_shapes_are_the_same_from_the_same_seed_and_no_two_are_alike() -> None:
    one, two = ood.clutter(6, seed=4), ood.clutter(8, seed=4)
    assert np.array_equal(one, two[:6])
    assert len({hashlib.sha256(picture.tobytes()).digest() for picture in two}) == 8
    assert not len(ood.clutter(0, seed=4))


# speed


def test_speed_is_of_real_answers_and_size_is_of_the_files(toy_model: Path) -> None:
    classifier = Classifier(toy_model)
    measured = latency.measure(classifier, np.zeros((3, 300, 300, 3), np.uint8))
    assert 0 < measured.latency_p50_ms <= measured.latency_p95_ms
    assert measured.throughput_per_second > 0
    files = sum((toy_model / name).stat().st_size for name in ("model.onnx", "ood.safetensors"))
    assert measured.size_mb == round(files / 1e6, 3)
    assert measured.machine.endswith(classifier.precision)


# figures of few photographs, and of ties


@pytest.mark.parametrize("right", [True, False])
def test_one_photograph_has_figures_and_an_interval_that_admits_ignorance(right: bool) -> None:
    e = measure(scores([right]))
    assert e.accuracy.value == float(right)
    assert e.accuracy.high - e.accuracy.low > 0.7
    assert e.auroc is None
    assert e.log_loss.value == pytest.approx(-np.log(0.9 if right else 0.1))


def test_ties_count_half_in_the_area_and_its_interval_holds_it() -> None:
    s = scores([True] * 20)
    s.probabilities[:] = 0.5
    e = measure(s)
    assert e.auroc is not None
    assert e.auroc.value == 0.5
    assert e.auroc.low < 0.5 < e.auroc.high


def test_the_interval_of_a_loss_is_the_normal_one_where_there_is_enough_of_it() -> None:
    losses = np.random.default_rng(2).exponential(1.0, 800)
    s = scores([True] * 800)
    s.probabilities[np.arange(800), s.labels] = np.exp(-losses)
    figure = measure(s).log_loss
    half = 1.96 * losses.std() / np.sqrt(800)
    assert (figure.low, figure.high) == pytest.approx((losses.mean() - half, losses.mean() + half), rel=0.03)


def test_a_class_that_is_neither_there_nor_named_has_no_f1_and_the_figures_survive_json() -> None:
    s = scores([True] * 10, classes=("cat", "dog", "fox"))
    e = measure(s)
    assert e.f1["cat"].value == 1
    assert "fox" not in e.f1
    assert Evaluation.model_validate_json(e.model_dump_json()) == e
    assert e.balanced_accuracy.value == 1


# pictures


def drawn(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        picture.verify()
        return picture.size


def test_classes_of_any_name_are_drawn_as_they_are_spelled(tmp_path: Path) -> None:
    """A `$` would open a formula, and one that is none stop the evaluation."""
    s = scores([True, False] * 6, classes=("50 % $x", "$\\frac{$ <b>"))
    plots.confusion(measure(s), s.classes, tmp_path / "confusion.png")
    plots.roc_and_precision(s, tmp_path / "roc.png")
    assert drawn(tmp_path / "confusion.png") and drawn(tmp_path / "roc.png")


def test_the_reliability_plot_holds_every_confidence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many classes the most probable one often has less than a third."""
    drawn_points = {}

    def look(canvas: plots.Canvas, path: Path) -> None:
        axes = canvas.axes[0]
        drawn_points[path.name] = axes.get_xlim(), axes.get_ylim(), axes.collections[0].get_offsets()

    monkeypatch.setattr(plots, "_save", look)
    names, labels = tuple(map(str, range(40))), np.arange(40) % 20
    probabilities = np.full((40, 20), 0.9 / 19)
    probabilities[np.arange(40), np.where(np.arange(40) < 10, labels, 0)] = 0.1
    plots.reliability(Scores(names, names, labels, probabilities, names[:20], np.ones(40)), tmp_path / "plot.png")
    (left, right), (low, high), points = drawn_points["plot.png"]
    assert left <= points[:, 0].min() <= 0.1 and points[:, 0].max() <= right
    assert low <= points[:, 1].min() and points[:, 1].max() <= high


def test_every_picture_is_drawn_and_the_same_figures_give_the_same_bytes(test_side: Split, tmp_path: Path) -> None:
    n = len(test_side)
    right = [index % 3 > 0 for index in range(n)]
    s = scores(right)
    e = measure(s)
    for turn in ("one", "two"):
        folder = tmp_path / turn
        folder.mkdir()
        plots.confusion(e, s.classes, folder / "confusion.png")
        plots.reliability(s, folder / "reliability.png")
        plots.risk_coverage(s, folder / "risk_coverage.png")
        points = [{"photographs": n, "log_loss": 1 / n, "accuracy": 1 - 1 / n} for n in (10, 20, 40)]
        (tmp_path / "learning_curve.json").write_text(json.dumps(points))
        plots.photographs_curve(tmp_path / "learning_curve.json", folder / "photographs.png")
        plots.roc_and_precision(s, folder / "roc.png")
        plots.mistakes(s, test_side, folder / "mistakes.png", most=3)
        plots.learning_curves({"a": {"train_loss": [(1, 0.7), (2, 0.5)]}, "b": {}}, folder / "curves.png")
    for path in (tmp_path / "one").iterdir():
        assert min(drawn(path)) > 50
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
    plots.mistakes(scores([True] * n), test_side, tmp_path / "one" / "mistakes.png")
    assert not (tmp_path / "one" / "mistakes.png").exists()  # none: no sheet, and no earlier one either


def test_heat_of_one_plane_speaks_for_the_second_class_and_turned_round_for_the_first() -> None:
    plane = np.array([[[4.0, -4.0]]], np.float32)
    first, second = cam.heat_map(plane, 0, 300), cam.heat_map(plane, 1, 300)
    assert first.shape == second.shape == (300, 300)
    assert second[0, 0] == pytest.approx(1)
    assert second[0, -1] == 0
    assert first[0, -1] == pytest.approx(1)
    assert cam.heat_map(np.zeros((2, 1, 1), np.float32), 1, 300).max() == 0


# the comparison


def test_only_what_differs_is_shown_and_what_is_missing_is_empty() -> None:
    given = [{"epochs": "5", "seed": "1"}, {"epochs": "9", "seed": "1", "blocks": "3"}]
    assert comparison.differences(given) == [("blocks", ["", "3"]), ("epochs", ["5", "9"])]
    gave = [{"test_accuracy": 0.5, "test_accuracy_low": 0.4, "test_accuracy_high": 0.6}, {"seconds": 3.0}]
    assert comparison.figures(gave) == [
        ("test_accuracy", ["0.5000 [0.4000, 0.6000]", ""]),
        ("seconds", ["", "3.0000"]),
    ]


def test_a_difference_is_marked_where_the_paired_interval_excludes_zero(tmp_path: Path) -> None:
    good, bad, same, other = (tmp_path / f"{name}.csv" for name in ("good", "bad", "same", "other"))
    scores([True] * 60).write(good)
    scores([False] * 30 + [True] * 30).write(bad)
    scores([True] * 60, probability=0.9).write(same)
    scores([True] * 59).write(other)
    for column in ("accuracy", "log_loss"):
        assert comparison.significant(bad, good, column) is True
        assert comparison.significant(same, good, column) is False
        assert comparison.significant(other, good, column) is None


def test_a_bench_on_a_part_of_the_photographs_is_the_same_bench_smaller(
    prepared: PreparedDataset, test_side: Split
) -> None:
    small = params("mlp")
    few = small.model_copy(update={"evaluation": small.evaluation.model_copy(update={"corruptions": 2, "clutter": 2})})
    part = test_side.only(set(test_side.hashes[1:4]) | {"unknown"})
    assert part.hashes == test_side.hashes[1:4]
    assert np.array_equal(part.images(range(3)), test_side.images([1, 2, 3]))
    evaluator = Evaluator.of(part, prepared.folder.parent / "data", few)
    assert [len(words) for words in evaluator.traits.values()] == [3] * len(evaluator.traits)
    assert len(evaluator.others) == 2


@pytest.mark.parametrize("last", [0.05, 0.5], ids=["over a decade", "within one"])
def test_the_loss_axis_has_plain_numbers(last: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels: list[str] = []

    def drawn(canvas: plots.Canvas, path: Path) -> None:
        canvas.draw_without_rendering()
        labels.extend(label.get_text() for label in canvas.axes[0].get_yticklabels(which="both"))

    monkeypatch.setattr(plots, "_save", drawn)
    plots.learning_curves({"a": {"train_loss": [(1, 0.7), (2, last)]}}, tmp_path / "curves.png")
    assert [float(label) for label in labels if label]


def test_corrections_of_the_test_side_have_both_figures(prepared: PreparedDataset, tmp_path: Path) -> None:
    """Two test photographs are relabelled and three dropped, and a training photograph too, which is no correction of
    the test side: with the source's labels, and those that are gone as mistakes, the accuracy is the known one."""
    asked = params("mlp")
    test = prepared.split("test")
    data, side = tmp_path / "data", asked.model_copy(update={"seed": 7})
    data.mkdir()
    hashes = [hashlib.sha256(str(n).encode()).hexdigest() for n in range(200)]
    dropped = [name for name in hashes if split_of(name, 7, side.split) == "test"][:3]
    kept = [name for name in hashes if split_of(name, 7, side.split) == "train"][:4]
    other = {row.hash: next(name for name in test.classes if name != row.label) for row in test.rows}
    turned = [row.hash for row in test.rows[:2]]
    rows = [Origin(row.origin, other[row.hash] if row.hash in turned else row.label, row.hash, "s", row.origin)
            for row in test.rows]  # fmt: skip
    rows += [Origin("", "cat", name, "s", name) for name in (*dropped, *kept)]
    write_origins(Origins(rows), data)
    before, gone = corrections(test, data, side)
    assert before == {name: other[name] for name in turned}
    assert gone == 3
    empty = np.empty((0, 300, 300, 3), np.uint8)
    sure = np.eye(len(test.classes))[test.labels]  # right by today's labels
    s = Scores(test.hashes, test.origins, test.labels, sure, test.classes, np.ones(len(test)))
    found = Evaluator(test, {}, None, empty, side, before, gone)._corrected(s)  # type: ignore[arg-type]
    assert found is not None
    assert (found.relabelled, found.dropped) == (2, 3)
    assert found.accuracy_before.value == pytest.approx((len(test) - 2) / (len(test) + 3))
    assert Evaluator(test, {}, None, empty, side, {}, 0)._corrected(s) is None  # type: ignore[arg-type]


@pytest.mark.parametrize("names", [("x" * 100, "y" * 100), ("cat", "dog")], ids=["long", "ordinary"])
def test_a_long_class_name_leaves_room_for_the_curves(
    names: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    widths: list[float] = []

    def drawn(canvas: plots.Canvas, path: Path) -> None:
        canvas.draw_without_rendering()
        widths.extend(axes.get_position().width for axes in canvas.axes)

    monkeypatch.setattr(plots, "_save", drawn)
    found = replace(scores([True, False] * 10), classes=names)
    plots.roc_and_precision(found, tmp_path / "roc.png")
    plots.confusion(measure(found), names, tmp_path / "confusion.png")
    assert min(widths) > 0.3


def test_letters_that_no_font_has_are_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    found = replace(scores([True, False] * 10), classes=("\U00012000", "$a_$"))
    plots._say_boxes.cache_clear()
    for name in ("one.png", "two.png"):
        plots.confusion(measure(found), found.classes, tmp_path / name)
    assert capsys.readouterr().out.count("plots show boxes") == 1
    assert not [one for one in recwarn if "Glyph" in str(one.message)]


def test_a_font_of_this_machine_shows_japanese_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not {"Droid Sans Fallback", "Noto Sans CJK JP"} & set(font_manager.get_font_names()):
        pytest.skip("no font with Japanese letters here")
    found = replace(scores([True, False] * 10), classes=("猫", "その他 #1"))
    plots._say_boxes.cache_clear()
    plots.confusion(measure(found), found.classes, tmp_path / "one.png")
    assert capsys.readouterr().out == ""

"""Plots of an evaluation, as PNG files: figures, mistakes, and class activation maps.

plots.confusion(report.test, classes, Path("confusion.png"))
"""

import functools
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import matplotlib as mpl
import numpy as np
from matplotlib import font_manager
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import NullFormatter
from numpy.typing import NDArray
from safetensors.numpy import load_file
from sklearn.metrics import ConfusionMatrixDisplay, PrecisionRecallDisplay, RocCurveDisplay

from pawprint.data.dataset import Split
from pawprint.evaluation import metrics
from pawprint.evaluation.evaluator import EvaluationReport
from pawprint.evaluation.metrics import Evaluation, Scores
from pawprint.files import new_file
from pawprint.inference import cam
from pawprint.inference.classifier import Classifier
from pawprint.progress import say

mpl.use("Agg")
mpl.rcParams["text.parse_math"] = False  # a class may have a `$` in its name
# what matplotlib's own font lacks, where this machine has a font for it
_OTHER_SCRIPTS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Hiragino Sans", "Microsoft YaHei", "Droid Sans Fallback",
    "Noto Sans Devanagari",
)  # fmt: skip
_INSTALLED = set(font_manager.get_font_names())
mpl.rcParams["font.family"] = ["DejaVu Sans", *(name for name in _OTHER_SCRIPTS if name in _INSTALLED)]

LONGEST = 24  # characters of a class's name; more of it is cut off
BARS = 40  # slices, the least accurate
MANY = 10  # classes; of more some plots show a part, or smaller
Curve = Sequence[tuple[int, float]]  # (epoch, value)


def of_model(classifier: Classifier, report: EvaluationReport, scores: Scores, split: Split, out: Path) -> None:
    """All plots of one evaluated model, into the folder `out`."""
    out.mkdir(parents=True, exist_ok=True)
    confusion(report.test, scores.classes, out / "confusion.png")
    reliability(scores, out / "reliability.png")
    risk_coverage(scores, out / "risk_coverage.png")
    roc_and_precision(scores, out / "roc_and_precision.png")
    photographs_curve(classifier.folder / "learning_curve.json", out / "photographs_curve.png")
    corruptions(report, out / "corruptions.png")
    mistakes(scores, split, out / "mistakes.png")
    activations(classifier, scores, split, out / "activations.png")
    if classifier.info.architecture == "article_cnn":
        first_layer(classifier.folder / "model.safetensors", split, out / "first_layer.png")


def short(name: str) -> str:
    """A class's name as a plot has room for it."""
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"


def confusion(evaluation: Evaluation, classes: tuple[str, ...], path: Path) -> None:
    """Right class by predicted class, in photographs; of many classes those that are confused most.

    A cell's colour is its share of the row: one class may have fifty times as many photographs as another.
    """
    counts = np.asarray(evaluation.confusion)
    shown = metrics.most_confused(counts)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side, many = max(4.0, 0.28 * len(shown)), len(shown) > MANY
    canvas = Canvas(figsize=(side, side), layout="constrained")
    axes = canvas.subplots()
    names = [short(classes[label]) for label in shown]
    cells = np.ix_(shown, shown)
    display = ConfusionMatrixDisplay(shares[cells], display_labels=names)
    long = many or max(map(len, names)) > LONGEST / 2
    display.plot(
        ax=axes, colorbar=False, cmap="Blues", xticks_rotation="vertical" if long else "horizontal",
        text_kw={"fontsize": 6} if many else None, im_kw={"vmin": 0, "vmax": 1},
    )  # fmt: skip
    for text, count in zip(display.text_.ravel(), counts[cells].ravel(), strict=True):
        text.set_text(str(count) if count or not many else "")
    if many:
        axes.tick_params(labelsize=6)
    if len(shown) < len(classes):
        axes.set_title(f"the {len(shown)} of {len(classes):,} classes that are confused most", fontsize=9)
    _save(canvas, path)


def reliability(scores: Scores, path: Path, bins: int = 10) -> None:
    """Share of right predictions by confidence; on the diagonal the model is calibrated."""
    confidence = scores.probabilities.max(axis=1)
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    canvas = Canvas(figsize=(4, 4), layout="constrained")
    axes = canvas.subplots()
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1)
    there = [b for b in range(bins) if (index == b).any()]
    axes.scatter(
        [confidence[index == b].mean() for b in there],
        [scores.correct[index == b].mean() for b in there],
        s=[10 + 200 * float((index == b).mean()) for b in there],
    )
    axes.set(xlabel="confidence", ylabel="share that is right", xlim=(-0.01, 1.01), ylim=(-0.02, 1.02))
    axes.set_title(f"{len(confidence)} photographs; area: how many", fontsize=9)
    _save(canvas, path)


def risk_coverage(scores: Scores, path: Path) -> None:
    """Share that is wrong among the surest photographs; a cross is what is served."""
    canvas = Canvas(figsize=(5, 4), layout="constrained")
    axes, risks = canvas.subplots(), metrics.risks(scores)
    axes.plot(np.arange(1, len(risks) + 1) / len(risks), risks)
    if scores.answered.any():
        axes.plot(scores.answered.mean(), (~scores.correct)[scores.answered].mean(), "x", color="C1", label="served")
        axes.legend(fontsize=7)
    axes.set(xlabel="share that is answered, the surest first", ylabel="share of these that is wrong")
    axes.set(xlim=(0, 1.02), ylim=(0, None))
    _save(canvas, path)


def photographs_curve(points: Path, path: Path) -> None:
    """Log loss and mistakes on the validation split by the number of training photographs; no file where `points`
    (learning_curve.json of a model folder) is missing."""
    if not points.exists():
        path.unlink(missing_ok=True)
        return
    found = json.loads(points.read_text(encoding="utf-8"))
    counts = [point["photographs"] for point in found]
    canvas = Canvas(figsize=(8, 3.5), layout="constrained")
    left, right = canvas.subplots(1, 2)
    left.plot(counts, [point["log_loss"] for point in found], "o-")
    right.plot(counts, [1 - point["accuracy"] for point in found], "o-")
    for axes, what in ((left, "log loss"), (right, "share that is wrong")):
        axes.set(xlabel="training photographs", ylabel=f"{what}, validation split", ylim=(0, None))
        axes.set_xscale("log", base=2)
        axes.set_xticks(counts, [f"{count:,}" for count in counts])
        axes.minorticks_off()
    _save(canvas, path)


def mistakes(scores: Scores, split: Split, path: Path, most: int = 32) -> None:
    """Contact sheet of the mistakes with the highest loss, worst first; no file where there are none."""
    wrong = np.flatnonzero(~scores.correct)
    worst = wrong[np.argsort(-scores.losses[wrong], kind="stable")][:most]
    if not len(worst):
        path.unlink(missing_ok=True)
        return
    columns = min(8, len(worst))
    sheet = _Sheet(-(-len(worst) // columns), columns, 1.6, 1.9)
    for place, (index, pixels) in enumerate(zip(worst, split.images(worst), strict=True)):
        predicted = scores.probabilities[index]
        words = f"{short(scores.classes[int(predicted.argmax())])} {predicted.max():.0%}"
        sheet.add(*divmod(place, columns), pixels)
        sheet.title(*divmod(place, columns), f"{Path(scores.origins[index]).name}\n{words}", 6)
    _save(sheet.canvas, path)


def roc_and_precision(scores: Scores, path: Path) -> None:
    """ROC and precision-recall curves, one class against the rest; of two classes the second alone, of many the ten
    with most mistakes."""
    canvas = Canvas(figsize=(8, 4), layout="constrained")
    left, right = canvas.subplots(1, 2)
    left.plot([0, 1], [0, 1], color="grey", linewidth=1)
    for label in _shown(scores):
        truth, predicted = scores.labels == label, scores.probabilities[:, label]
        if truth.all() or not truth.any():
            continue
        RocCurveDisplay.from_predictions(truth, predicted, name=short(scores.classes[label]), ax=left)
        drawn = PrecisionRecallDisplay.from_predictions(truth, predicted, ax=right)
        drawn.line_.set_label(f"AP {drawn.average_precision:.4f}")
    left.set(xlabel="false positive rate", ylabel="true positive rate")
    right.set(xlabel="recall", ylabel="precision")
    for axes in (left, right):
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="auto")
        axes.legend(fontsize=7)
    _save(canvas, path)


def _shown(scores: Scores) -> Sequence[int]:
    """The classes that have a curve: the second of two, all of a few, and of many the ones with most mistakes."""
    count = len(scores.classes)
    if count == 2:
        return (1,)
    wrong = np.bincount(scores.labels[~scores.correct], minlength=count)
    return sorted(np.argsort(-wrong, kind="stable")[:MANY].tolist())


def learning_curves(curves: Mapping[str, Mapping[str, Curve]], path: Path) -> None:
    """Loss and accuracy by epoch of every candidate; `curves` is candidate -> metric -> (epoch, value)."""
    canvas = Canvas(figsize=(10, 4), layout="constrained")
    for axes, what in zip(canvas.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for number, (candidate, curve_of) in enumerate(curves.items()):
            for split, line in (("train", ":"), ("validation", "-")):
                points = curve_of.get(f"{split}_{what}", ())
                # Candidates train for 5 epochs or 100; a share of the training puts them on one axis.
                last = max((epoch for epoch, _ in points), default=1)
                share = [epoch / last for epoch, _ in points]
                axes.plot(
                    share, [value for _, value in points], line, color=f"C{number}", label=f"{candidate}, {split}"
                )
        axes.set(xlabel="share of the training", ylabel=what)
        if what == "loss":
            axes.set_yscale("log")
            low, high = axes.get_ylim()  # plain numbers, for mathematical text is off
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("{x:g}" if high < 10 * low else NullFormatter())
            axes.legend(fontsize=7)
    _save(canvas, path)


def corruptions(report: EvaluationReport, path: Path) -> None:
    """Accuracy as the photographs are and under each corruption, and by slice."""
    plain = report.corruptions.accuracy if report.corruptions.photographs else report.test.accuracy.value
    bars = {"as they are": plain, **report.corruptions.under}
    weakest = sorted(report.slices, key=lambda part: part.accuracy.value)[:BARS]
    bars |= {part.name: part.accuracy.value for part in report.slices if part in weakest}
    canvas = Canvas(figsize=(6, 0.26 * len(bars) + 0.8), layout="constrained")
    axes = canvas.subplots()
    split = 1 + len(report.corruptions.under)
    axes.barh(list(bars), list(bars.values()), color=["C0"] * split + ["C1"] * (len(bars) - split))
    axes.invert_yaxis()
    axes.set_yticks(range(len(bars)), [short(name) for name in bars])
    axes.tick_params(axis="y", labelsize=7)
    axes.set(xlabel="accuracy", xlim=(0, 1.0))
    _save(canvas, path)


def activations(classifier: Classifier, scores: Scores, split: Split, path: Path, each: int = 6) -> None:
    """Class activation maps (see inference/cam.py): the surest right predictions above, the worst wrong ones below."""
    order = np.argsort(scores.losses, kind="stable")
    right, wrong = order[scores.correct[order]][:each], order[~scores.correct[order]][::-1][:each]
    sheet = _Sheet(2, each, 1.6, 1.95)
    for row, (indices, word) in enumerate(((right, "right"), (wrong, "wrong"))):
        pixels = split.images(indices)
        maps = classifier.predict(pixels).activation
        for column, (index, photograph, planes) in enumerate(zip(indices, pixels, maps, strict=True)):
            predicted = int(scores.probabilities[index].argmax())
            sheet.add(row, column, photograph)
            heat = cam.heat_map(planes, predicted, split.size)
            sheet.add(row, column, heat, cmap="turbo", alpha=0.45, vmin=0, vmax=1)
            name, sure = short(scores.classes[predicted]), scores.probabilities[index].max()
            sheet.title(row, column, f"{word}: {name} {sure:.0%}", 7)
    _save(sheet.canvas, path)


def first_layer(weights: Path, split: Split, path: Path) -> None:
    """The filters of `article_cnn`'s one convolution, and the map of each on a photograph of either class:
    relu(convolution + bias), as the network computes it.

    `weights` is model.safetensors with `conv.weight` [10, 3, 5, 5] and `conv.bias` [10].
    """
    tensors = load_file(weights)
    filters, bias = tensors["conv.weight"].astype(np.float32), tensors["conv.bias"].astype(np.float32)
    shown = [int(np.flatnonzero(split.labels == label)[0]) for label in np.unique(split.labels)[:2]]
    sheet = _Sheet(1 + len(shown), 1 + len(filters), 1.2, 1.2)
    low, high = float(filters.min()), float(filters.max())
    for column, one in enumerate(filters, 1):
        sheet.add(0, column, (one.transpose(1, 2, 0) - low) / (high - low))
    for row, photograph in enumerate(split.images(shown), 1):
        sheet.add(row, 0, photograph)
        inputs = photograph.astype(np.float32) / 255
        for column, (one, offset) in enumerate(zip(filters, bias, strict=True), 1):
            planes = sum(cv2.filter2D(inputs[:, :, colour], cv2.CV_32F, one[colour]) for colour in range(3))
            sheet.add(row, column, np.maximum(np.asarray(planes) + offset, 0), cmap="gray")
    _save(sheet.canvas, path)


class _Sheet:
    """Square pictures in cells of `width` x `height` inches, each at the foot of its cell, a title above.

    All in one axes: one a picture takes five times as long.
    """

    GAP = 0.05  # inches around a picture

    def __init__(self, rows: int, columns: int, width: float, height: float) -> None:
        self.width, self.height, self.side = width, height, min(width, height) - 2 * self.GAP
        size = columns * width, rows * height
        self.canvas = Canvas(figsize=size)
        self.axes = self.canvas.add_axes((0, 0, 1, 1), xlim=(0, size[0]), ylim=(size[1], 0), autoscale_on=False)
        self.axes.axis("off")

    def add(self, row: int, column: int, pixels: NDArray[np.generic], **style: Any) -> None:
        """A picture [h, w] or [h, w, 3], over what is there."""
        left, foot = column * self.width + self.GAP, (row + 1) * self.height - self.GAP
        self.axes.imshow(pixels, extent=(left, left + self.side, foot, foot - self.side), aspect="auto", **style)

    def title(self, row: int, column: int, text: str, size: float) -> None:
        top = (row + 1) * self.height - self.side - 2 * self.GAP
        self.axes.text((column + 0.5) * self.width, top, text, fontsize=size, ha="center", va="bottom")


def _save(canvas: Canvas, path: Path) -> None:
    # no version inside: equal figures, equal bytes
    with new_file(path) as partial, warnings.catch_warnings(record=True) as caught:
        canvas.savefig(partial, format=path.suffix[1:], dpi=110, metadata={"Software": None})
    if any("missing from font" in str(one.message) for one in caught):
        _say_boxes()


@functools.cache  # once a process
def _say_boxes() -> None:
    say("  no font here has all letters of the classes' names: plots show boxes (Noto Sans CJK has most)")

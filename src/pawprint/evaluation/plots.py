"""Pictures of an evaluation, as PNG files: confusion matrix, reliability diagram, worst mistakes."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure as Canvas
from sklearn.metrics import ConfusionMatrixDisplay

from pawprint.evaluation.metrics import Evaluation, Scores
from pawprint.prepared.read import Side

mpl.use("Agg")


def confusion(evaluation: Evaluation, classes: tuple[str, ...], path: Path) -> None:
    """Right class by predicted class, in photographs."""
    canvas = Canvas(figsize=(4, 4), layout="constrained")
    matrix = np.asarray(evaluation.confusion)
    ConfusionMatrixDisplay(matrix, display_labels=classes).plot(ax=canvas.subplots(), colorbar=False, cmap="Blues")
    _save(canvas, path)


def reliability(scores: Scores, path: Path, bins: int = 10) -> None:
    """How often the model is right against how sure it was; on the diagonal it can be taken at its word."""
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
    axes.set(xlabel="confidence", ylabel="share that is right", xlim=(0.3, 1.01), ylim=(-0.02, 1.02))
    axes.set_title(f"{len(confidence)} photographs; area: how many", fontsize=9)
    _save(canvas, path)


def mistakes(scores: Scores, side: Side, path: Path, most: int = 32) -> None:
    """Contact sheet of the photographs that the model was most wrong about, worst first."""
    wrong = np.flatnonzero(~scores.correct)
    worst = wrong[np.argsort(-scores.losses[wrong], kind="stable")][:most]
    if not len(worst):
        path.unlink(missing_ok=True)
        return
    columns = min(8, len(worst))
    rows = -(-len(worst) // columns)
    canvas = Canvas(figsize=(columns * 1.6, rows * 1.9), layout="constrained")
    grid = np.atleast_1d(canvas.subplots(rows, columns)).ravel()
    for axes in grid:
        axes.axis("off")
    for axes, index, pixels in zip(grid, worst, side.images(worst), strict=False):
        said = scores.probabilities[index]
        axes.imshow(pixels)
        axes.set_title(
            f"{Path(scores.origins[index]).name}\nsaid {scores.classes[int(said.argmax())]} {said.max():.0%}",
            fontsize=6,
        )
    _save(canvas, path)


def _save(canvas: Canvas, path: Path) -> None:
    # no date or version inside: the same figures give the same bytes
    canvas.savefig(path, dpi=110, metadata={"Software": None})

"""One page on a whole run: samples by class, candidates, curves, mistakes, slices, the gate; images are inside.

print(write(Path(".")))         # reports/report.html
"""

from pathlib import Path

import cv2
import numpy as np

from pawprint import image
from pawprint.config import load_params
from pawprint.data.dataset import PreparedDataset
from pawprint.errors import PawprintError
from pawprint.evaluation.gate import MARKS, OUTCOMES
from pawprint.files import data_url, read_json, render, write_text

EACH, SIDE = 6, 96  # samples of a class, and their size in pixels
MOST = 50  # classes with samples
PLOTS = {
    "confusion": "confusion matrix; the darker, the larger the share of its row",
    "reliability": "reliability: confidence against the share that is right",
    "risk_coverage": "wrong answers, where only the surest are given",
    "photographs_curve": "would more photographs help? With fewer of them",
    "roc_and_precision": "ROC and precision-recall",
    "mistakes": "the worst mistakes",
    "activations": "class activation maps: right above, wrong below",
    "corruptions": "accuracy under corruptions, and by slice",
}


def write(root: Path) -> Path:
    """Write reports/report.html of the run whose files lie in `root`; its path.

    Raises:
        PawprintError: the run's files are missing.
    """
    reports = root / "reports"
    figures, verdict, bento = (
        read_json(path) for path in (reports / "metrics.json", reports / "gate.json", root / "bento.json")
    )
    if figures is None or verdict is None or bento is None:
        raise PawprintError("reports/ is incomplete. Run `make run` first.")
    names = [name for name in load_params(root / "params.yaml").models if name in figures]
    plots = {
        name: {
            words: _url(path)
            for plot, words in PLOTS.items()
            if (path := reports / "plots" / name / f"{plot}.png").exists()
        }
        for name in names
    }
    release = f"releases/{bento['dataset']}-v{bento['version']}/MODEL_CARD.md"
    data = PreparedDataset.open(root / "prepared")
    page = render(
        "pawprint.evaluation",
        "run_report.html",
        names=names,
        figures=figures,
        gate=verdict,
        marks=MARKS,
        outcome=OUTCOMES[verdict["outcome"]],
        champion=bento,
        plots=plots,
        samples=_samples(data),
        classes=len(data.classes),
        curves=_url(reports / "plots" / "learning_curves.png"),
        card=release if (reports / release).exists() else "",
    )
    write_text(reports / "report.html", page)
    return reports / "report.html"


def _samples(data: PreparedDataset) -> dict[str, str]:
    """A strip of the first training photographs of each class, the first MOST of them, as a data URL."""
    train, strips = data.split("train"), {}
    for label, name in enumerate(data.classes[:MOST]):
        chosen = np.flatnonzero(train.labels == label)[:EACH]
        small = [cv2.resize(one, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for one in train.images(chosen)]
        strips[name] = data_url("jpeg", image.encode(np.hstack(small), 85)) if small else ""
    return strips


def _url(path: Path) -> str:
    return data_url("png", path.read_bytes()) if path.exists() else ""

"""Label audit: photographs whose label is probably wrong, and outliers, for a person to look at.

    found = audit(PreparedDataset.open(Path("prepared")), params, top=200)
    write(found, Path("reports/audit"))         # audit.csv and audit.html

Two ranks on the frozen backbone's features (from the feature cache), taken in turns. Label issue score: one minus the
label's probability by a logistic regression that has not seen the photograph. Outlier score: mean distance to the
nearest neighbours. Each finds what the other misses: a picture of a house may be classified as a dog with confidence,
and a dog labelled as a cat has many neighbours. docs/decisions/label-audit.md has the figures.
"""

import base64
import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from pawprint import image
from pawprint.config import Params
from pawprint.data.dataset import PreparedDataset, Split
from pawprint.data.splits import SPLITS
from pawprint.errors import PawprintError
from pawprint.files import render, write_text
from pawprint.inference import ood
from pawprint.models import registry
from pawprint.training import devices
from pawprint.training.feature_cache import FeatureCache

BACKBONE = "efficientnet_lite0"  # where no candidate names another
FOLDS = 5
NEIGHBOURS = 10
STRENGTH = 0.01  # of the regression's data against its penalty: 1,280 features, so a strong penalty
BLOCK = 1024  # photographs compared with all others at a time
THUMBNAIL = 144  # pixels
COLUMNS = ("rank", "file", "label", "decision", "guess", "reason", "label_issue_score", "outlier_score", "hash")


@dataclass(frozen=True)
class LabelIssue:
    """A photograph to look at."""

    file: str  # path below data/
    label: str
    guess: str  # the regression's most probable class
    reason: str
    label_issue_score: float  # 1 - the probability of its label, by a regression that has not seen it
    outlier_score: float  # mean cosine distance to its nearest neighbours
    hash: str
    thumbnail: str  # JPEG as a data URL


def audit(data: PreparedDataset, params: Params, top: int) -> list[LabelIssue]:
    """The `top` photographs to look at, the most suspicious first.

    Raises:
        PawprintError: a class has fewer than two photographs.
    """
    # 1. features of the frozen backbone; what training has cached is not computed again
    splits = [data.split(name) for name in SPLITS]
    features = np.concatenate(list(features_of(splits, params, len(data.classes))))
    labels = np.concatenate([split.labels for split in splits])
    # 2. the two ranks
    probabilities = out_of_fold(features, labels, params.seed)
    issue = 1 - probabilities[np.arange(len(labels)), labels]
    distance = outlier_score(features)
    chosen = interleave(np.argsort(-issue, kind="stable"), np.argsort(-distance, kind="stable"), top)
    # 3. the reasons, with a picture
    usual = float(np.median(distance))
    places = [(split, index) for split in splits for index in range(len(split))]
    return [
        _issue(*places[one], why, probabilities[one], float(distance[one]), usual, data.classes) for one, why in chosen
    ]


def out_of_fold(
    features: NDArray[np.float32], labels: NDArray[np.int64], seed: int, strength: float = STRENGTH
) -> NDArray[np.float64]:
    """Probabilities [n, classes]; each photograph's by a regression on the others of `features` [n, d]."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    folds = min(FOLDS, int(np.bincount(labels).min()))
    if folds < 2:
        raise PawprintError("A class has fewer than two photographs: its labels cannot be audited. Add some.")
    regression = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=500))
    order = StratifiedKFold(folds, shuffle=True, random_state=seed)
    probabilities: NDArray[np.float64] = cross_val_predict(
        regression, features, labels, cv=order, method="predict_proba"
    )
    return probabilities


def outlier_score(features: NDArray[np.float32], neighbours: int = NEIGHBOURS) -> NDArray[np.float32]:
    """Mean cosine distance [n] of each row of `features` [n, d] to its nearest neighbours, itself excluded."""
    unit = ood.unit(features)
    k = min(neighbours, len(unit) - 1)
    found = np.empty(len(unit), np.float32)
    for start in range(0, len(unit), BLOCK):
        near = unit[start : start + BLOCK] @ unit.T
        near[np.arange(len(near)), np.arange(start, start + len(near))] = -np.inf
        found[start : start + BLOCK] = 1 - np.partition(near, -k, axis=1)[:, -k:].mean(axis=1)
    return found


def interleave(doubted: NDArray[np.int64], unlike: NDArray[np.int64], top: int) -> list[tuple[int, tuple[str, ...]]]:
    """(index, why) from both ranks in turns; one that is high in both is listed once, with both."""
    why: dict[int, tuple[str, ...]] = {}
    for place, pair in enumerate(zip(doubted.tolist(), unlike.tolist(), strict=True)):
        for index, reason in zip(pair, ("label", "outlier"), strict=True):
            if index in why and reason not in why[index]:
                why[index] = (*why[index], reason)
            elif len(why) < top:
                why.setdefault(index, (reason,))
        if place >= top:
            break
    return list(why.items())


def write(found: list[LabelIssue], out: Path) -> None:
    """audit.csv, for a person's decisions, and audit.html with the pictures; one file each, nothing fetched."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / "audit.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(COLUMNS)
        for rank, one in enumerate(found, 1):
            scores = (f"{one.label_issue_score:.4f}", f"{one.outlier_score:.4f}")
            rows.writerow((rank, one.file, one.label, "", one.guess, one.reason, *scores, one.hash))
    write_text(out / "audit.html", render("pawprint.evaluation", "label_audit.html", found=found))


def features_of(splits: list[Split], params: Params, classes: int) -> Iterator[NDArray[np.float32]]:
    """float32 [n, d] of each split: of the backbone that a candidate trains a head on; cached ones are read."""
    heads = [one.architecture for one in params.candidates.values() if one.train == "head"]
    name = heads[0] if heads else BACKBONE
    network = registry.create_model(name, classes)
    network.load_pretrained()
    cached = FeatureCache(network, name, devices.resolve_precision(params))
    for split in splits:
        yield cached.of(split)


def _issue(
    split: Split,
    index: int,
    why: tuple[str, ...],
    probabilities: NDArray[np.float64],
    distance: float,
    usual: float,
    classes: tuple[str, ...],
) -> LabelIssue:
    label, guess = classes[split.labels[index]], classes[int(probabilities.argmax())]
    sure = f"({probabilities.max():.0%})"
    words = {
        "label": f"called {label}, looks like {guess} {sure}"
        if guess != label
        else f"hardly looks like {label} {sure}",
        "outlier": f"unlike the others (distance {distance:.2f}, usual {usual:.2f})",
    }
    small = cv2.resize(split.images([index])[0], (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
    return LabelIssue(
        split.origins[index],
        label,
        guess,
        "; ".join(words[one] for one in why),
        1 - float(probabilities[split.labels[index]]),
        distance,
        split.hashes[index],
        "data:image/jpeg;base64," + base64.b64encode(image.encode(small, 80)).decode(),
    )

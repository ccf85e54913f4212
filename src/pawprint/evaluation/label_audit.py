"""Label audit: photographs whose label is probably wrong, and outliers, for a person to look at.

    found = audit(PreparedDataset.open(Path("prepared")), params, top=200)
    write(found, Path("reports/audit"))         # audit.csv, the queue `audit` of the review page

Two ranks on the frozen backbone's features (from the feature cache), taken in turns. Label issue score: one minus the
label's probability by a logistic regression that has not seen the photograph. Outlier score: mean distance to the
nearest neighbours. Each finds what the other misses: a picture of a house may be classified as a dog with confidence,
and a dog labelled as a cat has many neighbours. docs/decisions/label-audit.md has the figures.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, cross_val_predict
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pawprint.config import Params
from pawprint.data.dataset import PreparedDataset, Split
from pawprint.data.labels import TESTED
from pawprint.data.splits import SPLITS
from pawprint.errors import PawprintError
from pawprint.files import write_csv
from pawprint.models import registry
from pawprint.training import devices
from pawprint.training.feature_cache import cached_features

BACKBONE = "efficientnet_lite0"  # where no candidate names another
FOLDS = 5
NEIGHBOURS = 10
STRENGTH = 0.01  # of the regression's data against its penalty: 1,280 features, so a strong penalty
COLUMNS = (
    "rank",
    "file",
    "label",
    "split",
    "guess",
    "reason",
    "label_issue_score",
    "outlier_score",
    "hash",
)


@dataclass(frozen=True)
class LabelIssue:
    """A photograph to look at."""

    file: str  # path below data/
    label: str
    split: str
    guess: str  # the regression's most probable class; "" for a test photograph
    reason: str
    label_issue_score: float  # 1 - the probability of its label, by a regression that has not seen it
    outlier_score: float  # mean cosine distance to its nearest neighbours
    hash: str


def audit(data: PreparedDataset, params: Params, top: int) -> list[LabelIssue]:
    """The `top` photographs to look at, the most suspicious first.

    Raises:
        PawprintError: a class has fewer than two photographs.
    """
    # 1. features of the frozen backbone; what training has cached is not computed again
    splits = [data.split(name) for name in SPLITS]
    features = features_of(splits, params, len(data.classes))
    labels = np.concatenate([split.labels for split in splits])
    # 2. the two ranks
    units = [row.unit for split in splits for row in split.rows] if data.groups else []
    probabilities = out_of_fold(features, labels, params.seed, groups=units)
    issue, outlier = 1 - probabilities[np.arange(len(labels)), labels], outlier_score(features)
    chosen = interleave(np.argsort(-issue, kind="stable"), np.argsort(-outlier, kind="stable"), top)
    # 3. the reasons
    places = [(split, index) for split in splits for index in range(len(split))]
    usual, found = float(np.median(outlier)), []
    for one, whys in chosen:
        why = [name for name in whys if name != "outlier" or outlier[one] > usual]
        if not why:  # of a small set everything is among the first
            continue
        split, index = places[one]
        label, guess = data.classes[labels[one]], data.classes[int(probabilities[one].argmax())]
        sure = f"({probabilities[one].max():.0%})"
        reasons = {
            "label": TESTED
            if split.name == "test"
            else f"called {label}, looks like {guess} {sure}"
            if guess != label
            else f"looks like {label}, but less than the others {sure}",
            "outlier": f"unlike the others (distance {outlier[one]:.2f}, usual {usual:.2f})",
        }
        found.append(
            LabelIssue(
                file=split.origins[index],
                label=label,
                split=split.name,
                guess="" if split.name == "test" else guess,
                reason="; ".join(reasons[name] for name in why),
                label_issue_score=float(issue[one]),
                outlier_score=float(outlier[one]),
                hash=split.hashes[index],
            )
        )
    return found


def features_of(splits: Sequence[Split], params: Params, classes: int) -> NDArray[np.float32]:
    """float32 [n, d] of all photographs: of the backbone that a candidate trains a head on; cached ones are read."""
    name = backbone_of(params)
    network = registry.create_model(name, classes, params.preprocess.size)
    network.load_pretrained()
    cache = cached_features(network, name, devices.resolve_precision(params))
    return np.concatenate([cache.of(split) for split in splits])


def backbone_of(params: Params) -> str:
    """The pretrained backbone that a candidate trains a head on."""
    heads = [one.architecture for one in params.candidates.values() if one.train == "head"]
    return heads[0] if heads else BACKBONE


def out_of_fold(
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    seed: int,
    strength: float = STRENGTH,
    groups: Sequence[str] = (),
) -> NDArray[np.float64]:
    """Probabilities [n, classes]; each photograph's by a regression on others of `features` [n, d], none of its group.

    Raises:
        PawprintError: a class has fewer than two photographs, or all of them in one group.
    """
    units = np.unique(groups, return_inverse=True)[1] if groups else np.arange(len(labels))
    folds = min(FOLDS, *(len(np.unique(units[labels == one])) for one in range(int(labels.max()) + 1)))
    if folds < 2:
        what = "photographs in two groups" if groups else "two photographs"
        raise PawprintError(f"A class has fewer than {what}: its labels cannot be audited. Add some.")
    regression = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=500))
    order = (StratifiedGroupKFold if groups else StratifiedKFold)(folds, shuffle=True, random_state=seed)
    found = cross_val_predict(
        regression, features, labels, groups=units if groups else None, cv=order, method="predict_proba"
    )
    return np.asarray(found)


def outlier_score(features: NDArray[np.float32], neighbours: int = NEIGHBOURS) -> NDArray[np.float32]:
    """Mean cosine distance [n] of each row of `features` [n, d] to its nearest neighbours, itself excluded."""
    nearest = NearestNeighbors(n_neighbors=min(neighbours, len(features) - 1), metric="cosine").fit(features)
    distances, _ = nearest.kneighbors()
    return np.asarray(distances.mean(axis=1))


def interleave(issues: NDArray[np.int64], outliers: NDArray[np.int64], top: int) -> list[tuple[int, tuple[str, ...]]]:
    """(index, why) from both ranks in turns; one that is high in both is listed once, with both."""
    why: dict[int, tuple[str, ...]] = {}
    for place, pair in enumerate(zip(issues.tolist(), outliers.tolist(), strict=True)):
        for index, reason in zip(pair, ("label", "outlier"), strict=True):
            if index in why and reason not in why[index]:
                why[index] = (*why[index], reason)
            elif len(why) < top:
                why.setdefault(index, (reason,))
        if place >= top:
            break
    return list(why.items())


def write(found: list[LabelIssue], out: Path) -> None:
    """audit.csv, which `pawprint review audit` shows."""
    rows: list[tuple[object, ...]] = [COLUMNS]
    for rank, one in enumerate(found, 1):
        issue = "" if one.split == "test" else f"{one.label_issue_score:.4f}"  # of two classes it tells the guess
        scores = (issue, f"{one.outlier_score:.4f}")
        rows.append((rank, one.file, one.label, one.split, one.guess, one.reason, *scores, one.hash))
    write_csv(out / "audit.csv", rows)

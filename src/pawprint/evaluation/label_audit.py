"""Which photographs a person should look at: those under a doubtful label, and those unlike any other.

    found = audit(PreparedDataset.open(Path("prepared")), params, top=200)
    write(found, Path("reports/audit"))         # audit.csv and audit.html

Two ranks on the frozen backbone's features (training/features.py keeps them), taken in turns. Doubt: how little a
logistic regression that has not seen a photograph believes its label. Unlikeness: how far its nearest neighbours are.
Neither finds what the other does: a picture of a house may well be called a dog, and a dog called a cat has many
neighbours. docs/decisions/label-audit.md has the figures.
"""

import base64
import csv
import html
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
from pawprint.models import registry
from pawprint.models.backbone import PooledNetwork
from pawprint.training.feature_cache import Features

BACKBONE = "efficientnet_lite0"  # where no candidate names another
FOLDS = 5
NEIGHBOURS = 10
STRENGTH = 0.01  # of the regression's data against its penalty: 1,280 features, so a strong penalty
BLOCK = 1024  # photographs compared with all others at a time
THUMBNAIL = 144  # pixels
COLUMNS = ("rank", "file", "label", "decision", "guess", "reason", "doubt", "unlikeness", "hash")
STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:80rem;margin:2rem auto;padding:0 1rem}
figure{display:inline-block;width:10rem;margin:.5rem;vertical-align:top;overflow-wrap:anywhere;font-size:13px}
img{width:144px;height:144px;background:#ddd}@media(prefers-color-scheme:dark){body{background:#181818;color:#ddd}}"""


@dataclass(frozen=True)
class Doubtful:
    """A photograph to look at."""

    file: str  # path below data/
    label: str
    guess: str  # the class that the regression believes in
    reason: str
    doubt: float  # 1 - the probability of its label, by a regression that has not seen it
    unlikeness: float  # mean cosine distance to its nearest neighbours
    hash: str
    thumbnail: bytes  # JPEG


def audit(data: PreparedDataset, params: Params, top: int) -> list[Doubtful]:
    """The `top` photographs to look at, the most suspicious first.

    Raises:
        PawprintError: a class has fewer than two photographs.
    """
    # 1. what the frozen backbone sees in each; what training has kept is not computed again
    splits = [data.split(name) for name in SPLITS]
    features = np.concatenate(list(features_of(splits, params, len(data.classes))))
    labels = np.concatenate([split.labels for split in splits])
    # 2. the two ranks
    probabilities = out_of_fold(features, labels, params.seed)
    doubt = 1 - probabilities[np.arange(len(labels)), labels]
    distance = unlikeness(features)
    chosen = interleave(np.argsort(-doubt, kind="stable"), np.argsort(-distance, kind="stable"), top)
    # 3. in words, with a picture
    usual = float(np.median(distance))
    places = [(split, index) for split in splits for index in range(len(split))]
    return [
        _doubtful(*places[one], why, probabilities[one], float(distance[one]), usual, data.classes)
        for one, why in chosen
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
        raise PawprintError("A class has fewer than two photographs: nothing can be said of labels. Add some.")
    regression = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=500))
    order = StratifiedKFold(folds, shuffle=True, random_state=seed)
    probabilities: NDArray[np.float64] = cross_val_predict(
        regression, features, labels, cv=order, method="predict_proba"
    )
    return probabilities


def unlikeness(features: NDArray[np.float32], neighbours: int = NEIGHBOURS) -> NDArray[np.float32]:
    """Mean cosine distance [n] of each row of `features` [n, d] to its nearest neighbours."""
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    k = min(neighbours, len(unit) - 1)
    found = np.empty(len(unit), np.float32)
    for start in range(0, len(unit), BLOCK):
        near = unit[start : start + BLOCK] @ unit.T
        near[np.arange(len(near)), np.arange(start, start + len(near))] = -np.inf  # not one's own neighbour
        found[start : start + BLOCK] = 1 - np.partition(near, -k, axis=1)[:, -k:].mean(axis=1)
    return found


def interleave(doubted: NDArray[np.int64], unlike: NDArray[np.int64], top: int) -> list[tuple[int, tuple[str, ...]]]:
    """(index, why) from both ranks in turns; what stands high in both comes once, for both reasons."""
    why: dict[int, tuple[str, ...]] = {}
    for place, pair in enumerate(zip(doubted.tolist(), unlike.tolist(), strict=True)):
        for index, reason in zip(pair, ("doubt", "unlike"), strict=True):
            if index in why and reason not in why[index]:
                why[index] = (*why[index], reason)
            elif len(why) < top:
                why.setdefault(index, (reason,))
        if place >= top:
            break
    return list(why.items())


def write(found: list[Doubtful], out: Path) -> None:
    """audit.csv, for a person's decisions, and audit.html with the pictures; one file each, nothing fetched."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / "audit.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(COLUMNS)
        for rank, one in enumerate(found, 1):
            figures = (f"{one.doubt:.4f}", f"{one.unlikeness:.4f}")
            rows.writerow((rank, one.file, one.label, "", one.guess, one.reason, *figures, one.hash))
    pictures = "".join(_figure(rank, one) for rank, one in enumerate(found, 1))
    (out / "audit.html").write_text(
        f"<!doctype html><html lang=en><meta charset=utf-8><title>Labels to look at</title><style>{STYLE}</style>"
        f"<h1>{len(found):,} photographs to look at</h1><p>In audit.csv, write into the column <code>decision</code> "
        "the right class, or <code>drop</code>; leave it empty where nothing is wrong. Then <code>pawprint photos "
        f"relabel audit.csv</code> and <code>pawprint photos drop audit.csv</code>.</p>{pictures}</html>\n",
        encoding="utf-8",
    )


def features_of(splits: list[Split], params: Params, classes: int) -> Iterator[NDArray[np.float32]]:
    """float32 [n, d] of each split: of the backbone that a candidate trains a head on; cached ones are read."""
    heads = [one.architecture for one in params.candidates.values() if one.train == "head"]
    name = heads[0] if heads else BACKBONE
    network = registry.create_model(name, classes)
    assert isinstance(network, PooledNetwork)
    network.load_pretrained()
    cached = Features(network, name, params)
    for split in splits:
        yield cached.of(split)


def _doubtful(
    split: Split,
    index: int,
    why: tuple[str, ...],
    probabilities: NDArray[np.float64],
    distance: float,
    usual: float,
    classes: tuple[str, ...],
) -> Doubtful:
    label, guess = classes[split.labels[index]], classes[int(probabilities.argmax())]
    doubt = 1 - float(probabilities[split.labels[index]])
    said = {
        "doubt": f"called {label}, looks like {guess} ({probabilities.max():.0%})"
        if guess != label
        else f"hardly looks like {label} ({probabilities.max():.0%})",
        "unlike": f"unlike the others (distance {distance:.2f}, usual {usual:.2f})",
    }
    small = cv2.resize(split.images([index])[0], (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
    return Doubtful(
        split.origins[index],
        label,
        guess,
        "; ".join(said[one] for one in why),
        doubt,
        distance,
        split.hashes[index],
        image.encode(small, 80),
    )


def _figure(rank: int, one: Doubtful) -> str:
    picture = base64.b64encode(one.thumbnail).decode()
    return (
        f'<figure><img alt="" src="data:image/jpeg;base64,{picture}"><figcaption>{rank}. <b>{html.escape(one.file)}</b>'
        f"<br>{html.escape(one.reason)}</figcaption></figure>"
    )

"""What a recipe is worth on every photograph, and with fewer of them: trainings of a head on cached features.

    found = out_of_fold(trained, data)              # each photograph's probabilities by a head that has not seen it
    write(found, Path("models/efficientnet_lite0/folds.csv"))
    learning_curve(trained, data)                   # [Point(photographs=473, log_loss=0.05, accuracy=0.98), ...]

Only where the backbone is frozen (`train: head`): a training is then seconds. The folds judge the recipe (candidate and
parameters), not the model that is served: that one is judged on the test split.
"""

import csv
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch.nn import functional as F

from pawprint.data.dataset import PreparedDataset
from pawprint.data.manifest import ManifestRow
from pawprint.data.splits import SPLITS, draw
from pawprint.files import new_file
from pawprint.training import distributed
from pawprint.training.temperature import fit_temperature, tempered
from pawprint.training.train import Trained, fit
from pawprint.training.trainer import NullLogger

CURVE = "learning_curve.json"  # of a model folder
PARTS = (0.125, 0.25, 0.5)  # of the training split


@dataclass(frozen=True)
class OutOfFold:
    """Predictions for all photographs of the three splits, sorted by hash."""

    hashes: tuple[str, ...]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float64]  # [n, classes]
    classes: tuple[str, ...]


class Point(BaseModel):
    """A training on some of the photographs, measured on the validation split."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    photographs: int
    log_loss: float  # at the temperature that is fitted there
    accuracy: float


def out_of_fold(trained: Trained, data: PreparedDataset) -> OutOfFold | None:
    """None where the candidate is no head, `training.folds` is 0, or several processes train.

    The temperature of a fold is fitted on the others, so that nothing is fitted on what it is applied to.
    """
    count = trained.params.training.folds
    if not count or not _is_head(trained):
        return None
    rows = [row for row in data.rows if row.split in SPLITS]
    places = np.array([_fold(row, trained.params.seed, count) for row in rows])
    logits = np.empty((len(rows), len(data.classes)), np.float32)
    for number in np.unique(places):
        inside = places == number
        split = [row._replace(split="validation" if out else "train") for row, out in zip(rows, inside, strict=True)]
        if len({row.label for row in split if row.split == "train"}) < len(data.classes):
            return None  # a class has all its photographs in one fold
        logits[inside] = _trained_on(trained, replace(data, rows=tuple(split))).validation.logits
    labels = np.array([data.classes.index(row.label) for row in rows], np.int64)
    probabilities = np.empty(logits.shape)
    for number in np.unique(places):
        inside = places == number
        temperature = fit_temperature(logits[~inside], labels[~inside])
        probabilities[inside] = tempered(logits[inside], temperature)
    return OutOfFold(tuple(row.hash for row in rows), labels, probabilities, data.classes)


def learning_curve(trained: Trained, data: PreparedDataset) -> list[Point]:
    """The recipe on an eighth, a quarter, half and all of the training photographs; empty for what is no head."""
    train, validation = data.split("train"), data.split("validation")
    if not trained.params.training.folds or not _is_head(trained) or not len(validation):
        return []
    order = np.argsort([draw(row.unit, trained.params.seed, "part") for row in train.rows], kind="stable")
    points = []
    for part in (*PARTS, 1.0):
        kept = {train.hashes[index] for index in order[: round(part * len(train))]}
        rows = tuple(row for row in data.rows if row.split == "validation" or row.hash in kept)
        if len({row.label for row in rows if row.split == "train"}) < len(data.classes):
            continue  # a class has none
        found = trained if part == 1 else _trained_on(trained, replace(data, rows=rows))
        logits = found.validation.logits
        scaled = torch.from_numpy(logits).double() / fit_temperature(logits, validation.labels)
        loss = float(F.cross_entropy(scaled, torch.from_numpy(validation.labels)))
        right = float((logits.argmax(axis=1) == validation.labels).mean())
        points.append(Point(photographs=len(kept), log_loss=loss, accuracy=right))
    return points


def write(found: OutOfFold, path: Path) -> None:
    """A CSV file with a row a photograph; nine digits hold a float32 exactly."""
    with new_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(["hash", "class", *found.classes])
        for name, label, row in zip(found.hashes, found.labels, found.probabilities, strict=True):
            out.writerow([name, found.classes[label], *(f"{number:.9g}" for number in row)])


def _is_head(trained: Trained) -> bool:
    return trained.params.candidate(trained.candidate).train == "head" and distributed.world() == 1


def _trained_on(trained: Trained, data: PreparedDataset) -> Trained:
    """The recipe on other splits; for as many epochs, because the fold itself must not stop it."""
    name, params = trained.candidate, trained.params
    candidate = params.candidate(name).model_copy(update={"epochs": trained.epochs, "early_stopping": 0})
    return fit(name, params.model_copy(update={"candidates": {name: candidate}}), data, NullLogger())


def _fold(row: ManifestRow, seed: int, count: int) -> int:
    return int(draw(row.unit, seed, "fold") * count)

"""Pictures of the service's traffic, chosen for a person to look at: into the inbox, with their provenance.

    taken = harvest_logs(root, Mix(feedback=40, refused=20, unsure=20, novel=20, random=20), days=7)

The mix is active learning with a part that is drawn: what clients corrected, what was refused, what the model was least
sure of, what is least like the training photographs. Pictures of one scene teach little twice, so of those whose
embeddings nearly agree one is taken. `random` is what shows how the model does on ordinary traffic.
"""

import contextlib
import json
import random
import sqlite3
import time
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pawprint.config import UNKNOWN, load_params
from pawprint.data import inbox, labels, origins
from pawprint.data.inbox import TRAFFIC, Inbox, Incoming
from pawprint.data.labels import Labels
from pawprint.errors import PawprintError
from pawprint.serving import segments, traffic
from pawprint.serving.champion import registered_model
from pawprint.serving.kept import FOLDER, PictureStore

ALIKE = 0.995  # cosine of two embeddings, from which one of the pictures is enough


@dataclass(frozen=True)
class Mix:
    """How many pictures of each kind at most."""

    feedback: int = 40  # a client said another class than the model
    refused: int = 20  # answered `unknown`
    unsure: int = 20  # the least probable answers
    novel: int = 20  # the least like the training photographs
    random: int = 20  # drawn from all


def harvest_logs(root: Path, mix: Mix, days: float, log: str = "") -> Counter[str]:
    """Take pictures of the service's logs (or of one, or of segments) into the project's inbox; how many of each kind.

    What is in data/ already, or was decided, is not taken. `days` of 0 looks back as far as pictures are kept.

    Raises:
        PawprintError: there is no log.
    """
    beside = Path(log).parent if log.endswith(".db") else traffic.folder()
    shipped = "" if log.endswith(".db") else log or traffic.segments()
    store = segments.Pictures(beside / FOLDER, shipped)
    with contextlib.ExitStack() as stack:
        if log or traffic.segments():
            logs = [stack.enter_context(segments.log_of(registered_model(root / "champion"), log))]
        else:
            logs = sorted(traffic.folder().glob("*.db"))
        if not logs or not logs[0].is_file():
            raise PawprintError(f"There is no traffic log in {traffic.folder()}. Serve the model, or name --log.")
        known = {row.hash for row in origins.read_rows(root / "data")} | set(Labels(root / labels.FILE).standing())
        since, seed = time.time() - 86_400 * days if days else 0, load_params(root / "params.yaml").seed
        return harvest(logs, store, Inbox(root / inbox.FOLDER), mix, known, seed, since)


def harvest(
    logs: Iterable[Path],
    store: PictureStore,
    into: Inbox,
    mix: Mix,
    known: Collection[str],
    seed: int,
    since: float = 0,
) -> Counter[str]:
    """Take pictures of `logs` into an inbox; how many of each kind.

    Args:
        known: hashes that are not taken: those of data/, and those that were decided.
        since: seconds since 1970.
    """
    rows = [(log.stem, row) for log in logs for row in traffic.kept(log, since)]
    latest: dict[str, tuple[str, sqlite3.Row]] = {}
    for model, row in rows:
        before = latest.get(row["picture"])
        if before is None or (row["right_label"] and not before[1]["right_label"]):  # feedback counts more than time
            latest[row["picture"]] = (model, row)
    new = [one for digest, one in latest.items() if digest not in known and digest not in into]
    taken: list[Incoming] = []
    chosen: list[NDArray[np.float32]] = []
    counts: Counter[str] = Counter()
    done: set[str] = set()
    for kind, most in asdict(mix).items():
        for model, row in _ranked(kind, new, seed):
            if counts[kind] == most:
                break
            direction = _direction(row)
            if row["picture"] in done or any(_alike(direction, other) for other in chosen):
                continue
            picture = store.read(row["picture"])
            if picture is None:  # it was too old, or too many came
                continue
            done.add(row["picture"])
            chosen.append(direction)
            counts[kind] += 1
            taken.append(into.keep(picture, _incoming(model, row, kind)))
    into.add(taken)
    return counts


def _ranked(kind: str, rows: list[tuple[str, sqlite3.Row]], seed: int) -> list[tuple[str, sqlite3.Row]]:
    """The rows that are of this kind, the best first."""
    if kind == "feedback":
        return [one for one in rows if one[1]["right_label"] not in (None, one[1]["label"])]
    if kind == "refused":
        return [one for one in rows if one[1]["label"] == UNKNOWN]
    if kind == "unsure":
        return sorted((one for one in rows if one[1]["label"] != UNKNOWN), key=lambda one: _confidence(one[1]))
    if kind == "novel":
        return sorted(rows, key=lambda one: float(one[1]["typicality"]))
    return random.Random(seed).sample(rows, len(rows))


def _confidence(row: sqlite3.Row) -> float:
    return float(max(json.loads(row["probabilities"]).values()))


def _direction(row: sqlite3.Row) -> NDArray[np.float32]:
    """The picture's embedding at length one; empty where the log has none."""
    embedding = np.frombuffer(row["embedding"], "<f2").astype(np.float32)
    return embedding / max(float(np.linalg.norm(embedding)), 1e-6)


def _alike(one: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
    return one.shape == other.shape and len(one) > 0 and float(one @ other) > ALIKE


def _incoming(model: str, row: sqlite3.Row, kind: str) -> Incoming:
    probabilities = json.loads(row["probabilities"])
    best = max(probabilities, key=probabilities.get)
    said = row["label"] if row["label"] != UNKNOWN else best
    return Incoming(
        hash=row["picture"],
        file="",
        source=f"{TRAFFIC}{model}/{row['model_version'] or '0'}",
        name=row["id"],
        answer=said,
        feedback=row["right_label"] or "",
        why=kind,
        score=f"{probabilities[best]:.4f}",
        model_digest=row["model_digest"],
    )

"""Candidates on five fixed folds of a prepared set: pooled figures with intervals, and paired differences.

    python benchmarks/folds.py prepared lite0_head lite2_head lite0_finetune [--folds 5] [--out docs/RESULTS.md]

One test split of some hundreds of photographs cannot tell 99.3 from 99.6 %. Here every photograph is tested once: it is
in the fold that its own hash names, and the candidate that is asked has not learned from any of that fold. Of the rest
15 % are the validation split, on which the temperature is fitted. Predictions are kept in results/folds/, so that a run
that was stopped goes on and candidates can be compared later.

A name is one of VARIANTS, or one followed by JSON that is laid over it: 'lite0_head {"weight_decay": 0.001}'. Names
joined by " or " are one candidate: in each fold the one with the smallest validation log loss is tested, so
that nothing is chosen on what is tested.
"""

import argparse
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy import stats
from torch.nn import functional as F

from common import RESULTS
from pawprint import files
from pawprint.config import Candidate, Params, load_params
from pawprint.data.dataset import PreparedDataset
from pawprint.evaluation.metrics import Scores, discordant, measure, paired_losses
from pawprint.evaluation.summary import machine
from pawprint.models import registry
from pawprint.training import devices
from pawprint.training.dataloader import TrainingData
from pawprint.training.temperature import fit_temperature
from pawprint.training.train import Trained, fit
from pawprint.training.trainer import NullLogger

FOLDS, VALIDATION = 5, 0.15
COLUMNS = ("candidate", "mistakes", "accuracy [95 %]", "log loss [95 %]", "calibration error (by chance at most)",
           "log loss - first", "better : worse, p")  # fmt: skip
HEAD = {"train": "head", "epochs": 200, "optimizer": "lbfgs", "weight_decay": "auto"}
ADAM = {"train": "head", "epochs": 100, "batch_size": 512, "learning_rate": 0.003, "weight_decay": 0.0001}
FINETUNE = {
    "train": "finetune", "blocks": 3, "epochs": 2, "batch_size": 32, "optimizer": "adamw", "schedule": "one_cycle",
    "learning_rate": 0.002, "augment": "flip", "ema": 0.99,
}  # fmt: skip
VARIANTS: dict[str, dict[str, Any]] = {
    "lite0_head": {"architecture": "efficientnet_lite0", **HEAD},
    "lite0_adam": {"architecture": "efficientnet_lite0", **ADAM},
    "lite2_head": {"architecture": "efficientnet_lite2", **HEAD},
    "both_head": {"architecture": ["efficientnet_lite0", "efficientnet_lite2"], **HEAD},
    "lite0_finetune": {"architecture": "efficientnet_lite0", **FINETUNE},
    "lite2_finetune": {"architecture": "efficientnet_lite2", **FINETUNE},
}


def share(name: str, what: str) -> float:
    """A number in [0, 1) that depends on a photograph's hash and nothing else."""
    return int(hashlib.sha256(f"{what}:{name}".encode()).hexdigest()[:12], 16) / 16**12


def fold(data: PreparedDataset, number: int, seed: int = 0) -> PreparedDataset:
    """The set with other splits: fold `number` is tested, of the rest some validate. Each seed has other folds."""
    mark = f" {seed}" if seed else ""

    def split(name: str) -> str:
        if int(share(name, f"fold{mark}") * FOLDS) == number:
            return "test"
        return "validation" if share(name, f"validation{mark}") < VALIDATION else "train"

    rows = tuple(row._replace(split=split(row.hash)) for row in data.rows)
    return replace(data, rows=rows)


@torch.inference_mode()
def logits(trained: Trained, data: PreparedDataset, params: Params) -> NDArray[np.float32]:
    """Of the test split, computed as in the candidate's training."""
    candidate, device = params.candidate(trained.candidate), devices.resolve(params.training)
    fresh = registry.create_model(candidate.architecture, len(data.classes))  # the cache is the untrained weights'
    fresh.load_pretrained()
    swapped = {"test": "validation", "validation": "", "train": "train"}
    splits = replace(data, rows=tuple(row._replace(split=swapped[row.split]) for row in data.rows))
    source = TrainingData(trained.candidate, fresh.to(device), trained.params, splits, device)
    source.network = trained.network.to(device)
    return source.predictions("validation").logits


def tested(name: str, data: PreparedDataset, number: int, seed: int = 0, results: Path = RESULTS) -> dict[str, Any]:
    """Of one fold: `said` on the test split, hash -> (class, probabilities), and the log loss on `validation`."""
    base, _, changes = name.partition(" ")
    candidate = Candidate.model_validate(VARIANTS[base] | json.loads(changes or "{}"))
    params = load_params().model_copy(update={"candidates": {base: candidate}})
    key = hashlib.sha256((candidate.model_dump_json() + str(params.training)).encode()).hexdigest()[:12]
    path = results / "folds" / f"{base}-{key}-{f'{seed}-' if seed else ''}{number}.json"
    if not path.exists():
        splits = fold(data, number, seed)
        trained = fit(base, params, splits, NullLogger())
        validation, test = splits.split("validation"), splits.split("test")
        temperature = fit_temperature(trained.validation.logits, validation.labels)
        tuned = torch.from_numpy(trained.validation.logits).double() / temperature
        loss = float(F.cross_entropy(tuned, torch.from_numpy(validation.labels)))
        scaled = torch.from_numpy(logits(trained, splits, params)).double() / temperature
        rows = zip(test.hashes, test.labels.tolist(), scaled.softmax(1).tolist(), strict=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"validation": loss, "said": {one: (label, output) for one, label, output in rows}}))
        print(f"{name}, fold {number}: {trained.seconds:.0f} s, validation log loss {loss:.4f}", flush=True)
    return cast(dict[str, Any], json.loads(path.read_text()))


def predictions(names: str, data: PreparedDataset, folds: int) -> dict[str, tuple[int, list[float]]]:
    """hash -> (class, probabilities) over all folds that were asked for."""
    found: dict[str, tuple[int, list[float]]] = {}
    for number in range(folds):
        tried = {name: tested(name, data, number) for name in names.split(" or ")}
        best = min(tried, key=lambda name: float(tried[name]["validation"]))
        if len(tried) > 1:
            print(f"fold {number}: {best}")
        found |= {one: (label, output) for one, (label, output) in tried[best]["said"].items()}
    return found


def scores(found: dict[str, tuple[int, list[float]]], hashes: list[str], classes: tuple[str, ...]) -> Scores:
    labels = np.array([found[one][0] for one in hashes])
    output = np.array([found[one][1] for one in hashes])
    return Scores(tuple(hashes), tuple(hashes), labels, output, classes, np.ones(len(hashes)))


def row(name: str, one: Scores, first: Scores) -> tuple[str, ...]:
    """The cells of COLUMNS."""
    figures = measure(one)
    low, high = (-end for end in reversed(paired_losses(one, first)))
    better, worse = discordant(one, first)
    p = stats.binomtest(better, better + worse).pvalue if better + worse else 1.0  # McNemar's exact test
    right, loss, gap = figures.accuracy, figures.log_loss, figures.calibration_error
    shown = (
        f"{100 * right.value:.2f} % [{100 * right.low:.2f}, {100 * right.high:.2f}]",
        f"{loss.value:.4f} [{loss.low:.4f}, {loss.high:.4f}]",
        f"{100 * gap.value:.2f} % ({100 * gap.perfect_high:.2f})",
    )
    paired = ("-", "-") if one is first else (f"[{low:+.4f}, {high:+.4f}]", f"{better} : {worse}, {p:.2f}")
    return (name.replace("|", "\\|"), str(figures.mistakes), *shown, *paired)


def show(
    rows: list[tuple[str, ...]], title: str, section: str, dataset: str, about: list[str], out: Path | None
) -> None:
    """Print the table; with `out` write it there, over an earlier one of its section."""
    table = Table(*rows[0], title=f"{title}; {machine()}")
    for cells in rows[1:]:
        table.add_row(*cells)
    Console(width=180).print(table)
    if out:
        lines = ["| " + " | ".join(cells) + " |" for cells in rows]
        lines.insert(1, "|" + "---|" * len(rows[0]))
        lines = [f"## {dataset}: {title}", "", *lines, "", *(f"- {line}" for line in (f"machine: {machine()}", *about))]
        files.replace_section(out, section, "\n".join(lines), "# Results\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("prepared", type=Path)
    parser.add_argument("variants", nargs="+", help=f"of {', '.join(VARIANTS)}; the first is what others differ from")
    parser.add_argument("--folds", type=int, default=FOLDS, help="stop after so many, where time is short")
    parser.add_argument("--out", type=Path, help="a Markdown file, in which the table replaces its earlier one")
    arguments = parser.parse_args()
    data = PreparedDataset.open(arguments.prepared)
    asked = {name: predictions(name, data, arguments.folds) for name in arguments.variants}
    hashes = sorted(set.intersection(*(set(found) for found in asked.values())))
    printed = {name: scores(found, hashes, data.classes) for name, found in asked.items()}
    rows = [COLUMNS, *(row(name, one, printed[arguments.variants[0]]) for name, one in printed.items())]
    title = f"{len(hashes):,} photographs, each tested once ({arguments.folds} of {FOLDS} folds)"
    print("On the set of docs/decisions these are the folds on which the smoothing of the temperature was chosen.")
    about = [
        "written by: `python benchmarks/folds.py`; the last columns compare with the first row (McNemar)",
    ]
    show(rows, title, f"folds {data.dataset}", data.dataset, about, arguments.out)


if __name__ == "__main__":
    main()

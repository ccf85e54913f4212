"""What each step buys: from the most frequent class to a pretrained network, all on the same test photographs.

    rows = [row for name in BASELINES for row in measure(name, params, data, seeds=1)]
    write(rows, data, Path("docs/RESULTS.md"))

Every row is kept in cache/baselines/, so that a command that was stopped goes on where it was. Each network is exported
and measured as it would be served, in this machine's precision.
"""

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pawprint import files, lineage
from pawprint.config import Candidate, Params, Training
from pawprint.data.dataset import PreparedDataset, Split
from pawprint.errors import PawprintError
from pawprint.evaluation import latency, metrics
from pawprint.evaluation.metrics import Figure, Scores
from pawprint.evaluation.summary import machine
from pawprint.files import Closed
from pawprint.inference.classifier import Classifier
from pawprint.models import registry
from pawprint.models.backbone import Network
from pawprint.progress import say
from pawprint.training import devices
from pawprint.training.checkpoint import CheckpointManager
from pawprint.training.dataloader import EVALUATION_BATCH, chunks
from pawprint.training.export import export
from pawprint.training.feature_cache import FeatureCache
from pawprint.training.train import fit
from pawprint.training.trainer import NullLogger

ARTICLE = {"architecture": "article_cnn", "epochs": 5, "accumulate": 2, "epsilon": 1e-7}
HEAD = {"train": "head", "epochs": 200, "optimizer": "lbfgs", "weight_decay": "auto"}
NETWORKS: dict[str, dict[str, Any]] = {
    "article_cnn": ARTICLE,
    "article_cnn, slower": ARTICLE | {"learning_rate": 3e-5, "epochs": 20, "early_stopping": 3},
    "mlp": {"architecture": "mlp", "learning_rate": 3e-5, "epochs": 20, "early_stopping": 3},
    "efficientnet_lite0": {"architecture": "efficientnet_lite0"} | HEAD,
    "efficientnet_lite2": {"architecture": "efficientnet_lite2"} | HEAD,
    "both side by side": {"architecture": ("efficientnet_lite0", "efficientnet_lite2")} | HEAD,
}
SLOW: dict[str, dict[str, Any]] = {  # hours on two cores: only where it is named
    "deep_cnn": {
        "architecture": "deep_cnn", "epochs": 48, "batch_size": 32, "learning_rate": 0.002, "schedule": "one_cycle",
        "optimizer": "adamw", "weight_decay": 0.05, "label_smoothing": 0.1, "ema": 0.995, "augment": "strong",
        "train_sizes": (0.35, 0.8),
    },
}  # fmt: skip
WHAT = {
    "majority class": "the shares of the classes, for every photograph",
    "colour histogram": "512 colours, logistic regression",
    "article_cnn": "one convolution, one dense layer, as in the article: Keras's initialization and Adam, float32",
    "article_cnn, slower": "the same at a learning rate that lets it learn (0.00003), until validation gets no better",
    "mlp": "dense layers alone, at the same rate",
    "ImageNet's own head": "efficientnet_lite0 without any training: its best dog breed against its best cat",
    "efficientnet_lite0": "a linear head on its features",
    "efficientnet_lite2": "a linear head on its features",
    "both side by side": "a linear head on the features of lite0 and lite2",
    "deep_cnn": "a residual network from scratch",
}
BASELINES = ("majority class", "colour histogram", *list(NETWORKS)[:3], "ImageNet's own head", *list(NETWORKS)[3:])
DOGS, CATS = slice(151, 269), slice(281, 286)  # of ImageNet's 1,000 classes: breeds of dogs, domestic cats


class Row(Closed):
    """One training (or none), measured on the test split."""

    name: str
    seed: int
    photographs: int
    mistakes: int
    accuracy: Figure
    log_loss: Figure
    seconds: float  # from prepared photographs to a model; features of a frozen backbone are computed for it
    images_per_second: float  # in batches
    parameters: int
    size_mb: float


def default(params: Params, data: PreparedDataset) -> list[str]:
    """The baselines that fit these classes and take minutes; those whose weights are not installed are named."""
    found = []
    for name in BASELINES:
        if name == "ImageNet's own head" and data.classes != ("cat", "dog"):
            continue
        try:
            check(name, params)
        except PawprintError as error:
            say(f"skipped: {name}. {error}")
        else:
            found.append(name)
    return found


def check(name: str, params: Params) -> None:
    """PawprintError where there is no such baseline, or its weights are not installed."""
    if name not in WHAT and not name.startswith("timm/"):
        raise PawprintError(f"There is no baseline {name!r}. There are {', '.join(WHAT)}, and timm/NAME.")
    registry.check(_params(name, params, params.seed))


def measure(name: str, params: Params, data: PreparedDataset, seeds: int = 1) -> list[Row]:
    """A row a seed; what has no random numbers has one. Rows that are in cache/baselines/ are not measured again.

    Raises:
        PawprintError: There is no such baseline, or it does not fit these classes.
    """
    check(name, params)
    random = name in NETWORKS and NETWORKS[name].get("train") != "head"
    rows = []
    for seed in range(params.seed, params.seed + (seeds if random else 1)):
        given = _params(name, params, seed)
        key = json.dumps([name, data.digest, given.model_dump(mode="json")], sort_keys=True)
        cache = Path(os.environ.get("PAWPRINT_CACHE", "cache"))
        path = cache / "baselines" / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
        if path.exists():
            rows.append(Row.model_validate_json(path.read_bytes()))
            continue
        row = _measured(name, given, data)
        files.write_text(path, row.model_dump_json(indent=1) + "\n")
        say(f"{name}, seed {seed}: {row.mistakes} wrong of {row.photographs}, {row.seconds:,.0f} s")
        rows.append(row)
    return rows


def _params(name: str, params: Params, seed: int) -> Params:
    described = (NETWORKS | SLOW).get(name) or {"architecture": name} | HEAD
    precision: dict[str, str] = {"precision": "float32"} if described.get("architecture") == "article_cnn" else {}
    training = Training.model_validate(params.training.model_dump() | precision)
    known = name in NETWORKS or name in SLOW or name.startswith("timm/")
    candidates = {"baseline": Candidate.model_validate(described)} if known else {}
    return params.model_copy(update={"seed": seed, "training": training, "candidates": candidates})


def _measured(name: str, params: Params, data: PreparedDataset) -> Row:
    if params.candidates:
        return _network(name, params, data)
    predict = {"majority class": _majority, "colour histogram": _colours, "ImageNet's own head": _untrained}[name]
    began = time.monotonic()
    answer, parameters, size = predict(params, data)
    seconds, test = time.monotonic() - began, data.split("test")
    found = np.concatenate([answer(test.images(piece)) for piece in chunks(np.arange(len(test)), EVALUATION_BATCH)])
    batch, times = test.images(range(min(metrics.BATCH, len(test)))), []
    for _ in range(latency.BATCHES):
        began = time.perf_counter()
        answer(batch)
        times.append(time.perf_counter() - began)
    return _row(name, params.seed, test, found, seconds, len(batch) / min(times), parameters, size)


def _network(name: str, params: Params, data: PreparedDataset) -> Row:
    cache = Path(os.environ.get("PAWPRINT_CACHE", "cache"))
    checkpoints = CheckpointManager(cache / "baselines", "baseline", params, data) if name in SLOW else None
    with tempfile.TemporaryDirectory() as scratch, _own_cache(Path(scratch)):
        trained = fit("baseline", params, data, NullLogger(), checkpoints)
        folder = Path(scratch) / "model"
        record = lineage.Lineage(
            git_commit="", git_dirty=True, dataset=data.dataset, data_hash="", manifest_digest=data.digest,
            params_digest="", lock_digest="", seed=params.seed, device=devices.describe(params),
        )  # fmt: skip
        info = export(trained, data, record, folder, NullLogger())
        classifier, test = Classifier(folder), data.split("test")
        scores = metrics.score(classifier, test)
        speed = latency.measure(classifier, test.images(range(min(metrics.BATCH, len(test)))))
    if checkpoints:
        checkpoints.discard()
    figures = scores.probabilities, trained.seconds, speed.throughput_per_second, info.parameters, speed.size_mb
    return _row(name, params.seed, test, *figures)


def _row(
    name: str,
    seed: int,
    test: Split,
    probabilities: NDArray[np.floating],
    seconds: float,
    speed: float,
    parameters: int,
    size: float,
) -> Row:
    scores = Scores(
        test.hashes, test.origins, test.labels, probabilities.astype(np.float64), test.classes, np.ones(len(test))
    )
    found = metrics.measure(scores)
    return Row(
        name=name, seed=seed, photographs=found.photographs, mistakes=found.mistakes, accuracy=found.accuracy,
        log_loss=found.log_loss, seconds=round(seconds, 2), images_per_second=round(speed, 1), parameters=parameters,
        size_mb=round(size, 3),
    )  # fmt: skip


Answer = Callable[[NDArray[np.uint8]], NDArray[np.floating]]  # photographs [n, size, size, 3] -> probabilities [n, k]


def _majority(params: Params, data: PreparedDataset) -> tuple[Answer, int, float]:
    shares = np.bincount(data.split("train").labels, minlength=len(data.classes)) / len(data.split("train"))
    return lambda pixels: np.tile(shares, (len(pixels), 1)), len(shares), 0.0


def _colours(params: Params, data: PreparedDataset) -> tuple[Answer, int, float]:
    def histograms(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        """[n, 512]: square roots of the shares of 8 levels of red, green and blue."""
        red, green, blue = np.moveaxis((pixels >> 5).astype(np.int16), 3, 0)
        colours = (64 * red + 8 * green + blue).reshape(len(pixels), -1)
        counts = np.stack([np.bincount(one, minlength=512) for one in colours])
        return np.asarray(np.sqrt(counts / colours.shape[1]))

    train = data.split("train")
    pieces = chunks(np.arange(len(train)), EVALUATION_BATCH)
    seen = np.concatenate([histograms(train.images(piece)) for piece in pieces])
    regression = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000)).fit(seen, train.labels)
    parameters = regression[-1].coef_.size + regression[-1].intercept_.size
    return lambda pixels: np.asarray(regression.predict_proba(histograms(pixels))), parameters, 8 * parameters / 1e6


def _untrained(params: Params, data: PreparedDataset) -> tuple[Answer, int, float]:
    if data.classes != ("cat", "dog"):
        raise PawprintError("ImageNet's own head tells dogs from cats: the classes here are others.")
    network: Network = registry.create_model("efficientnet_lite0", 2, data.size)
    network.load_pretrained()
    scores = network.class_scores()
    assert scores is not None
    weights, bias = (one.numpy() for one in scores)
    cache = FeatureCache(network, "efficientnet_lite0", devices.resolve_precision(params))

    def answer(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        found = cache.engine.by_openvino(pixels) @ weights.T + bias
        best = np.stack([found[:, CATS].max(axis=1), found[:, DOGS].max(axis=1)], axis=1)
        exponents = np.exp(best - best.max(axis=1, keepdims=True))
        return np.asarray(exponents / exponents.sum(axis=1, keepdims=True))

    parameters = registry.parameters(network) - network.features - 1 + weights.size + bias.size
    return answer, parameters, 4 * parameters / 1e6


@contextmanager
def _own_cache(folder: Path) -> Iterator[None]:
    """An empty cache of features, so that the time of a training holds what it needs; none is left."""

    before = os.environ.get("PAWPRINT_CACHE")
    weights = Path(before or "cache", "weights").absolute()
    if weights.exists():
        (folder / "weights").symlink_to(weights)
    os.environ["PAWPRINT_CACHE"] = str(folder)
    try:
        yield
    finally:
        os.environ.pop("PAWPRINT_CACHE")
        if before is not None:
            os.environ["PAWPRINT_CACHE"] = before


def table(rows: list[Row]) -> list[list[str]]:
    """A line a baseline; of several seeds the middle one by mistakes, and the range."""
    lines = []
    for name in dict.fromkeys(row.name for row in rows):
        runs = sorted((row for row in rows if row.name == name), key=lambda row: (row.mistakes, row.seed))
        row, wrong = runs[len(runs) // 2], [one.mistakes for one in runs]
        spread = f" ({min(wrong)} to {max(wrong)}, {len(runs)} seeds)" if len(runs) > 1 else ""
        share, loss = row.accuracy, row.log_loss
        lines.append(
            [
                name,
                WHAT.get(name, "a linear head on its features"),
                f"{row.mistakes}{spread}",
                f"{100 * share.value:.2f} % [{100 * share.low:.1f}, {100 * share.high:.1f}]",
                f"{loss.value:.4f} [{loss.low:.3f}, {loss.high:.3f}]",
                f"{row.seconds:,.1f}",
                f"{row.images_per_second:,.0f}",
                f"{row.parameters:,}",
                f"{row.size_mb:.1f}",
            ]
        )
    return lines


SIZES = ("parameters", "MB")
COLUMNS = ("baseline", "what it is", "mistakes", "accuracy [95 %]", "log loss [95 %]", "seconds", "images/s", *SIZES)


def write(rows: list[Row], data: PreparedDataset, path: Path) -> None:
    """Put the table into a Markdown file, in the place of its earlier one."""
    name = f"baselines {data.dataset}"
    lines = [f"## {data.dataset}: what each step buys, on {rows[0].photographs} test photographs", ""]
    if data.drawn:
        lines += ["These pictures are DRAWN: the figures mean nothing for photographs.", ""]
    lines += ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    lines += ["| " + " | ".join(cells) + " |" for cells in table(rows)]
    lines += ["", f"- machine: {machine()}", "- written by: `pawprint baselines`"]
    files.replace_section(path, name, "\n".join(lines), "# Results\n")

"""All measurements of one model, in one call; evaluate and the gate use the same.

evaluator = Evaluator.of(data.split("test"), root / "data", params)       # the photographs, once for all models
report, scores = evaluator.evaluate(load_serving(folder, params))
report.test.accuracy, report.worst_slice, report.corruptions.worst
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pawprint.config import Params
from pawprint.data import origins
from pawprint.data.dataset import Split
from pawprint.data.splits import split_of
from pawprint.evaluation import latency, metrics, ood, slices
from pawprint.evaluation.corruptions import CorruptionReport, Corruptions
from pawprint.evaluation.latency import Speed
from pawprint.evaluation.metrics import Evaluation, Figure, Scores
from pawprint.evaluation.ood import OODReport
from pawprint.evaluation.slices import Slice
from pawprint.files import Closed
from pawprint.inference import strangers
from pawprint.inference.classifier import Classifier


class Corrected(Closed):
    """What people have corrected on the test side, and the accuracy without that: who corrects a test by looking at a
    model's mistakes makes the model look better than it is."""

    relabelled: int
    dropped: int
    accuracy_before: Figure  # by the labels of the source; of what was dropped each counts as a mistake


class EvaluationReport(Closed):
    """All measurements of one model on the test photographs."""

    model_digest: str
    test: Evaluation
    slices: list[Slice]
    corruptions: CorruptionReport
    ood: OODReport
    speed: Speed
    corrected: Corrected | None = None  # None where nobody has corrected the test side

    @property
    def worst_slice(self) -> Slice | None:
        """The slice with the lowest accuracy."""
        return slices.worst(self.slices)

    def flat(self) -> dict[str, float]:
        """The metrics that MLflow shows, beside those of `Evaluation.flat`."""
        flat = {f"slice/{part.name.replace(': ', '/', 1)}": part.accuracy.value for part in self.slices}
        flat |= {f"corruption/{name}": accuracy for name, accuracy in self.corruptions.under.items()}
        if self.corruptions.worst:
            flat["test_robustness_loss"] = self.corruptions.worst[1].value
        if self.corrected:
            flat["test_accuracy_before_corrections"] = self.corrected.accuracy_before.value
        if self.worst_slice:
            flat["test_worst_slice"] = self.worst_slice.accuracy.value
        if self.ood.accepted:
            flat["strangers_accepted" if self.ood.real else "drawn_shapes_accepted"] = self.ood.accepted.value
        return flat | self.speed.model_dump(exclude={"machine"})


@dataclass(frozen=True)
class Evaluator:
    """The test photographs, their traits and corruptions, and pictures of something else: the same for every model."""

    test: Split
    traits: Mapping[str, Sequence[str]]
    corruptions: Corruptions
    others: NDArray[np.uint8]  # [m, size, size, 3], of something else: strangers, or drawn shapes
    params: Params
    before: Mapping[str, str]  # hash -> label of the source, of each test photograph that people relabelled
    dropped: int  # photographs of the test side that people dropped

    @classmethod
    def of(
        cls,
        test: Split,
        data: Path,
        params: Params,
        drawn: bool = False,
        traits: Mapping[str, Sequence[str]] | None = None,
    ) -> "Evaluator":
        """`data` holds the originals, whose headers give their sizes; of a `drawn` set drawn shapes tell nothing.
        `traits` of the same photographs, where they are prepared otherwise: slices are compared one by one."""
        evaluation, preprocess, folder = params.evaluation, params.preprocess, params.refusal.strangers
        if folder:
            half: strangers.Half = "untouched" if params.refusal.stranger_costs else "all"
            others = strangers.read(Path(folder), preprocess, half)
        else:
            others = ood.clutter(0 if drawn else evaluation.clutter, params.seed, preprocess.size)
        before, dropped = corrections(test, data, params)
        return cls(
            test,
            traits or slices.traits(test, data),
            Corruptions(test, evaluation.corruptions, params.seed),
            others,
            params,
            before,
            dropped,
        )

    def evaluate(self, classifier: Classifier) -> tuple[EvaluationReport, Scores]:
        """All measurements of a model (see `load_serving`), and its predictions photograph by photograph."""
        scores = metrics.score(classifier, self.test)
        evaluation = self.params.evaluation
        report = EvaluationReport(
            model_digest=classifier.info.model_digest,
            test=metrics.measure(scores),
            slices=slices.slices(scores, self.traits, evaluation.min_slice),
            corruptions=self.corruptions.measure(classifier),
            ood=ood.measure(classifier, self.others, real=bool(self.params.refusal.strangers)),
            speed=speed(classifier, self.test),
            corrected=self._corrected(scores),
        )
        return report, scores

    def _corrected(self, scores: Scores) -> Corrected | None:
        if not self.before and not self.dropped:
            return None
        predicted = [scores.classes[index] for index in scores.probabilities.argmax(axis=1)]
        labels = [self.before.get(row.hash, row.label) for row in self.test.rows]
        right = sum(one == other for one, other in zip(predicted, labels, strict=True))
        accuracy = Figure.share(right, len(labels) + self.dropped)
        return Corrected(relabelled=len(self.before), dropped=self.dropped, accuracy_before=accuracy)


def corrections(test: Split, data: Path, params: Params) -> tuple[dict[str, str], int]:
    """(hash -> label of the source, of the test photographs that people relabelled; how many of the test side they
    dropped), from data/origins.csv."""
    now = {row.hash: row.label for row in test.rows}
    own_test, groups = origins.own_test(data), origins.Groups(data, params.split.group)
    labels: dict[str, set[str]] = defaultdict(set)
    gone = {row.hash for row in origins.read_rows(data) if not row.file}
    for row in origins.read_rows(data):
        if row.hash in now:
            labels[row.hash].add(row.label)
        if row.file:
            gone.discard(row.hash)
    relabelled = {name: min(labels[name]) for name, label in now.items() if labels[name] and label not in labels[name]}
    sides = [split_of(name, params.seed, params.split, own_test, groups.of(name)) for name in gone]
    return relabelled, sides.count("test")


def load_serving(folder: Path, params: Params) -> Classifier:
    """The model on the device and in the precision that serve it: what is evaluated is what is served."""
    return Classifier(folder, params.serving.precision, params.serving.device)


def speed(classifier: Classifier, test: Split) -> Speed:
    """How fast a model is on this machine."""
    return latency.measure(classifier, test.images(range(min(metrics.BATCH, len(test)))))

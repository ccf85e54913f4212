"""All measurements of one model, in one call; evaluate and the gate use the same.

evaluator = Evaluator.of(data.split("test"), root / "data", params)       # the photographs, once for all models
report, scores = evaluator.evaluate(load_serving(folder, params))
report.test.accuracy, report.worst_slice, report.corruptions.worst
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from pawprint.config import Params
from pawprint.data.dataset import Split
from pawprint.evaluation import latency, metrics, ood, slices
from pawprint.evaluation.corruptions import CorruptionReport, Corruptions
from pawprint.evaluation.latency import Speed
from pawprint.evaluation.metrics import Evaluation, Scores
from pawprint.evaluation.ood import OODReport
from pawprint.evaluation.slices import Slice
from pawprint.inference.classifier import Classifier


class EvaluationReport(BaseModel):
    """All measurements of one model on the test photographs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_digest: str
    test: Evaluation
    slices: list[Slice]
    corruptions: CorruptionReport
    ood: OODReport
    speed: Speed

    @property
    def worst_slice(self) -> Slice | None:
        """The slice with the lowest accuracy."""
        return slices.worst(self.slices)

    def flat(self) -> dict[str, float]:
        """The metrics that MLflow shows, beside those of `Evaluation.flat`."""
        flat = {f"slice/{part.name.replace(': ', '/', 1)}": part.accuracy.value for part in self.slices}
        flat |= {f"corruption/{name}": accuracy for name, accuracy in self.corruptions.under.items()}
        flat["test_robustness_loss"] = self.corruptions.worst[1].value
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
    others: NDArray[np.uint8]  # [m, 300, 300, 3], of something else: strangers, or drawn shapes
    params: Params

    @classmethod
    def of(cls, test: Split, data: Path, params: Params) -> "Evaluator":
        """`data` holds the originals, whose headers give their sizes."""
        evaluation, preprocess, folder = params.evaluation, params.preprocess, params.refusal.strangers
        if folder:
            others = ood.strangers(Path(folder), preprocess.fit, preprocess.quality)
        else:
            others = ood.clutter(evaluation.clutter, params.seed)
        return cls(
            test,
            slices.traits(test, data),
            Corruptions(test, evaluation.corruptions, params.seed),
            others,
            params,
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
            speed=latency.measure(classifier, self.test.images(range(min(metrics.BATCH, len(self.test))))),
        )
        return report, scores


def load_serving(folder: Path, params: Params) -> Classifier:
    """The model on the device and in the precision that serve it: what is evaluated is what is served."""
    return Classifier(folder, params.serving.precision, params.serving.device)

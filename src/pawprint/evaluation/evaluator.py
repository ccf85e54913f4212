"""Everything that is measured of one model, in one call: evaluate and the gate ask the same questions.

evaluator = Evaluator.of(data, root / "data", params)       # the photographs, once for all models
report, scores = evaluator.examine(Classifier(folder))
report.test.accuracy, report.worst_slice, report.robustness.worst
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
from pawprint.evaluation.corruptions import Corruptions, Robustness
from pawprint.evaluation.latency import Speed
from pawprint.evaluation.metrics import Evaluation, Scores
from pawprint.evaluation.ood import Neither
from pawprint.evaluation.slices import Slice
from pawprint.inference.classifier import Classifier


class EvaluationReport(BaseModel):
    """One model on the test photographs, in every respect."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    test: Evaluation
    slices: list[Slice]
    robustness: Robustness
    neither: Neither
    speed: Speed

    @property
    def worst_slice(self) -> Slice | None:
        """The part of the photographs with the lowest accuracy."""
        return slices.worst(self.slices)

    def flat(self) -> dict[str, float]:
        """Names and numbers as MLflow shows them, beside those of `Evaluation.flat`."""
        flat = {f"slice/{part.name.replace(': ', '/')}": part.accuracy.value for part in self.slices}
        flat |= {f"robustness/{name}": accuracy for name, accuracy in self.robustness.under.items()}
        flat["test_robustness_loss"] = self.robustness.worst[1]
        if self.worst_slice:
            flat["test_worst_slice"] = self.worst_slice.accuracy.value
        flat["test_refused"] = self.neither.refused
        flat["clutter_accepted"] = self.neither.false_accept
        if self.neither.auroc is not None and self.neither.confidence_auroc is not None:
            flat |= {"clutter_auroc": self.neither.auroc, "clutter_confidence_auroc": self.neither.confidence_auroc}
        return flat | self.speed.model_dump(exclude={"machine"})


@dataclass(frozen=True)
class Evaluator:
    """What every model is asked: the test photographs, their traits, their disturbances and clutter."""

    test: Split
    traits: Mapping[str, Sequence[str]]
    disturbed: Corruptions
    strangers: NDArray[np.uint8]  # [m, 300, 300, 3]
    params: Params

    @classmethod
    def of(cls, test: Split, data: Path, params: Params) -> "Evaluator":
        """`data` holds the originals, whose headers tell their sizes."""
        evaluation = params.evaluation
        return cls(
            test,
            slices.traits(test, data),
            Corruptions(test, evaluation.disturbed, params.seed),
            ood.clutter(evaluation.clutter, params.seed),
            params,
        )

    def examine(self, classifier: Classifier) -> tuple[EvaluationReport, Scores]:
        """All figures of a model, and its answers photograph by photograph."""
        scores = metrics.score(classifier, self.test)
        evaluation = self.params.evaluation
        report = EvaluationReport(
            test=metrics.measure(scores, evaluation.bootstrap, self.params.seed),
            slices=slices.slices(scores, self.traits, evaluation.min_slice),
            robustness=self.disturbed.measure(classifier),
            neither=ood.measure(classifier, scores, self.strangers),
            speed=latency.measure(classifier, self.test.images(range(min(metrics.BATCH, len(self.test))))),
        )
        return report, scores

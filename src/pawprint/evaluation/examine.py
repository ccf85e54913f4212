"""Everything that is measured of one model, in one call: evaluate and the gate ask the same questions.

bench = Bench.of(data, root / "data", params)       # the photographs, once for all models
examined, scores = bench.examine(Classifier(folder))
examined.test.accuracy, examined.worst_slice, examined.robustness.worst
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from pawprint.evaluation import metrics, neither, slices, speed
from pawprint.evaluation.metrics import Evaluation, Scores
from pawprint.evaluation.neither import Neither
from pawprint.evaluation.robustness import Disturbed, Robustness
from pawprint.evaluation.slices import Slice
from pawprint.evaluation.speed import Speed
from pawprint.params import Params
from pawprint.prepared.read import Side
from pawprint.runtime import Classifier


class Examined(BaseModel):
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
class Bench:
    """What every model is asked: the test photographs, their traits, their disturbances and clutter."""

    test: Side
    traits: Mapping[str, Sequence[str]]
    disturbed: Disturbed
    strangers: NDArray[np.uint8]  # [m, 300, 300, 3]
    params: Params

    @classmethod
    def of(cls, test: Side, data: Path, params: Params) -> "Bench":
        """`data` holds the originals, whose headers tell their sizes."""
        evaluation = params.evaluation
        return cls(
            test,
            slices.traits(test, data),
            Disturbed(test, evaluation.disturbed, params.seed),
            neither.clutter(evaluation.clutter, params.seed),
            params,
        )

    def examine(self, classifier: Classifier) -> tuple[Examined, Scores]:
        """All figures of a model, and its answers photograph by photograph."""
        scores = metrics.score(classifier, self.test)
        evaluation = self.params.evaluation
        examined = Examined(
            test=metrics.measure(scores, evaluation.bootstrap, self.params.seed),
            slices=slices.slices(scores, self.traits, evaluation.min_slice),
            robustness=self.disturbed.measure(classifier),
            neither=neither.measure(classifier, scores, self.strangers),
            speed=speed.measure(classifier, self.test.images(range(min(metrics.BATCH, len(self.test))))),
        )
        return examined, scores

"""A model folder -> answers: ONNX on OpenVINO, no torch, no server.

    classifier = Classifier(Path("models/efficientnet_lite0"))
    answer = classifier.answer(Path("cat.jpg").read_bytes())
    answer.label, answer.probabilities

Evaluation, `pawprint predict` and the service all take this road, so that what was evaluated is what is served.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from pawprint import image
from pawprint.errors import PawprintError
from pawprint.lineage import Lineage, sha256


class ModelInfo(BaseModel):
    """model.json: what a model folder says of itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    candidate: str  # the name in params.yaml
    architecture: str
    parameters: int  # trained and frozen together
    classes: tuple[str, ...]  # sorted; the order of `probabilities`
    fit: image.Fit  # preprocess.fit at training; serving follows it
    quality: int  # preprocess.quality, likewise
    temperature: float  # fitted on the validation side, already inside the graph
    typicality_threshold: float  # below it a picture is like no training photograph
    model_digest: str  # SHA-256 of model.onnx
    weights_digest: str  # SHA-256 of model.safetensors
    lineage: Lineage


@dataclass(frozen=True)
class Predictions:
    """What the model says of N pictures."""

    probabilities: NDArray[np.float32]  # [N, classes], rows sum to one
    embedding: NDArray[np.float32]  # [N, d]
    typicality: NDArray[np.float32]  # [N], cosine similarity to the nearest training photographs, 1 is alike
    activation: NDArray[np.float32]  # [N, classes or 1, h, w]

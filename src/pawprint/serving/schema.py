"""Requests and responses of the API as types: the one definition for code, client, tests and OpenAPI."""

from pathlib import Path
from typing import Self

from pydantic import Field

from pawprint.errors import PawprintError
from pawprint.files import Closed
from pawprint.inference.classifier import Classification, Refusal
from pawprint.lineage import Lineage


class ModelName(Closed):
    """The model of a prediction, and where it comes from."""

    name: str = Field(description="registered model, e.g. pawprint-dogs-cats; empty where it was never registered")
    version: str = Field(description="its registered version")
    digest: str = Field(description="SHA-256 of the ONNX file")
    bento: str = Field(description="the Bento's tag; empty when served from a checkout")
    dataset: str
    data_hash: str = Field(description="DVC's hash of the photographs")
    git_commit: str
    run_id: str = Field(description="the MLflow run that trained it")


class Milliseconds(Closed):
    """Where the time went."""

    decode: float
    wait: float = Field(description="until a core came free")
    inference: float


class Prediction(Closed):
    """The prediction for one picture."""

    id: str = Field(description="of this prediction, for /feedback")
    label: str = Field(description="a class, or `unknown` for a photograph that is refused")
    refusal: Refusal = Field(
        default="",
        description="why `unknown`: `unlike` the training photographs, or `unsure` which class; empty otherwise",
    )
    reason: str = Field(description="the same as a sentence; empty where the label is a class")
    probabilities: dict[str, float] = Field(description="by class; they sum to one")
    typicality: float = Field(description="likeness to the nearest training photographs, 1 is just like them")
    model: ModelName
    milliseconds: Milliseconds

    @classmethod
    def of(cls, id: str, found: Classification, model: ModelName, milliseconds: Milliseconds) -> Self:
        return cls(
            id=id, label=found.label, refusal=found.refusal, reason=found.reason, probabilities=found.probabilities,
            typicality=found.knn_similarity, model=model, milliseconds=milliseconds,
        )  # fmt: skip

    def classification(self) -> Classification:
        return Classification(self.label, self.refusal, self.reason, self.probabilities, self.typicality)


class Explanation(Closed):
    """A prediction and its class activation map."""

    prediction: Prediction
    overlay: str = Field(description="a PNG of what the model sees under its class activation map, as a data URL")


class Problem(Closed):
    """Why there is no prediction."""

    reason: str = Field(description="a short code: not_an_image, body_too_large, overloaded, ...")
    error: str = Field(description="a sentence for a person")


class BatchItem(Closed):
    """One picture of a batch: its prediction, or its own problem."""

    filename: str
    prediction: Prediction | None = None
    problem: Problem | None = None


class Batch(Closed):
    """The predictions of a batch, in the order of its pictures."""

    answers: list[BatchItem]


class Feedback(Closed):
    """The label that a prediction should have had."""

    id: str = Field(description="of the prediction", min_length=1, max_length=64)
    label: str = Field(description="a class, or `unknown`; empty takes the feedback back", max_length=200)


class FeedbackReceipt(Closed):
    """The feedback is on disk."""

    id: str
    label: str


class ModelCard(Closed):
    """The served model: its classes and where it comes from."""

    model: ModelName
    candidate: str
    architecture: str
    parameters: int
    classes: list[str]
    fit: str = Field(description="how a photograph becomes a square")
    temperature: float
    typicality_threshold: float
    device: str = Field(description="cpu or cuda")
    precision: str = Field(description="of the arithmetic that is executed: bf16 or f32")
    lineage: Lineage
    metrics: dict[str, float] = Field(description="on the test photographs, as registered")


class Interval(Closed):
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float


ABOUT = "about.json"  # in a model folder that was packaged


class Example(Closed):
    """A picture to try."""

    label: str = Field(description="its class")
    picture: str = Field(description="a JPEG as a data URL")
    sha256: str = Field(default="", description="of the photograph's own bytes")


class About(Closed):
    """about.json of a packaged model: what people who meet it on the page want to know. Empty where it is missing."""

    drawn: bool = Field(default=False, description="was it made from drawings?")
    photographs: int = Field(default=0, description="test photographs that it was evaluated on")
    accuracy: Interval | None = None
    confusion: list[list[int]] = Field(default=[], description="test photographs by class (rows) and prediction")
    card: str = Field(default="", description="the model card, in Markdown")
    examples: list[Example] = Field(default=[], description="test photographs that it has not learned from")

    @classmethod
    def read(cls, folder: Path) -> Self:
        """about.json of a model folder; PawprintError where it is damaged."""
        path = folder / ABOUT
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return cls()
        except ValueError:
            raise PawprintError(f"{path} is damaged. Package the model again: `dvc repro --force package`.") from None

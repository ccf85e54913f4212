"""What the service takes and says, as JSON: the one description that code, tests and OpenAPI read."""

from pydantic import BaseModel, ConfigDict, Field

from pawprint.lineage import Lineage


class _Said(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelName(_Said):
    """The print on every answer: which model, and where it comes from."""

    name: str = Field(description="registered model, e.g. pawprint-dogs-cats; empty where it was never registered")
    version: str = Field(description="its registered version")
    digest: str = Field(description="SHA-256 of the ONNX file")
    bento: str = Field(description="the Bento's tag; empty when served from a checkout")
    dataset: str
    data_hash: str = Field(description="DVC's hash of the photographs")
    git_commit: str
    run_id: str = Field(description="the MLflow run that trained it")


class Milliseconds(_Said):
    """Where the time went."""

    decode: float
    wait: float = Field(description="until a core came free")
    inference: float


class Prediction(_Said):
    """The answer to one picture."""

    id: str = Field(description="names this answer in /feedback")
    label: str = Field(description="a class, or `neither` for a picture like none of the training photographs")
    reason: str = Field(description="why `neither`; empty otherwise")
    probabilities: dict[str, float] = Field(description="by class; they sum to one")
    typicality: float = Field(description="likeness to the nearest training photographs, 1 is just like them")
    model: ModelName
    milliseconds: Milliseconds


class Explanation(_Said):
    """An answer and where the model looked."""

    prediction: Prediction
    overlay: str = Field(description="a PNG of the picture, 300x300, under the class activation, as a data URL")


class Problem(_Said):
    """Why there is no answer."""

    reason: str = Field(description="a short code: not_an_image, body_too_large, overloaded, ...")
    error: str = Field(description="a sentence for a person")


class BatchItem(_Said):
    """One picture of a batch: its answer, or its own problem."""

    filename: str
    prediction: Prediction | None = None
    problem: Problem | None = None


class Batch(_Said):
    """The answers of a batch, in the order of its pictures."""

    answers: list[BatchItem]


class Feedback(_Said):
    """What a person says the label of an answer should have been."""

    id: str = Field(description="of the answer", min_length=1, max_length=64)
    label: str = Field(description="a class, or `neither`", min_length=1, max_length=200)


class Thanks(_Said):
    """The feedback is on disk."""

    id: str
    label: str


class ModelCard(_Said):
    """What is served: its print, what it can say and where it comes from."""

    model: ModelName
    candidate: str
    architecture: str
    parameters: int
    classes: list[str]
    fit: str = Field(description="how a picture becomes 300x300")
    temperature: float
    typicality_threshold: float
    device: str = Field(description="cpu or cuda")
    precision: str = Field(description="what the arithmetic runs in: bf16 or f32")
    lineage: Lineage
    metrics: dict[str, float] = Field(description="on the test photographs, as registered")

"""What the service says, as JSON: the one description that the code, the tests and OpenAPI read."""

from pydantic import BaseModel, ConfigDict


class _Said(BaseModel):
    model_config = ConfigDict(frozen=True)


class ModelName(_Said):
    """The print on every answer: which model, and where it comes from."""

    name: str  # registered model, e.g. pawprint-dogs-cats; "" where it was never registered
    version: str
    digest: str  # SHA-256 of model.onnx
    bento: str  # tag, or "" when served from a checkout
    dataset: str
    data_hash: str
    git_commit: str
    run_id: str


class Milliseconds(_Said):
    """Where the time went."""

    decode: float
    wait: float  # for the model to come free
    inference: float  # of the batch that the picture went in


class Prediction(_Said):
    """The answer to one picture."""

    id: str
    label: str  # a class, or "neither"
    reason: str  # why "neither"; "" otherwise
    probabilities: dict[str, float]  # by class
    typicality: float  # 1 is just like a training photograph
    model: ModelName
    milliseconds: Milliseconds


class Problem(_Said):
    """Why there is no answer."""

    reason: str  # a short code: not_an_image, too_large, overloaded, ...
    error: str  # a sentence for a person

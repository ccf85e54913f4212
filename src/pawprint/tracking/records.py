"""The two files that let a run be entered again where MLflow has lost it: run.json and evaluated.json."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from pawprint.errors import PawprintError

EVALUATED = "evaluated.json"  # beside a candidate's predictions, under reports/evaluation/<candidate>/


class RunRecord(BaseModel):
    """run.json: which MLflow run a model folder came from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_id: str
    run_name: str
    experiment: str
    model_uri: str  # MLflow's own address of the logged ONNX model
    seconds: float  # of the whole training
    params: dict[str, str] = {}  # what follows enters the run again where MLflow has lost it
    curves: dict[str, list[tuple[int, float]]] = {}  # metric -> (epoch, value)

    @classmethod
    def read(cls, path: Path) -> "RunRecord":
        """The record in `path`; PawprintError where it is missing or torn."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValueError):
            raise PawprintError(
                f"{path} is missing or damaged. Run `dvc repro` to train that candidate again."
            ) from None


class Evaluated(BaseModel):
    """evaluated.json: what evaluation had to say of a model on its run's page."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_digest: str
    name: str  # of the run
    description: str  # Markdown
    drawn: bool
    metrics: dict[str, float]

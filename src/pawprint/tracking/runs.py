"""One training is one MLflow run; evaluation reopens it.

with start(root, dataset="sample", candidate="mlp", params=params, lineage=lineage) as run:
    run.metrics({"train_loss": 0.3}, step=1)
    run.model(folder)
with reopen(root, RunRecord.read(folder / "run.json"), folder) as run:
    run.metrics({"test_accuracy": 0.99})
"""

import contextlib
import json
import platform
import sys
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import onnx
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunStatus, RunTag
from mlflow.exceptions import MlflowException
from mlflow.models.signature import ModelSignature
from mlflow.types import Schema, TensorSpec
from pydantic import BaseModel, ConfigDict

from pawprint.errors import PawprintError
from pawprint.lineage import Lineage
from pawprint.params import Params, flatten
from pawprint.runtime import ModelInfo
from pawprint.tracking import server

FOLDER = "folder"  # the model folder's artifact path in its run
_PACKAGES = ("torch", "numpy", "onnx", "openvino", "opencv-python-headless", "simplejpeg", "mlflow", "scikit-learn")
_SERVING = ("mlflow", "onnx", "onnxruntime", "numpy")  # what loading the logged ONNX model takes


class RunRecord(BaseModel):
    """run.json: which MLflow run a model folder came from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_id: str
    run_name: str
    experiment: str
    model_uri: str  # MLflow's own address of the logged ONNX model
    seconds: float  # of the whole training

    @classmethod
    def read(cls, path: Path) -> "RunRecord":
        """The record in `path`; PawprintError where it is missing or torn."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValueError):
            raise PawprintError(
                f"{path} is missing or damaged. Run `dvc repro` to train that candidate again."
            ) from None


class Run:
    """An MLflow run that is written to. It is the logger that training/ is handed."""

    def __init__(self, run_id: str) -> None:
        self.id = run_id
        self.model_uri = ""
        self._client = mlflow.MlflowClient()
        self._began = time.monotonic()

    @property
    def name(self) -> str:
        """The run's name, as the MLflow UI shows it."""
        return str(self._client.get_run(self.id).info.run_name)

    @property
    def seconds(self) -> float:
        """Since this process opened the run."""
        return time.monotonic() - self._began

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Log numbers, at an epoch or for the whole run."""
        now = int(time.time() * 1000)
        self._client.log_batch(self.id, metrics=[Metric(k, float(v), now, step or 0) for k, v in values.items()])

    def params(self, values: Mapping[str, Any]) -> None:
        """Log what the run was given."""
        entries = [Param(name, str(value)) for name, value in values.items()]
        for start in range(0, len(entries), 100):  # the server's limit for one call
            self._client.log_batch(self.id, params=entries[start : start + 100])

    def tags(self, values: Mapping[str, Any]) -> None:
        """Label the run."""
        self._client.log_batch(self.id, tags=[RunTag(name, str(value)) for name, value in values.items()])

    def artifact(self, path: Path, folder: str = "") -> None:
        """Keep a file, or all files of a folder, with the run."""
        if path.is_dir():
            self._client.log_artifacts(self.id, str(path), folder or None)
        else:
            self._client.log_artifact(self.id, str(path), folder or None)

    def rename(self, name: str) -> None:
        """Give the run another name."""
        self._client.update_run(self.id, name=name)

    def dataset(self, name: str, data: Path, digest: str) -> None:
        """Log the photographs as an MLflow dataset: their name and DVC's hash of them."""
        entry = Dataset(name, digest, source_type="local", source=json.dumps({"uri": str(data)}))
        self._client.log_inputs(self.id, [DatasetInput(entry, [InputTag("mlflow.data.context", "training")])])

    def model(self, folder: Path) -> None:
        """Log the model folder as it is, and its ONNX model as an MLflow model with signature and example."""
        info = ModelInfo.read(folder)
        graph = onnx.load(folder / "model.onnx")
        example = np.random.default_rng(0).integers(0, 256, (2, 300, 300, 3), np.uint8)
        outputs = []
        for output in graph.graph.output:
            dims = [d.dim_value if d.HasField("dim_value") else -1 for d in output.type.tensor_type.shape.dim]
            outputs.append(TensorSpec(np.dtype(np.float32), (-1, *dims[1:]), output.name))
        signature = ModelSignature(
            inputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, 300, 300, 3), graph.graph.input[0].name)]),
            outputs=Schema(outputs),
        )
        self.artifact(folder, FOLDER)
        with _active(self.id):
            logged = mlflow.onnx.log_model(
                graph,
                name=info.candidate,
                signature=signature,
                input_example=example,
                pip_requirements=[f"{package}=={version(package)}" for package in _SERVING],
                onnx_execution_providers=["CPUExecutionProvider"],
                save_as_external_data=False,
                metadata={"classes": list(info.classes), "model_digest": info.model_digest},
                tags={"model_digest": info.model_digest},
            )
        self.model_uri = logged.model_uri
        self.tags({"model_digest": info.model_digest, "model_uri": logged.model_uri})

    def record(self) -> RunRecord:
        """What run.json holds of this run."""
        run = self._client.get_run(self.id)
        experiment = self._client.get_experiment(run.info.experiment_id).name
        return RunRecord(
            run_id=self.id,
            run_name=str(run.info.run_name),
            experiment=experiment,
            model_uri=self.model_uri or run.data.tags.get("model_uri", ""),
            seconds=round(self.seconds, 1),
        )


@contextlib.contextmanager
def start(
    root: Path, candidate_name: str, params: Params, lineage: Lineage, run_name: str, photographs: Mapping[str, int]
) -> Iterator[Run]:
    """A new run with everything it was given; finished at the end, failed when the body raises."""
    server.connect(root)
    client = mlflow.MlflowClient()
    run_id = client.create_run(_experiment(root, lineage.dataset), run_name=run_name).info.run_id
    run = Run(run_id)
    with _ending(client, run_id):
        run.params(candidate_params(params, candidate_name))
        run.params({f"photographs.{side}": count for side, count in photographs.items()})
        run.tags(_tags(candidate_name, lineage))
        run.dataset(lineage.dataset, root / "data", lineage.data_hash)
        run.artifact(root / "params.yaml")
        run.artifact(root / "requirements.lock", "environment")
        yield run


@contextlib.contextmanager
def reopen(root: Path, record: RunRecord, folder: Path) -> Iterator[Run]:
    """The run that a model folder came from, to add to it.

    Where these runs do not hold it (another tracking server, a new mlflow.db, a model that DVC brought from its
    cache) it is entered again from the folder, tagged `restored_from` with the run that trained it.
    """
    server.connect(root)
    client = mlflow.MlflowClient()
    run_id = _find(client, record)
    if run_id:
        yield Run(run_id)
        return
    info = ModelInfo.read(folder)
    run_id = client.create_run(_experiment(root, info.lineage.dataset), run_name=record.run_name).info.run_id
    run = Run(run_id)
    with _ending(client, run_id):
        run.tags(_tags(info.candidate, info.lineage) | {"restored_from": record.run_id})
        run.dataset(info.lineage.dataset, root / "data", info.lineage.data_hash)
        run.model(folder)
        yield run


def candidate_params(params: Params, name: str) -> dict[str, Any]:
    """What one candidate was given, by the names of params.yaml; its own entry without `candidates.<name>.`,
    so that the same parameter of two candidates stands on one line of a comparison."""
    shared = {k: v for k, v in flatten(params).items() if not k.startswith(("candidates.", "gate.", "serving."))}
    return flatten(params.candidate(name)) | shared


def _find(client: mlflow.MlflowClient, record: RunRecord) -> str | None:
    try:
        run = client.get_run(record.run_id)
        return str(run.info.run_id) if run.info.lifecycle_stage == "active" else None
    except MlflowException:
        pass
    experiment = client.get_experiment_by_name(record.experiment)
    if experiment is None:
        return None
    found = client.search_runs([experiment.experiment_id], f"tags.restored_from = '{record.run_id}'", max_results=1)
    return str(found[0].info.run_id) if found else None


def _experiment(root: Path, dataset: str) -> str:
    """The experiment of a data set, made where it is not there: one data set, one table to compare in."""
    client = mlflow.MlflowClient()
    found = client.get_experiment_by_name(dataset)
    if found is None:
        try:
            return str(client.create_experiment(dataset, artifact_location=_location(root, dataset)))
        except MlflowException:  # another stage made it in this very moment
            found = client.get_experiment_by_name(dataset)
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def _location(root: Path, dataset: str) -> str | None:
    base = server.artifact_root(root)
    return f"{base}/{dataset}" if base else None


def _tags(candidate: str, lineage: Lineage) -> dict[str, Any]:
    return lineage.model_dump(exclude={"run_id"}) | {
        "candidate": candidate,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": " ".join(f"{package}=={version(package)}" for package in _PACKAGES),
        "mlflow.source.name": " ".join([Path(sys.executable).name, *sys.argv[:1]]) if sys.argv[0] else "python",
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": lineage.git_commit,
    }


@contextlib.contextmanager
def _ending(client: mlflow.MlflowClient, run_id: str) -> Iterator[None]:
    try:
        yield
    except BaseException:
        client.set_terminated(run_id, RunStatus.to_string(RunStatus.FAILED))
        raise
    client.set_terminated(run_id, RunStatus.to_string(RunStatus.FINISHED))


@contextlib.contextmanager
def _active(run_id: str) -> Iterator[None]:
    """MLflow's log_model knows only "the active run"; this makes ours that one, without ending it."""
    status = mlflow.MlflowClient().get_run(run_id).info.status
    mlflow.start_run(run_id)
    try:
        yield
    finally:
        mlflow.end_run(status)

"""One MLflow run, written to; and the two files from which a run is restored: run.json and evaluated.json."""

import contextlib
import hashlib
import json
import logging
import posixpath
import re
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import onnx
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelStatus, Metric, Param, RunStatus, RunTag
from mlflow.models.signature import ModelSignature
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.types import Schema, TensorSpec
from pydantic import BaseModel, ConfigDict

from pawprint.errors import PawprintError
from pawprint.files import Closed
from pawprint.inference.classifier import ModelInfo

FOLDER = "folder"  # artifact path of the model folder
MANIFESTS = "manifests"  # beside an experiment's runs: <digest>/manifest.parquet, once for all that learned from it
MANIFEST_TAG = "lineage.manifest_digest"  # tag: the digest of the manifest that the run learned from
EVALUATED = "evaluated.json"  # beside a model's predictions, under reports/evaluation/<name>/
NOTE = "mlflow.note.content"  # Markdown that the UI shows as a description
FINISHED = RunStatus.to_string(RunStatus.FINISHED)
RESTORED = "restored_from"  # tag: the id of the run that this one stands for
_METRICS, _PARAMS = 1000, 100  # entries that a server takes in one call
_KEY_LENGTH = 250  # characters of a metric's name
_PARAM_LENGTH, _TAG_LENGTH = 6000, 8000  # characters of a value
_SERVING = ("mlflow", "onnx", "onnxruntime", "numpy")  # what loading the logged ONNX model takes


# It warns of each model that is logged from an environment without pip, as uv makes them.
logging.getLogger("mlflow.utils.environment").setLevel(logging.ERROR)


def ending(error: BaseException) -> str:
    """The status of a run that `error` ends, as MLflow names it."""
    return "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"


def shortened(text: str, length: int) -> str:
    """`text` with at most `length` characters; the end says so where some were cut off."""
    end = " ... (shortened)"
    return text if len(text) <= length else text[: length - len(end)] + end


def experiment_store(client: mlflow.MlflowClient, run_id: str) -> ArtifactRepository:
    """The artifacts of a run's experiment, below which those of its runs lie too."""
    experiment = client.get_experiment(client.get_run(run_id).info.experiment_id)
    return get_artifact_repository(experiment.artifact_location)


class Call(BaseModel):
    """A call of a method of Run, as a journal and run.json keep it; `begin` stands for the creation of the run."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    method: str
    arguments: dict[str, Any]

    def make(self, run: "Run") -> None:
        if self.method != "begin":
            path = {"path": Path(self.arguments["path"])} if "path" in self.arguments else {}
            getattr(run, self.method)(**self.arguments | path)


class RunRecord(BaseModel):
    """run.json of a model folder: its MLflow run, with all calls that it takes to restore it; the first is `begin`."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    run_id: str
    seconds: float  # of the whole training
    calls: tuple[Call, ...]

    @classmethod
    def read(cls, folder: Path) -> "RunRecord":
        """run.json of a model folder; PawprintError where it is missing or damaged."""
        path = folder / "run.json"
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValueError):
            raise PawprintError(
                f"{path} is missing or damaged. Run `dvc repro` to train the candidate again."
            ) from None

    @property
    def run_name(self) -> str:
        """The name of the run when it began."""
        return str(self.calls[0].arguments["run_name"])

    @property
    def params(self) -> dict[str, str]:
        given = (call.arguments["values"] for call in self.calls if call.method == "params")
        return {name: value for values in given for name, value in values.items()}

    def curve(self, metric: str) -> list[tuple[int, float]]:
        """(epoch, value) of a metric, in the order of the epochs."""
        logged = (call.arguments for call in self.calls if call.method == "metrics")
        return [(call["step"], call["values"][metric]) for call in logged if metric in call["values"]]


class Evaluated(Closed):
    """evaluated.json: what evaluation logs to a model's run."""

    model_digest: str
    name: str  # of the run
    description: str  # Markdown
    drawn: bool
    metrics: dict[str, float]


def metric_key(name: str) -> str:
    """A metric's name as MLflow takes it, which refuses most punctuation, and 250 characters and more.

    A class may have any name: where one is changed, a part of its digest keeps it apart from all others.
    """
    key = re.sub(r"[^/\w.\- ]", "_", name)
    if key == name and len(key) <= _KEY_LENGTH and posixpath.normpath(key) == key:
        return key
    key = "/".join(part.strip(".") or "_" for part in key.split("/"))
    return f"{key[: _KEY_LENGTH - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


class Run:
    """An MLflow run. Each method changes nothing when it is called again with the same arguments."""

    def __init__(self, client: mlflow.MlflowClient, run_id: str) -> None:
        self.client, self.id = client, run_id

    def metrics(
        self,
        values: Mapping[str, float],
        step: int | None = None,
        at: float | None = None,
        dataset: tuple[str, str] = ("", ""),
    ) -> None:
        """Log numbers, of an epoch or of the whole run, at a time in seconds since 1970 (default: now).

        With `dataset` (name, digest) they are also figures of the run's logged model on it.
        """
        about: dict[str, Any] = {}
        if dataset[0] and (model_id := self.model_uri.removeprefix("models:/")).startswith("m-"):
            about = {"model_id": model_id, "dataset_name": dataset[0], "dataset_digest": dataset[1], "run_id": self.id}
        when = int((at or time.time()) * 1000)
        entries = [Metric(metric_key(name), float(value), when, step or 0, **about) for name, value in values.items()]
        for start in range(0, len(entries), _METRICS):
            self.client.log_batch(self.id, metrics=entries[start : start + _METRICS])

    def params(self, values: Mapping[str, Any]) -> None:
        entries = [Param(name, shortened(str(value), _PARAM_LENGTH)) for name, value in values.items()]
        for start in range(0, len(entries), _PARAMS):
            self.client.log_batch(self.id, params=entries[start : start + _PARAMS])

    def tags(self, values: Mapping[str, Any]) -> None:
        entries = [RunTag(name, shortened(str(value), _TAG_LENGTH)) for name, value in values.items()]
        for start in range(0, len(entries), _PARAMS):
            self.client.log_batch(self.id, tags=entries[start : start + _PARAMS])

    def artifact(self, path: Path, folder: str = "") -> None:
        """Keep a file, or all files of a folder, with the run."""
        log = self.client.log_artifacts if path.is_dir() else self.client.log_artifact
        log(self.id, str(path), folder or None)

    def manifest(self, path: Path, digest: str) -> None:
        """Keep the manifest of this digest with the run's experiment, where it is not kept yet.

        Not with the run, because all runs on the same photographs need it, and any of them may be deleted.
        """
        store, folder, size = experiment_store(self.client, self.id), f"{MANIFESTS}/{digest}", path.stat().st_size
        if not any(one.file_size == size for one in store.list_artifacts(folder)):  # what was cut off is shorter
            store.log_artifact(str(path), folder)

    def text(self, content: str, path: str) -> None:
        self.client.log_text(self.id, content, path)

    def status(self, status: str) -> None:
        """RUNNING, FINISHED, FAILED or KILLED, as MLflow names them."""
        if status == "RUNNING":
            self.client.update_run(self.id, status=status)
        else:
            self.client.set_terminated(self.id, status)

    def rename(self, name: str) -> None:
        self.client.update_run(self.id, name=name)

    def describe(self, markdown: str) -> None:
        """Set the run's description; one that is too long for MLflow is whole as the artifact description.md."""
        self.tags({NOTE: markdown})
        if len(markdown) > _TAG_LENGTH:
            self.text(markdown, "description.md")

    def dataset(self, name: str, data: str, digest: str) -> None:
        """Log the photographs as an MLflow dataset: their name and DVC's hash of them."""
        entry = Dataset(name, digest, source_type="local", source=json.dumps({"uri": data}))
        self.client.log_inputs(self.id, [DatasetInput(entry, [InputTag("mlflow.data.context", "training")])])

    @property
    def model_uri(self) -> str:
        """MLflow's address of the run's logged ONNX model; "" where there is none."""
        return str(self.client.get_run(self.id).data.tags.get("model_uri", ""))

    def model(self, path: Path) -> None:
        """Log the model folder as it is, and its ONNX model as an MLflow model with signature.

        Without an input example: MLflow writes its 270,000 numbers as text, reads them back and asks the model twice,
        which takes longer than a training of the sample's head.
        """
        info = ModelInfo.read(path)
        self.artifact(path, FOLDER)
        uri = self._logged_model(info.model_digest) or self._log_onnx(path, info)
        self.tags({"model_digest": info.model_digest, "model_uri": uri})

    def _log_onnx(self, folder: Path, info: ModelInfo) -> str:
        graph = onnx.load(folder / "model.onnx")
        outputs = []
        for output in graph.graph.output:
            dims = [d.dim_value if d.HasField("dim_value") else -1 for d in output.type.tensor_type.shape.dim]
            outputs.append(TensorSpec(np.dtype(np.float32), (-1, *dims[1:]), output.name))
        inputs = [TensorSpec(np.dtype(np.uint8), (-1, info.size, info.size, 3), graph.graph.input[0].name)]
        with self._active():
            logged = mlflow.onnx.log_model(
                graph,
                name=info.candidate,
                signature=ModelSignature(inputs=Schema(inputs), outputs=Schema(outputs)),
                pip_requirements=[f"{package}=={version(package)}" for package in _SERVING],
                onnx_execution_providers=["CPUExecutionProvider"],
                save_as_external_data=False,
                metadata={"classes": list(info.classes), "model_digest": info.model_digest},
                tags={"model_digest": info.model_digest},
            )
        return str(logged.model_uri)

    def _logged_model(self, digest: str) -> str:
        """The address of this model where an earlier call has logged it completely; "" elsewhere."""
        experiment = self.client.get_run(self.id).info.experiment_id
        for model in self.client.search_logged_models([experiment], f"source_run_id = '{self.id}'"):
            if model.tags.get("model_digest") == digest and model.status == LoggedModelStatus.READY:
                return str(model.model_uri)
        return ""

    @contextlib.contextmanager
    def _active(self) -> Iterator[None]:
        """Make this the active run, the only one that MLflow's log_model knows, without ending it."""
        status = self.client.get_run(self.id).info.status
        mlflow.start_run(self.id)
        try:
            yield
        finally:
            mlflow.end_run(status)

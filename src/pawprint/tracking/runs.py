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

from pawprint.lineage import Lineage, is_manifest
from pawprint.params import Params, flatten
from pawprint.runtime import ModelInfo
from pawprint.tracking import experiment, server
from pawprint.tracking.records import EVALUATED, Evaluated
from pawprint.tracking.records import RunRecord as RunRecord
from pawprint.versioning import main_workspace

FOLDER = "folder"  # the model folder's artifact path in its run
MANIFEST = "data/manifest.csv"  # which photographs, and on which side: what proves what the model learned from
_PACKAGES = ("torch", "numpy", "onnx", "openvino", "opencv-python-headless", "simplejpeg", "mlflow", "scikit-learn")
_SERVING = ("mlflow", "onnx", "onnxruntime", "numpy")  # what loading the logged ONNX model takes


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

    def metrics(
        self, values: Mapping[str, float], step: int | None = None, dataset: tuple[str, str] = ("", "")
    ) -> None:
        """Log numbers, at an epoch or for the whole run.

        With `dataset` (name, digest) they are also what the run's logged model reached on it.
        """
        now = int(time.time() * 1000)
        about: dict[str, Any] = {}
        if dataset[0] and (model_id := self._model_id()):
            about = {"model_id": model_id, "dataset_name": dataset[0], "dataset_digest": dataset[1], "run_id": self.id}
        entries = [Metric(name, float(value), now, step or 0, **about) for name, value in values.items()]
        self._client.log_batch(self.id, metrics=entries)

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

    def text(self, content: str, path: str) -> None:
        """Keep a text as the artifact `path`."""
        self._client.log_text(self.id, content, path)

    def rename(self, name: str) -> None:
        """Give the run another name."""
        self._client.update_run(self.id, name=name)

    def describe(self, markdown: str) -> None:
        """What the run's page says of it."""
        self.tags({experiment.NOTE: markdown})

    def curves(self, *names: str) -> dict[str, list[tuple[int, float]]]:
        """(step, value) of every logged point of the metrics `names`."""
        found = {name: self._client.get_metric_history(self.id, name) for name in names}
        return {name: [(point.step, point.value) for point in points] for name, points in found.items()}

    def _model_id(self) -> str:
        uri = self.model_uri or self._client.get_run(self.id).data.tags.get("model_uri", "")
        return uri.removeprefix("models:/") if uri.startswith("models:/m-") else ""

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
        home = self._client.get_experiment(run.info.experiment_id).name
        return RunRecord(
            run_id=self.id,
            run_name=str(run.info.run_name),
            experiment=home,
            model_uri=self.model_uri or run.data.tags.get("model_uri", ""),
            seconds=round(self.seconds, 1),
            params=run.data.params,
            curves=self.curves(*sorted(run.data.metrics)),
        )


@contextlib.contextmanager
def start(
    root: Path,
    candidate_name: str,
    params: Params,
    lineage: Lineage,
    run_name: str,
    photographs: Mapping[str, int],
    resume: str = "",
) -> Iterator[Run]:
    """A run with everything it was given; finished at the end, failed when the body raises.

    With `resume`, the id of a run that was killed, that one goes on; a new one where it is no longer there.
    """
    server.connect(root)
    client = mlflow.MlflowClient()
    run_id = _active_id(client, resume) if resume else None
    if run_id:
        client.update_run(run_id, status=RunStatus.to_string(RunStatus.RUNNING))
    else:
        run_id = client.create_run(experiment.of(root, lineage.dataset), run_name=run_name).info.run_id
    run = Run(run_id)
    with _ending(client, run_id):
        run.params(candidate_params(params, candidate_name))
        run.params({f"photographs.{side}": count for side, count in photographs.items()})
        run.tags(_tags(candidate_name, lineage))
        if parent := experiment.pipeline(root, lineage.dataset):
            run.tags({experiment.PARENT: parent})
        run.tags({name: getattr(params.candidate(candidate_name), name) for name in ("architecture", "train")})
        run.dataset(lineage.dataset, root / "data", lineage.data_hash)
        _keep_manifest(run, root, lineage)
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
    run_id = client.create_run(experiment.of(root, info.lineage.dataset), run_name=record.run_name).info.run_id
    run = Run(run_id)
    with _ending(client, run_id):
        run.tags(_tags(info.candidate, info.lineage) | {"restored_from": record.run_id})
        run.dataset(info.lineage.dataset, root / "data", info.lineage.data_hash)
        _keep_manifest(run, root, info.lineage)
        run.params(record.params)
        run.metrics({"seconds": record.seconds})
        for name, points in record.curves.items():
            for step, value in points:
                run.metrics({name: value}, step=step)
        run.model(folder)
        enter_evaluation(root, run, info)
        yield run


def entered(root: Path, folder: Path) -> str:
    """The id of the run of a model folder; entered again where these runs do not hold it."""
    with reopen(root, RunRecord.read(folder / "run.json"), folder) as run:
        return run.id


def enter_evaluation(root: Path, run: Run, info: ModelInfo) -> None:
    """What the stage `evaluate` left of this very model: figures, predictions, pictures, name and description."""
    reports = root / "reports"
    try:
        told = Evaluated.model_validate_json((reports / "evaluation" / info.candidate / EVALUATED).read_bytes())
    except (OSError, ValueError):
        return
    if told.model_digest != info.model_digest:
        return
    run.metrics(told.metrics, dataset=(info.lineage.dataset, info.lineage.data_hash))
    shown = [reports / folder / info.candidate for folder in ("evaluation", "plots")]
    for path in (*shown, reports / "plots" / "learning_curves.png"):
        if path.exists():
            run.artifact(path, "evaluation")
    run.tags({"drawn": told.drawn})
    run.rename(told.name)
    run.describe(told.description)


def pipeline(root: Path, dataset: str) -> Run | None:
    """The run that stands for the pipeline run of this process; None where a stage was started by hand."""
    server.connect(root)
    parent = experiment.pipeline(root, dataset)
    return Run(parent) if parent else None


def artifact(root: Path, run_id: str, path: str) -> Path | None:
    """A file or folder that a run keeps, fetched to cache/runs/<run>/; None where the run does not have it."""
    server.connect(root)
    out = main_workspace(root) / "cache" / "runs" / run_id
    out.mkdir(parents=True, exist_ok=True)
    try:
        return Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=path, dst_path=str(out)))
    except (MlflowException, OSError):
        return None


def find(root: Path, word: str) -> str | None:
    """The id of the run that a person means by an id, the first letters of one, or a run's name."""
    server.connect(root)
    client = mlflow.MlflowClient()
    for run in _all(client):
        known = (run.info.run_name, run.data.tags.get("restored_from"))
        if run.info.run_id.startswith(word) or word in known:
            return str(run.info.run_id)
    return None


def search(root: Path, filter_: str) -> list[str]:
    """The ids of the runs that MLflow's `filter_` matches, newest first."""
    server.connect(root)
    return [str(run.info.run_id) for run in _all(mlflow.MlflowClient(), filter_)]


def tags(root: Path, run_id: str) -> dict[str, str] | None:
    """A run's tags; None where there is no such run."""
    run = _get(root, run_id)
    return dict(run.data.tags) if run else None


def given_and_gave(root: Path, run_id: str) -> tuple[dict[str, str], dict[str, float]]:
    """(params, last metrics) of a run; both empty where there is no such run."""
    run = _get(root, run_id)
    return (dict(run.data.params), dict(run.data.metrics)) if run else ({}, {})


def _get(root: Path, run_id: str) -> mlflow.entities.Run | None:
    server.connect(root)
    try:
        return mlflow.MlflowClient().get_run(run_id)
    except MlflowException:
        return None


def _all(client: mlflow.MlflowClient, filter_: str = "") -> Iterator[mlflow.entities.Run]:
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    token: str | None = None
    while True:
        page = client.search_runs(experiments, filter_, max_results=500, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _keep_manifest(run: Run, root: Path, lineage: Lineage) -> None:
    manifest = root / "prepared" / "manifest.csv"
    if is_manifest(manifest, lineage):
        folder, _, _ = MANIFEST.rpartition("/")
        run.artifact(manifest, folder)


def candidate_params(params: Params, name: str) -> dict[str, Any]:
    """What one candidate was given, by the names of params.yaml; its own entry without `candidates.<name>.`,
    so that the same parameter of two candidates stands on one line of a comparison."""
    shared = {k: v for k, v in flatten(params).items() if not k.startswith(("candidates.", "gate.", "serving."))}
    return flatten(params.candidate(name)) | shared


def _active_id(client: mlflow.MlflowClient, run_id: str) -> str | None:
    """`run_id` where there is such a run and nobody has deleted it."""
    try:
        run = client.get_run(run_id)
    except MlflowException:
        return None
    return str(run.info.run_id) if run.info.lifecycle_stage == "active" else None


def _find(client: mlflow.MlflowClient, record: RunRecord) -> str | None:
    if run_id := _active_id(client, record.run_id):
        return run_id
    experiment = client.get_experiment_by_name(record.experiment)
    if experiment is None:
        return None
    found = client.search_runs([experiment.experiment_id], f"tags.restored_from = '{record.run_id}'", max_results=1)
    return str(found[0].info.run_id) if found else None


def _tags(candidate: str, lineage: Lineage) -> dict[str, Any]:
    return lineage.model_dump(exclude={"run_id"}) | {
        "candidate": candidate,
        "pipeline_run": experiment.pipeline_word() or "by hand",
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

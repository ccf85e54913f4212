"""One training is one MLflow run; evaluation reopens it.

run = Run(create(root, "sample", "mlp · head"))       # trainings begin in training_run.py
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
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import onnx
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelStatus, Metric, Param, RunStatus, RunTag
from mlflow.exceptions import MlflowException
from mlflow.models.signature import ModelSignature
from mlflow.types import Schema, TensorSpec

from pawprint.dvc import main_workspace
from pawprint.inference.classifier import ModelInfo
from pawprint.lineage import Lineage, is_manifest
from pawprint.tracking import experiment, server
from pawprint.tracking.outbox import Outbox, is_outage, kept
from pawprint.tracking.records import EVALUATED, Evaluated
from pawprint.tracking.records import RunRecord as RunRecord

FOLDER = "folder"  # the model folder's artifact path in its run
MANIFEST = "data/manifest.csv"  # which photographs, and on which split: what proves what the model learned from
_PACKAGES = ("torch", "numpy", "onnx", "openvino", "opencv-python-headless", "simplejpeg", "mlflow", "scikit-learn")
_SERVING = ("mlflow", "onnx", "onnxruntime", "numpy")  # what loading the logged ONNX model takes


class Run:
    """An MLflow run that is written to. It is the logger that training/ is handed.

    With an `outbox` what cannot be sent waits there, and a metric has one value a step however often it is logged.
    """

    def __init__(self, run_id: str, outbox: Outbox | None = None) -> None:
        self.id, self.outbox = run_id, outbox
        self.model_uri = ""
        self._steps: dict[str, set[int]] | None = None  # of each metric; None: not looked at
        self._began = time.monotonic()

    @cached_property
    def _client(self) -> mlflow.MlflowClient:
        return mlflow.MlflowClient()  # where it is used: until then nobody may know where MLflow is

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
        self._points({name: float(value) for name, value in values.items()}, step or 0, time.time(), dataset)

    @kept()
    def _points(self, values: Mapping[str, float], step: int, at: float, dataset: Sequence[str]) -> None:
        about: dict[str, Any] = {}
        if dataset[0] and (model_id := self._model_id()):
            about = {"model_id": model_id, "dataset_name": dataset[0], "dataset_digest": dataset[1], "run_id": self.id}
        fresh = {name: value for name, value in values.items() if not self._logged(name, step)}
        entries = [Metric(name, value, int(at * 1000), step, **about) for name, value in fresh.items()]
        self._client.log_batch(self.id, metrics=entries)
        if self._steps is not None:
            for name in fresh:
                self._steps[name].add(step)

    def once(self) -> None:
        """From here on a metric that already has a value at a step keeps it."""
        self._steps = {}

    def _logged(self, name: str, step: int) -> bool:
        if self._steps is None:
            return False
        if name not in self._steps:
            self._steps[name] = {point.step for point in self._client.get_metric_history(self.id, name)}
        return step in self._steps[name]

    @kept()
    def status(self, status: str) -> None:
        """RUNNING, FINISHED or FAILED, as MLflow names them."""
        if status == "RUNNING":
            self._client.update_run(self.id, status=status)
        else:
            self._client.set_terminated(self.id, status)

    @kept()
    def params(self, values: Mapping[str, Any]) -> None:
        """Log what the run was given."""
        entries = [Param(name, str(value)) for name, value in values.items()]
        for start in range(0, len(entries), 100):  # the server's limit for one call
            self._client.log_batch(self.id, params=entries[start : start + 100])

    @kept()
    def tags(self, values: Mapping[str, Any]) -> None:
        """Label the run."""
        self._client.log_batch(self.id, tags=[RunTag(name, str(value)) for name, value in values.items()])

    @kept(files="path")
    def artifact(self, path: Path, folder: str = "") -> None:
        """Keep a file, or all files of a folder, with the run."""
        if path.is_dir():
            self._client.log_artifacts(self.id, str(path), folder or None)
        else:
            self._client.log_artifact(self.id, str(path), folder or None)

    def text(self, content: str, path: str) -> None:
        """Keep a text as the artifact `path`."""
        self._client.log_text(self.id, content, path)

    @kept()
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

    @kept()
    def dataset(self, name: str, data: Path, digest: str) -> None:
        """Log the photographs as an MLflow dataset: their name and DVC's hash of them."""
        entry = Dataset(name, digest, source_type="local", source=json.dumps({"uri": str(data)}))
        self._client.log_inputs(self.id, [DatasetInput(entry, [InputTag("mlflow.data.context", "training")])])

    @kept(files="folder")
    def model(self, folder: Path) -> None:
        """Log the model folder as it is, and its ONNX model as an MLflow model with signature and example."""
        info = ModelInfo.read(folder)
        graph = onnx.load(folder / "model.onnx")
        example = np.random.default_rng(0).integers(0, 256, (1, 300, 300, 3), np.uint8)  # more take seconds as JSON
        outputs = []
        for output in graph.graph.output:
            dims = [d.dim_value if d.HasField("dim_value") else -1 for d in output.type.tensor_type.shape.dim]
            outputs.append(TensorSpec(np.dtype(np.float32), (-1, *dims[1:]), output.name))
        signature = ModelSignature(
            inputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, 300, 300, 3), graph.graph.input[0].name)]),
            outputs=Schema(outputs),
        )
        self.artifact(folder, FOLDER)
        self.model_uri = self._logged_model(info.model_digest)
        if not self.model_uri:
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
        self.tags({"model_digest": info.model_digest, "model_uri": self.model_uri})

    def _logged_model(self, digest: str) -> str:
        """The address of this very model where an earlier call has logged it whole; "" elsewhere."""
        experiment = self._client.get_run(self.id).info.experiment_id
        for model in self._client.search_logged_models([experiment], f"source_run_id = '{self.id}'"):
            if model.tags.get("model_digest") == digest and model.status == LoggedModelStatus.READY:
                return str(model.model_uri)
        return ""

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
def reopen(root: Path, record: RunRecord, folder: Path) -> Iterator[Run]:
    """The run that a model folder came from, to add to it.

    Where these runs do not hold it (another tracking server, a new mlflow.db, a model that DVC brought from its
    cache) it is entered again from the folder, tagged `restored_from` with the run that trained it.
    """
    server.connect(root)
    run_id = known(record.run_id)
    if run_id:
        yield Run(run_id)
        return
    info = ModelInfo.read(folder)
    run = Run(create(root, info.lineage.dataset, record.run_name))
    with ending(run):
        run.tags(lineage_tags(info.candidate, info.lineage) | {"restored_from": record.run_id})
        run.dataset(info.lineage.dataset, root / "data", info.lineage.data_hash)
        keep_manifest(run, root, info.lineage)
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


def keep_manifest(run: Run, root: Path, lineage: Lineage) -> None:
    """Keep prepared/manifest.csv with the run, where it is the one that the model learned from."""
    manifest = root / "prepared" / "manifest.csv"
    if is_manifest(manifest, lineage):
        folder, _, _ = MANIFEST.rpartition("/")
        run.artifact(manifest, folder)


def known(run_id: str) -> str | None:
    """The run called `run_id`, or the one that was entered here for it; None where there is neither any more."""
    client = mlflow.MlflowClient()
    return _active_id(client, run_id) or _restored(client, run_id)


def create(root: Path, dataset: str, run_name: str, **about: Any) -> str:
    """A new run's id; `about` as MlflowClient.create_run takes it."""
    client = mlflow.MlflowClient()
    return str(client.create_run(experiment.of(root, dataset), run_name=run_name, **about).info.run_id)


def _active_id(client: mlflow.MlflowClient, run_id: str) -> str | None:
    """`run_id` where there is such a run and nobody has deleted it."""
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if is_outage(error):
            raise
        return None
    return str(run.info.run_id) if run.info.lifecycle_stage == "active" else None


def _restored(client: mlflow.MlflowClient, run_id: str) -> str | None:
    """The run that was entered here for `run_id`, which another MLflow knows or none did."""
    found = next(_all(client, f"tags.restored_from = '{run_id}'"), None)
    return str(found.info.run_id) if found else None


def lineage_tags(candidate: str, lineage: Lineage) -> dict[str, Any]:
    """Where a model comes from and what made it, as tags to filter runs by."""
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
def ending(run: Run) -> Iterator[None]:
    """FINISHED at the end, FAILED when the body raises."""
    try:
        yield
    except BaseException:
        run.status(RunStatus.to_string(RunStatus.FAILED))
        raise
    run.status(RunStatus.to_string(RunStatus.FINISHED))


@contextlib.contextmanager
def _active(run_id: str) -> Iterator[None]:
    """MLflow's log_model knows only "the active run"; this makes ours that one, without ending it."""
    status = mlflow.MlflowClient().get_run(run_id).info.status
    mlflow.start_run(run_id)
    try:
        yield
    finally:
        mlflow.end_run(status)

"""MLflow for one project: runs, experiments and, by `tracker.registry`, registered models. Opened once.

tracker = Tracker(root)
with tracker.start_training("mlp", params, lineage, "mlp · 60 photos", {"train": 40}) as run:
    run.metrics({"train_loss": 0.3}, step=1)
    run.model(folder)
run = tracker.restore_run(folder)               # the run that a model folder came from, to add to it
run.metrics({"test_accuracy": 0.99})
tracker.sync()                                  # what MLflow could not be sent before
"""

import contextlib
import json
import os
import platform
import re
import shutil
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from importlib.metadata import version
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from pawprint import files
from pawprint.config import Params, flatten
from pawprint.data import manifest as manifests
from pawprint.dvc import main_workspace
from pawprint.errors import PawprintError
from pawprint.inference.classifier import ModelInfo
from pawprint.lineage import Champion, Lineage
from pawprint.progress import say
from pawprint.tracking import server
from pawprint.tracking.journal import Journal, JournaledRun
from pawprint.tracking.registry import Registry
from pawprint.tracking.run import (
    EVALUATED,
    FINISHED,
    MANIFEST_TAG,
    MANIFESTS,
    NOTE,
    RESTORED,
    Call,
    Evaluated,
    Run,
    RunRecord,
    ending,
    experiment_store,
)
from pawprint.tracking.server import Unreachable, is_outage

PARENT = "mlflow.parentRunId"
VIEW = "candidates"  # the key of the view of the runs
FILTERED = ("git_commit", "git_dirty", "dataset", "data_hash", "seed")  # of the lineage: tags without a prefix
UNUSED = (
    "candidates.",
    "gate.",
    "loop.",
    "quantized",
    "serving.",
    "sweep.",
    "schema_version",
)  # what no training reads
_SHA256 = re.compile("[0-9a-f]{64}")
_PACKAGES = ("torch", "numpy", "onnx", "openvino", "opencv-python-headless", "simplejpeg", "mlflow", "scikit-learn")


class Tracker:
    """The project at `root`; see the module. MLflow is connected at the first use of `client`."""

    def __init__(self, root: Path) -> None:
        self.root, self.workspace = root, main_workspace(root)
        self.journals = self.workspace / "cache" / "journals"
        self._client: mlflow.MlflowClient | None = None

    @property
    def client(self) -> mlflow.MlflowClient:
        """Raises Unreachable at once, not after minutes of retries, where no server answers."""
        if self._client is None:
            server.connect(self.root)
            self._client = mlflow.MlflowClient()
        return self._client

    @contextlib.contextmanager
    def reachable(self) -> Iterator[None]:
        """Unreachable where MLflow is away in this block, whichever way it shows; the next call connects again."""
        try:
            yield
        except Exception as error:
            if not is_outage(error):
                raise
            self._client = None
            if isinstance(error, Unreachable):
                raise
            raise Unreachable(f"MLflow does not answer: {error}") from error

    @cached_property
    def registry(self) -> Registry:
        return Registry(self)

    # runs

    @contextlib.contextmanager
    def start_training(
        self,
        candidate: str,
        params: Params,
        lineage: Lineage,
        run_name: str,
        photographs: Mapping[str, int],
        resume: str = "",
    ) -> Iterator[JournaledRun]:
        """A run with parameters, lineage, data set and environment; FINISHED at the end, FAILED when the body raises.

        With `resume`, the id of a run that was killed, that one goes on; a new one where it no longer exists.
        """
        run = self.begin(run_name, lineage.dataset, resume)
        try:
            run.params(training_params(params, candidate))
            run.params({f"photographs.{split}": count for split, count in photographs.items()})
            given, parent = params.candidate(candidate), self._pipeline_id(lineage.dataset)
            run.tags(
                lineage_tags(candidate, lineage)
                | ({PARENT: parent} if parent else {})
                | {"architecture": given.architecture, "train": given.train}
            )
            run.dataset(lineage.dataset, self.root / "data", lineage.data_hash)
            if manifests.is_manifest(manifest := self.root / "prepared" / manifests.FILE, lineage.manifest_digest):
                run.manifest(manifest, lineage.manifest_digest)
            run.artifact(self.root / "params.yaml")
            run.artifact(self.root / "requirements.lock", "environment")
            with _system_metrics(run.id, lineage.device, bool(resume)):
                yield run
        except BaseException as error:
            run.status(ending(error))
            raise
        run.status(FINISHED)

    def begin(
        self, run_name: str, dataset: str, resume: str = "", tags: Mapping[str, str] | None = None
    ) -> JournaledRun:
        """The run to write to: `resume` or a new one; where MLflow is away it is made there when it answers."""
        try:
            with self.reachable():
                self.sync()
                known = bool(resume and self.known_run(resume))
                # with its tags: a sweep finds a trial that was killed at once by its parent
                run_id = resume if known else self._create_run(dataset, run_name, tags=dict(tags or {}))
                say(f"  {run_name}: {self.run_page(run_id)}", run_id=run_id)
        except Unreachable:
            known, run_id = bool(resume), resume or uuid.uuid4().hex
        run = JournaledRun(self, run_id)
        if not run.journal.calls():
            run.journal.append("begin", dataset=dataset, run_name=run_name, started=int(time.time() * 1000))
        if known:
            run.status("RUNNING")
            run.flush()
        elif tags:
            run.tags(tags)
        return run

    def run(self, run_id: str) -> Run:
        """A run that exists, or the one that was restored for it; PawprintError where MLflow has neither."""
        known = self.known_run(run_id)
        if known is None:
            raise PawprintError(
                f"MLflow no longer has the run {run_id}: it was deleted for good. `dvc repro --force` trains its model "
                "again; `pawprint rollback` makes the champion before it the current one."
            )
        return Run(self.client, known)

    def run_of_journal(self, run_id: str, call: Call) -> Run:
        """The run in MLflow that `call` of a journal is for, created by the call `begin` where MLflow has none."""
        known = self.known_run(run_id)
        if known is None and call.method != "begin":
            raise PawprintError(f"MLflow no longer has the run {run_id}; it was deleted there.")
        if known is None:
            about = {"start_time": call.arguments["started"], "tags": {RESTORED: run_id}}
            known = self._create_run(call.arguments["dataset"], call.arguments["run_name"], **about)
        return Run(self.client, known)

    def sync(self) -> tuple[int, int]:
        """Upload what waits in journals; (runs that are complete now, runs of which something still waits)."""
        waiting = [one for path in sorted(self.journals.glob("*")) if (one := Journal(path)).waiting()]
        left = 0
        for journal in waiting:
            try:
                journal.upload(self)
            except Unreachable:
                left += 1
                continue
            last = journal.calls()[-1:]  # none where its own process has removed it meanwhile
            # it may have ended since the upload: then its end still waits
            if last == [Call(method="status", arguments={"status": FINISHED})] and not journal.waiting():
                journal.remove()
        return len(waiting) - left, left

    def restore_run(self, folder: Path) -> Run:
        """The run that a model folder came from, to add to it.

        Where MLflow does not hold it (another server, a new mlflow.db, a model that DVC brought from its cache) it is
        made again from run.json and the folder, tagged `restored_from` with the run that trained the model.
        """
        record, info = RunRecord.read(folder), ModelInfo.read(folder)
        run_id = self.known_run(record.run_id)
        if run_id is not None:
            return self.run(run_id)
        journal = Journal(self.journals / record.run_id)
        journal.remove()
        for call in record.calls:
            journal.append(call.method, **call.arguments)
        if manifests.is_manifest(manifest := self.root / "prepared" / manifests.FILE, info.lineage.manifest_digest):
            journal.append("manifest", manifest, digest=info.lineage.manifest_digest)
        journal.append("metrics", values={"seconds": record.seconds}, step=None)
        journal.append("model", folder)
        journal.append("status", status=FINISHED)
        journal.upload(self)
        journal.remove()
        run_id = self.known_run(record.run_id)
        if run_id is None:
            raise PawprintError(f"MLflow refuses the run of {folder}; the lines above say why.")
        run = self.run(run_id)
        self.log_evaluation(run, info)
        return run

    def log_evaluation(self, run: Run, info: ModelInfo) -> None:
        """Log what the stage `evaluate` left of this model: figures, predictions, plots, name and description."""
        reports = self.root / "reports"
        try:
            path = reports / "evaluation" / info.candidate / EVALUATED
            evaluated = Evaluated.model_validate_json(path.read_bytes())
        except (OSError, ValueError):
            return
        if evaluated.model_digest != info.model_digest:
            return
        run.metrics(evaluated.metrics, dataset=(info.lineage.dataset, info.lineage.data_hash))
        shown = [reports / folder / info.candidate for folder in ("evaluation", "plots")]
        for path in (*shown, reports / "plots" / "learning_curves.png"):
            if path.exists():
                run.artifact(path, "evaluation")
        run.tags({"drawn": evaluated.drawn, NOTE: evaluated.description})
        run.rename(evaluated.name)

    def known_run(self, run_id: str) -> str | None:
        """`run_id` where MLflow has that run, or the run that was restored for it; None where it has neither.

        A run that a person deleted on MLflow's pages, and that is needed again, is taken back out of its bin.
        """
        try:
            found = self.client.get_run(run_id)
        except MlflowException as error:
            if is_outage(error):
                raise
            return next(iter(self.search_runs(f"tags.{RESTORED} = '{run_id}'")), None)
        if found.info.lifecycle_stage != "active":
            self.client.restore_run(run_id)
            print(f"The run {run_id} was deleted in MLflow. It is restored: a model here comes from it.", flush=True)
        return run_id

    def find_run(self, word: str) -> str | None:
        """The id of the run that a person means by an id, its first letters, or the name of a run or candidate."""
        for run in self._all_runs():
            names = (run.info.run_name, run.data.tags.get("candidate"), run.data.tags.get(RESTORED))
            if run.info.run_id.startswith(word) or word in names:
                return str(run.info.run_id)
        return None

    def search_runs(self, filter_: str) -> list[str]:
        """The ids of the runs that MLflow's `filter_` matches, newest first."""
        return [str(run.info.run_id) for run in self._all_runs(filter_)]

    def run_tags(self, run_id: str) -> dict[str, str] | None:
        """A run's tags; None where there is no such run."""
        run = self._get_run(run_id)
        return dict(run.data.tags) if run else None

    def params_and_metrics(self, run_id: str) -> tuple[dict[str, str], dict[str, float]]:
        """(params, last metrics) of a run; both empty where there is no such run."""
        run = self._get_run(run_id)
        return (dict(run.data.params), dict(run.data.metrics)) if run else ({}, {})

    def artifact(self, run_id: str, path: str) -> Path | None:
        """A file or folder that a run keeps, fetched to cache/runs/<run>/; None where the run does not have it."""
        out = self.workspace / "cache" / "runs" / run_id
        out.mkdir(parents=True, exist_ok=True)
        try:
            return Path(self.client.download_artifacts(run_id, path, str(out)))
        except (MlflowException, OSError):
            return None

    def artifacts(self, run_id: str, folder: str, suffix: str) -> dict[str, Path]:
        """Files that a run keeps in a folder ("": the top), by their paths there; fetched as `artifact` does."""
        listed = [entry.path for entry in self.client.list_artifacts(run_id, folder or None)]
        files = {path: self.artifact(run_id, path) for path in listed if path.endswith(suffix)}
        return {path: file for path, file in files.items() if file}

    def remove_artifacts(self, run_id: str, paths: Sequence[str] = ()) -> int:
        """Delete artifacts of a run, all of them where none is named; how many paths."""
        repository = get_artifact_repository(self.client.get_run(run_id).info.artifact_uri)
        for path in paths:
            repository.delete_artifacts(path)
        if not paths:
            repository.delete_artifacts()
        shutil.rmtree(self.workspace / "cache" / "runs" / run_id, ignore_errors=True)
        return len(paths)

    def remove_version(self, version: Champion) -> None:
        """Delete a registered version, the models that MLflow logged for it, and its run with all artifacts.

        The manifest that it learned from goes with the last run of its experiment that names it.
        """
        run = self.client.get_run(version.run_id)
        self.client.delete_model_version(version.model, version.version)
        for model in self.client.search_logged_models([run.info.experiment_id], f"source_run_id = '{version.run_id}'"):
            get_artifact_repository(model.artifact_location).delete_artifacts()
            self.client.delete_logged_model(model.model_id)
        self.remove_artifacts(version.run_id)
        self.client.delete_run(version.run_id)
        manifest = run.data.tags.get(MANIFEST_TAG, "")
        same = f"tags.`{MANIFEST_TAG}` = '{manifest}'"
        if _SHA256.fullmatch(manifest) and not self.client.search_runs([run.info.experiment_id], same, max_results=1):
            experiment_store(self.client, version.run_id).delete_artifacts(f"{MANIFESTS}/{manifest}")
            shutil.rmtree(self.workspace / "cache" / MANIFESTS / manifest, ignore_errors=True)
        shutil.rmtree(self.workspace / "cache" / "registry" / version.model_digest, ignore_errors=True)

    def manifest(self, run_id: str, digest: str) -> Path | None:
        """The manifest that a run keeps, as runs of before do, or that its experiment keeps under `digest`.

        Who needs the one of this digest compares it: what is kept may have been changed.
        """
        for name in (manifests.FILE, "manifest.csv"):
            if own := self.artifact(run_id, f"data/{name}"):
                return own
        path, cache = f"{MANIFESTS}/{digest}/{manifests.FILE}", self.workspace / "cache"
        if not _SHA256.fullmatch(digest):
            return None
        if not manifests.is_manifest(cache / path, digest):
            cache.mkdir(exist_ok=True)
            try:
                experiment_store(self.client, run_id).download_artifacts(path, str(cache))
            except (MlflowException, OSError):
                return None
        return cache / path

    def _get_run(self, run_id: str) -> mlflow.entities.Run | None:
        try:
            return self.client.get_run(run_id)
        except MlflowException:
            return None

    def _all_runs(self, filter_: str = "") -> list[mlflow.entities.Run]:
        _ = self.client  # the function below uses the connection of the process
        found: list[mlflow.entities.Run] = mlflow.search_runs(
            filter_string=filter_, search_all_experiments=True, output_format="list"
        )
        return found

    def _create_run(self, dataset: str, run_name: str, **about: Any) -> str:
        return str(self.client.create_run(self.experiment(dataset), run_name=run_name, **about).info.run_id)

    # experiments

    def experiment(self, name: str, note: str = "experiment.md") -> str:
        """The id of the experiment of a data set, created where it does not exist: one table to compare in."""
        found = self.client.get_experiment_by_name(name)
        if found is None:
            base, tags = server.artifact_root(self.root), {}
            if note:
                tags = {
                    NOTE: _template(note).format(dataset=name),
                    "mlflow.experimentPrimaryMetricName": "test_log_loss",
                    "mlflow.experimentKind": "custom_model_development",
                }
            try:
                location = f"{base}/{name.replace(' ', '-')}" if base else None
                return str(self.client.create_experiment(name, location, tags))
            except MlflowException:  # another stage created it meanwhile
                found = self.client.get_experiment_by_name(name)
                if found is None:
                    raise
        if found.lifecycle_stage == "deleted":
            self.client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def run_page(self, run_id: str) -> str:
        """The address of a run on MLflow's pages; without a server, where `make ui` shows them."""
        address = server.uri(self.root)
        served = address.rstrip("/") if address.startswith("http") else server.UI
        return f"{served}/#/experiments/{self.client.get_run(run_id).info.experiment_id}/runs/{run_id}"

    def comparison_page(self, dataset: str) -> str:
        """Where MLflow's pages show a data set's candidates, as view.json describes; "/" where it has none."""
        if self.client.get_experiment_by_name(dataset) is None:
            return "/"
        experiment = self.experiment(dataset)
        view = json.dumps(json.loads(_template("view.json")), separators=(",", ":"))  # a tag has 5,000 letters at most
        self.client.set_experiment_tag(experiment, f"mlflow.sharedViewState.{VIEW}", view)
        return f"/#/experiments/{experiment}/runs?workflowType=machine_learning&viewStateShareKey={VIEW}"

    def pipeline_run(self, dataset: str) -> Run | None:
        """The run of the pipeline run that this process belongs to, created by the first who asks; None by hand."""
        pipeline = pipeline_id()
        if not pipeline:
            return None
        if found := self._find_pipeline(pipeline):
            return found
        kept = self.workspace / "cache" / "pipeline_run"
        if kept.exists() and (left := self.known_run(kept.read_text(encoding="ascii"))):
            self.run(left).status("KILLED")  # of a pipeline that could not say so
        name = f"pipeline · {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}"
        run = self.run(
            self._create_run(dataset, name, tags={"pipeline_run": pipeline, "kind": "pipeline", **_reason()})
        )
        files.write_text(kept, run.id)
        return run

    def end_pipeline(self, pipeline: str, status: str) -> None:
        """Set the state of the run of a pipeline run, where it has one."""
        if run := self._find_pipeline(pipeline):
            run.status(status)
            (self.workspace / "cache" / "pipeline_run").unlink(missing_ok=True)

    def _find_pipeline(self, pipeline: str) -> Run | None:
        found = self.search_runs(f"tags.pipeline_run = '{pipeline}' and tags.kind = 'pipeline'")
        return self.run(found[0]) if found else None

    def _pipeline_id(self, dataset: str) -> str:
        try:
            with self.reachable():
                run = self.pipeline_run(dataset)
                return run.id if run else ""
        except Unreachable:
            return ""

    def log_page(
        self,
        home: str,
        name: str,
        params: Mapping[str, str],
        figures: Mapping[str, float],
        page: Path,
        description: str,
    ) -> str:
        """Log a report as the run `name` of the experiment `home`, such as `<dataset> traffic`; the run's id."""
        experiment = self.experiment(home, note="")
        run = self.run(str(self.client.create_run(experiment, run_name=name).info.run_id))
        run.params(params)
        run.metrics(figures)
        run.artifact(page)
        run.describe(description)
        run.status(FINISHED)
        return run.id


def _template(name: str) -> str:
    return (resources("pawprint.tracking") / "templates" / name).read_text(encoding="utf-8")


def pipeline_id() -> str:
    """The id of the pipeline run of this process (Prefect's flow run id); "" where a stage was started by hand."""
    return os.environ.get("PAWPRINT_PIPELINE_RUN", "").removeprefix("pipeline ")


def _reason() -> dict[str, str]:
    """Why the worker started this run, where its rule says so (flows/loop.py)."""
    reason = os.environ.get("PAWPRINT_REASON", "")
    return {"reason": reason} if reason else {}


def training_params(params: Params, name: str) -> dict[str, Any]:
    """The parameters of one candidate by the names of params.yaml; its own entry without `candidates.<name>.`, so that
    the same parameter of two candidates is on one line of a comparison."""
    shared = {k: v for k, v in flatten(params).items() if not k.startswith(UNUSED)}
    return flatten(params.candidate(name)) | shared


def lineage_tags(candidate: str, lineage: Lineage) -> dict[str, Any]:
    """What a person filters runs by, as tags; digests and the environment stand together under `lineage.`, and
    what computed under `execution.`."""
    rest = lineage.model_dump(exclude={"run_id", "execution", "pretrained", *FILTERED}) | {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": " ".join(f"{package}=={version(package)}" for package in _PACKAGES),
    }
    return (
        lineage.model_dump(include=set(FILTERED))
        | {f"lineage.{name}": value for name, value in rest.items()}
        | {f"execution.{name}": value for name, value in lineage.execution.items()}
        | {f"pretrained.{one.name.replace('/', '.')}": f"{one.sha256} {one.licence}" for one in lineage.pretrained}
        | {
            "candidate": candidate,
            "pipeline_run": pipeline_id() or "by hand",
            "mlflow.source.name": " ".join([Path(sys.executable).name, *sys.argv[:1]]) if sys.argv[0] else "python",
            "mlflow.source.type": "LOCAL",
            "mlflow.source.git.commit": lineage.git_commit,
        }
        | _reason()
    )


@contextlib.contextmanager
def _system_metrics(run_id: str, device: str, resumed: bool) -> Iterator[None]:
    """On a GPU: its memory and utilization, and the machine's, every ten seconds, as MLflow's system metrics.

    They show how a training goes while it goes; where MLflow is away they are not kept.
    """
    if not device.startswith("cuda"):
        yield
        return
    monitor = SystemMetricsMonitor(run_id, resume_logging=resumed)
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()

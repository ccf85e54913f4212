"""A training's MLflow run, which goes on where MLflow is away and in the run of a training that was killed.

with start(root, "mlp", params, lineage, "mlp · 60 photos", {"train": 40}, resume="") as run:
    run.metrics({"train_loss": 0.3}, step=1)
    run.model(folder)
sync(root)          # what could not be sent then
"""

import contextlib
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from pawprint.config import Params, flatten
from pawprint.errors import PawprintError
from pawprint.lineage import Lineage
from pawprint.tracking import experiment, outbox, runs, server
from pawprint.tracking.outbox import Outbox
from pawprint.tracking.runs import Run, RunRecord

OTHERS = ("candidates.", "gate.", "int8", "serving.", "sweep.")  # sections of params.yaml that a training does not read


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
    run = begin(root, run_name, lineage.dataset, resume)
    try:
        with runs.ending(run):
            run.params(candidate_params(params, candidate_name))
            run.params({f"photographs.{split}": count for split, count in photographs.items()})
            run.tags(runs.lineage_tags(candidate_name, lineage))
            if parent := _pipeline(root, lineage.dataset):
                run.tags({experiment.PARENT: parent})
            run.tags({name: getattr(params.candidate(candidate_name), name) for name in ("architecture", "train")})
            run.dataset(lineage.dataset, root / "data", lineage.data_hash)
            runs.keep_manifest(run, root, lineage)
            run.artifact(root / "params.yaml")
            run.artifact(root / "requirements.lock", "environment")
            with _machine_watched(run.id, lineage.device, resumed=bool(resume)):
                yield run
    finally:
        if run.outbox and not run.outbox.empty():
            left = len(run.outbox.waiting())
            print(f"MLflow is away: {left} entries of run {run.id} wait. `pawprint sync` delivers them.", flush=True)


def _pipeline(root: Path, dataset: str) -> str:
    try:
        return experiment.pipeline(root, dataset)
    except Exception as error:
        if not outbox.is_outage(error):
            raise
        return ""  # MLflow is away: the run stands by itself


@contextlib.contextmanager
def _machine_watched(run_id: str, device: str, resumed: bool) -> Iterator[None]:
    """On a GPU: its memory and utilisation, and the machine's, as MLflow's system metrics, every ten seconds.

    They say how it goes while it goes; where MLflow is away they are not kept.
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


def candidate_params(params: Params, name: str) -> dict[str, Any]:
    """What one candidate was given, by the names of params.yaml; its own entry without `candidates.<name>.`,
    so that the same parameter of two candidates stands on one line of a comparison."""
    shared = {k: v for k, v in flatten(params).items() if not k.startswith(OTHERS)}
    return flatten(params.candidate(name)) | shared


def sync(root: Path) -> tuple[int, int]:
    """Deliver what trainings could not send; (runs that are complete now, runs of which something waits still)."""
    boxes = [Outbox(folder, _Delivery(root, folder.name)) for folder in sorted(outbox.folder(root).glob("*"))]
    waiting = [box for box in boxes if box.waiting()]
    left = sum(not box.empty() for box in waiting)
    return len(waiting) - left, left


def begin(root: Path, run_name: str, home: str, resume: str = "", tags: Mapping[str, str] | None = None) -> "Training":
    """The run to write to: `resume` or a new one, in MLflow or, where it is away, in an outbox."""
    begin = {"experiment": home, "run_name": run_name, "started": int(time.time() * 1000)}
    try:
        sync(root)
        server.connect(root)
        known = runs.known(resume) if resume else None
        run_id = resume if known else runs.create(root, home, run_name)
    except Exception as error:
        if not outbox.is_outage(error):
            raise
        known, run_id = resume, resume or uuid.uuid4().hex
        if not known:
            Outbox(outbox.folder(root) / run_id, _Delivery(root, run_id)).send("begin", begin)
    run = Training(root, run_id, run_name, home)
    if known:
        run.status("RUNNING")
    elif tags:
        run.tags(tags)
    return run


def resumed(root: Path, run_id: str) -> "Training":
    """A run that was begun before, to add to it."""
    return Training(root, run_id, "", "")


class Training(Run):
    """The run of a training, which goes on where MLflow is away: its outbox keeps what cannot be sent."""

    def __init__(self, root: Path, run_id: str, run_name: str, home: str) -> None:
        self._delivery = _Delivery(root, run_id)
        super().__init__(run_id, Outbox(outbox.folder(root) / run_id, self._delivery))
        self._record = RunRecord(run_id=run_id, run_name=run_name, experiment=home, model_uri="", seconds=0)

    @property
    def name(self) -> str:
        """The run's name when it began."""
        return self._record.run_name

    def record(self) -> RunRecord:
        """What run.json holds of this run; less of it where MLflow is away, and no `model_uri`."""
        known = self._record
        try:
            if self.outbox and self.outbox.empty():
                known = self._delivery.find().record()
        except Exception as error:
            if not outbox.is_outage(error):
                raise
        return known.model_copy(update={"run_id": self.id, "run_name": self.name, "seconds": round(self.seconds, 1)})


class _Delivery:
    """What an outbox hands its calls to: the run in MLflow, which is made there if MLflow was away when it began."""

    def __init__(self, root: Path, run_id: str) -> None:
        self.root, self.run_id = root, run_id
        self.run: Run | None = None

    def __call__(self, method: str, arguments: Mapping[str, Any]) -> None:
        try:
            run = self.find(arguments if method == "begin" else {})
            if method != "begin":
                getattr(run, method)(**arguments)
        except Exception:
            self.run = None  # whatever it knew of MLflow may be wrong now
            raise

    def find(self, begin: Mapping[str, Any] | None = None) -> Run:
        """The run in MLflow; with `begin` it is made there where there is none."""
        if self.run is not None:
            return self.run
        server.connect(self.root)
        run_id = runs.known(self.run_id)
        if run_id is None and begin:
            about = {"start_time": begin["started"], "tags": {"restored_from": self.run_id}}
            run_id = runs.create(self.root, begin["experiment"], begin["run_name"], **about)
        if run_id is None:
            raise PawprintError(f"MLflow no longer has the run {self.run_id}; somebody deleted it.")
        self.run = Run(run_id)
        self.run.once()
        return self.run

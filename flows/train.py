"""One candidate of params.yaml -> models/<candidate>/, as one MLflow run.

python -m flows.train --candidate article_cnn
torchrun --standalone --nproc-per-node 2 -m flows.train --candidate article_cnn
PAWPRINT_ENGINE=ray PAWPRINT_PROCESSES=2 python -m flows.train --candidate article_cnn
"""

import argparse
import contextlib
from collections.abc import Iterator
from pathlib import Path

from flows import ROOT
from flows.tasks import flow, run_stage, step
from pawprint import dvc, lineage
from pawprint.config import Params, digest, load_params
from pawprint.data.dataset import PreparedDataset
from pawprint.data.splits import SPLITS
from pawprint.errors import PawprintError
from pawprint.files import write_json, write_text
from pawprint.models import registry
from pawprint.progress import say
from pawprint.tracking.journal import JournaledRun
from pawprint.tracking.tracker import Tracker
from pawprint.training import devices, distributed, energy, export, folds
from pawprint.training.checkpoint import CheckpointManager
from pawprint.training.cluster import fit_anywhere
from pawprint.training.train import fit
from pawprint.training.trainer import NullLogger


@flow(name="train", flow_run_name="train {name}")
def train(name: str) -> None:
    """Train a candidate, export it, and log parameters, metrics and model."""
    # 1. the candidate and the photographs; the precision that this machine executes
    params = load_params(ROOT / "params.yaml")
    if name in params.quantized:
        raise PawprintError(f"{name} is not trained. `python -m flows.quantize --model {name}` makes it.")
    registry.check(params)
    data, executed = PreparedDataset.open(ROOT / "prepared"), devices.resolve_precision(params)

    # 2. the checkpoint of a training that was killed, outside of what DVC deletes when a stage starts
    checkpoints = CheckpointManager(ROOT / "cache" / "checkpoints", name, executed, data)

    if distributed.rank() > 0:  # torchrun started several processes: all compute, the first reports and writes
        fit(name, executed, data, NullLogger(), checkpoints)
        return

    # 3. train, export, log: one MLflow run, resumed where there is a checkpoint
    out = ROOT / "models" / name
    with model_run(name, params, data, checkpoints.run_id) as (mlflow_run, record):
        checkpoints.run_id = mlflow_run.id
        log_photographs(mlflow_run)
        with energy.Meter(devices.resolve(executed.training)) as meter:
            trained = step()(fit_anywhere)(name, executed, data, mlflow_run, checkpoints)
            out_of_fold = step()(folds.out_of_fold)(trained, data)
            step()(export.export)(trained, data, record, out, mlflow_run, out_of_fold)
            log_learning_curve(mlflow_run, step()(folds.learning_curve)(trained, data), out)
        log_energy(mlflow_run, meter.used)
        log_model(mlflow_run, out)

    # 4. the model is exported and logged
    checkpoints.discard()


def read_lineage(name: str, data: PreparedDataset, params: Params) -> lineage.Lineage:
    """The record of a training of the model `name` that is about to start."""
    check_prepared(data)
    pretrained = registry.pretrained(params.candidate(name).architecture)
    for concern in filter(None, (one.concern for one in pretrained)):
        say(f"Warning: {concern}.")
    commit, dirty = lineage.git_state(ROOT)
    if why := lineage.why_no_commit(ROOT):
        say(f"The record of this training names no commit: {why}")
    return lineage.Lineage(
        git_commit=commit,
        git_dirty=dirty,
        dataset=data.dataset,
        data_hash=dvc.data_hash(ROOT),
        manifest_digest=data.digest,
        params_digest=digest(params),
        code_digest=dvc.code_digest(ROOT),
        lock_digest=lineage.sha256(ROOT / "requirements.lock"),
        seed=params.seed,
        test_split=_test_split(data),
        device=devices.describe(params),
        execution=devices.execution(params),
        pretrained=pretrained,
    )


def check_prepared(data: PreparedDataset) -> None:
    """PawprintError where the prepared photographs are not those of data.dvc: the record would name the wrong ones."""
    if data.data_hash and data.data_hash != dvc.data_hash(ROOT):
        raise PawprintError(
            "prepared/ was not made from the photographs of data.dvc. Run `dvc repro preprocess`, then this again."
        )


def _test_split(data: PreparedDataset) -> str:
    """How the test photographs were drawn, in words."""
    if data.own_test:
        return f"the source's own ({data.own_test:,} photographs)"
    return f"drawn by group ({data.groups:,} groups)" if data.groups else "drawn by content"


@contextlib.contextmanager
def model_run(
    name: str, params: Params, data: PreparedDataset, resume: str = ""
) -> Iterator[tuple[JournaledRun, lineage.Lineage]]:
    """The MLflow run in which the model `name` is made, and the model's lineage."""
    record = read_lineage(name, data, params)
    photographs: dict[str, int] = {split: len(data.split(split)) for split in SPLITS}
    run_name = f"{name} · {sum(photographs.values()):,} {'drawings' if data.drawn else 'photos'}"
    if name not in params.quantized:
        run_name += f" · {params.candidate(name).train}"
    with Tracker(ROOT).start_training(name, params, record, run_name, photographs, resume) as mlflow_run:
        yield mlflow_run, record.model_copy(update={"run_id": mlflow_run.id})


@step(retries=2, delay=2)
def log_photographs(mlflow_run: JournaledRun) -> None:
    """The report of preprocess: which photographs were rejected, and why."""
    for report in ("report.json", "report.html"):
        mlflow_run.artifact(ROOT / "prepared" / report, "photographs")


def log_learning_curve(mlflow_run: JournaledRun, points: list[folds.Point], out: Path) -> None:
    """learning_curve.json of the model folder: would more photographs help?"""
    if points:
        write_json(out / folds.CURVE, [point.model_dump() for point in points])
        mlflow_run.metrics({f"log_loss_of_{point.photographs}_photographs": point.log_loss for point in points})


def log_energy(mlflow_run: JournaledRun, used: energy.Used) -> None:
    """What the training took, on the terminal and in its run; of a resumed training since it was resumed."""
    mlflow_run.metrics(used.metrics())
    mlflow_run.tags({"energy": used.sentence()})
    say(f"  {used.sentence()}", seconds=used.seconds, cpu_seconds=used.cpu_seconds, kwh=used.kwh, method=used.method)


@step(retries=2, delay=2)
def log_model(mlflow_run: JournaledRun, out: Path) -> None:
    """Log the model folder, then write run.json, from which the run can be restored."""
    mlflow_run.model(out)
    record = mlflow_run.record()
    mlflow_run.metrics({"seconds": record.seconds})
    write_text(out / "run.json", record.model_dump_json(indent=1) + "\n")
    mlflow_run.flush()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidate", required=True, help="a name under `candidates` in params.yaml")
    name = parser.parse_args().candidate
    run_stage(train, f"train {name}", name)

"""One candidate of params.yaml -> models/<candidate>/, as one MLflow run.

python -m flows.train --candidate article_cnn
"""

import argparse
from pathlib import Path

from prefect import flow

from flows import ROOT
from flows.steps import run, step
from pawprint import lineage
from pawprint.params import Params, load_params
from pawprint.prepared.read import PreparedSet
from pawprint.tracking import runs
from pawprint.training import devices, export, fit


@flow(name="train", flow_run_name="train {name}")
def train(name: str) -> None:
    """Fit a candidate, export it, and keep what it was given and what it gave."""
    # 1. what is asked for
    params = load_params(ROOT / "params.yaml")
    candidate = params.candidate(name)
    data = PreparedSet.open(ROOT / "prepared")
    photographs = {side: len(data.side(side)) for side in ("train", "validation", "test")}

    # 2. where the model will come from, as one record
    device = devices.describe(params.training)
    print_ = lineage.read(ROOT, data.dataset, data.manifest, params, device)
    run_name = f"{name} · {sum(photographs.values()):,} {'drawings' if data.drawn else 'photos'} · {candidate.train}"

    # 3. train, 4. export, 5. log: one MLflow run around them
    out = ROOT / "models" / name
    with runs.start(ROOT, name, params, print_, run_name, photographs) as mlflow_run:
        fit_and_export(name, params, data, print_.model_copy(update={"run_id": mlflow_run.id}), out, mlflow_run)
        log_model(mlflow_run, out)


@step()
def fit_and_export(
    name: str, params: Params, data: PreparedSet, record: lineage.Lineage, out: Path, logger: runs.Run
) -> None:
    """Train and write the model's folder, whole or not at all."""
    trained = fit.fit(name, params, data, logger)
    export.export(trained, data, record, out, logger)


@step(retries=2, delay=2)
def log_model(mlflow_run: runs.Run, out: Path) -> None:
    """Send the folder to MLflow, then write run.json: the folder is complete only when MLflow has it."""
    mlflow_run.model(out)
    record = mlflow_run.record()
    mlflow_run.metrics({"seconds": record.seconds})
    (out / "run.json").write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidate", required=True, help="a name under `candidates` in params.yaml")
    run(train, parser.parse_args().candidate)

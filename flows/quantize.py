"""A trained candidate -> models/<candidate>_int8/: the same weights in 8-bit integers, as one MLflow run.

python -m flows.quantize --candidate efficientnet_lite0
"""

import argparse
from pathlib import Path

from prefect import flow

from flows import ROOT
from flows.tasks import run, step
from flows.train import log_model
from pawprint import lineage
from pawprint.config import load_params, twin
from pawprint.data.dataset import PreparedDataset
from pawprint.inference.classifier import load_verified
from pawprint.tracking import training_run
from pawprint.training import devices, quantize


@flow(name="quantize", flow_run_name="quantize {name}")
def quantize_candidate(name: str) -> None:
    """Make the twin of a candidate; it is evaluated like any other."""
    # 1. what is asked for, and the model that was trained
    params = load_params(ROOT / "params.yaml")
    params.candidate(twin(name))
    data = PreparedDataset.open(ROOT / "prepared")
    floats, out = ROOT / "models" / name, ROOT / "models" / twin(name)
    trained, _ = load_verified(floats)

    # 2. where the twin comes from, as one record
    record = lineage.read(ROOT, data.dataset, data.manifest, params, devices.describe(params.training))
    photographs = {split: len(data.split(split)) for split in ("train", "validation", "test")}
    run_name = f"{twin(name)} · {sum(photographs.values()):,} {'drawings' if data.drawn else 'photos'}"

    # 3. quantize, log: one MLflow run around them
    with training_run.start(ROOT, twin(name), params, record, run_name, photographs) as mlflow_run:
        mlflow_run.tags({"int8_of": trained.lineage.run_id})
        make(floats, data, record.model_copy(update={"run_id": mlflow_run.id}), twin(name), out)
        log_model(mlflow_run, out)


@step()
def make(floats: Path, data: PreparedDataset, record: lineage.Lineage, name: str, out: Path) -> None:
    """Write the twin's folder, whole or not at all."""
    quantize.make(floats, data, record, name, out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidate", required=True, help="a name under `candidates` in params.yaml")
    run(quantize_candidate, parser.parse_args().candidate)

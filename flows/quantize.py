"""A trained candidate -> an INT8-quantized model of it, as one MLflow run.

python -m flows.quantize --model efficientnet_lite0_int8      # a name under `quantized` in params.yaml
"""

import argparse

from flows import ROOT
from flows.tasks import flow, run_stage, step
from flows.train import log_model, model_run
from pawprint.config import load_params
from pawprint.data.dataset import PreparedDataset
from pawprint.errors import PawprintError
from pawprint.training import quantize


@flow(name="quantize", flow_run_name="quantize {name}")
def quantize_model(name: str) -> None:
    """Quantize a candidate; the result is evaluated like any other model."""
    # 1. the model and its source
    params = load_params(ROOT / "params.yaml")
    if name not in params.quantized:
        raise PawprintError(f"params.yaml has no {name!r} under `quantized`. Add `{name}: <candidate>` there.")
    source, out = ROOT / "models" / params.quantized[name], ROOT / "models" / name
    data = PreparedDataset.open(ROOT / "prepared")

    # 2. quantize, log: one MLflow run
    with model_run(name, params, data) as (mlflow_run, record):
        mlflow_run.tags({"quantized_from": params.quantized[name]})
        step()(quantize.make)(source, data, record, name, out, params)
        log_model(mlflow_run, out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a name under `quantized` in params.yaml")
    name = parser.parse_args().model
    run_stage(quantize_model, f"quantize {name}", name)

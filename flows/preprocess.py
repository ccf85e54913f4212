"""data/ -> prepared/: checked, split, 300x300.

python -m flows.preprocess
"""

from prefect import flow

from flows import ROOT
from flows.tasks import run, step
from pawprint.config import Params, load_params
from pawprint.data import build, ingest


@flow(name="preprocess", flow_run_name="preprocess")
def preprocess() -> None:
    """Check every photograph, assign its split, make it 300x300 and put it into a shard."""
    params = load_params(ROOT / "params.yaml")
    photographs = ingest.dataset(ROOT / "data")
    report = prepare(photographs, params)
    rejected = len(report["rejected"])
    print(f"{report['dataset']}: {report['photographs']} photographs, {rejected} rejected; splits {report['splits']}")


@step()
def prepare(photographs: ingest.Dataset, params: Params) -> build.Report:
    """Write the prepared set."""
    return build.prepare(photographs, ROOT / "data", ROOT / "prepared", params)


if __name__ == "__main__":
    run(preprocess)

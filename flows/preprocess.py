"""data/ -> prepared/: checked, split, 300x300.

python -m flows.preprocess
"""

from prefect import flow

from flows import ROOT
from flows.steps import run, step
from pawprint.params import Params, load_params
from pawprint.photos import sources
from pawprint.prepared import write


@flow(name="preprocess", flow_run_name="preprocess")
def preprocess() -> None:
    """Check every photograph, give it a side, make it 300x300 and put it into a shard."""
    # 1. what is asked for
    params = load_params(ROOT / "params.yaml")

    # 2. what there is
    photographs = sources.dataset(ROOT / "data")

    # 3. check, split, resize, write
    report = prepare(photographs, params)

    # 4. what came out
    bad = len(report["bad"])
    print(f"{report['dataset']}: {report['photographs']} photographs, {bad} left out; sides {report['sides']}")


@step()
def prepare(photographs: sources.Dataset, params: Params) -> write.Report:
    """The prepared set, whole or not at all."""
    return write.prepare(photographs, ROOT / "data", ROOT / "prepared", params)


if __name__ == "__main__":
    run(preprocess)

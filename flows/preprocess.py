"""data/ -> prepared/: checked, split, 300x300.

python -m flows.preprocess
"""

from flows import ROOT
from flows.tasks import flow, run_stage, step
from pawprint import dvc
from pawprint.config import Params, load_params
from pawprint.data import build, inventory
from pawprint.data.class_folders import Dataset
from pawprint.progress import say


@flow(name="preprocess", flow_run_name="preprocess")
def preprocess() -> None:
    """Check every photograph, assign its split, make it 300x300 and put it into a shard."""
    params = load_params(ROOT / "params.yaml")
    photographs = inventory.dataset(ROOT / "data")
    report = prepare(photographs, params)
    for warning in report["warnings"]:
        say(f"  warning: {warning}", warning=warning)
    build.refuse_untrainable(report, params, ROOT / "prepared")
    rejected = len(report["rejected"])
    counts = {split: sum(by_class.values()) for split, by_class in report["splits"].items()}
    shown = ", ".join(f"{split} {count:,}" for split, count in counts.items())
    text = f"  {report['dataset']}: {report['photographs']:,} photographs ({shown}), {rejected:,} rejected"
    text += ": prepared/report.html" if rejected else ""
    say(text, dataset=report["dataset"], photographs=report["photographs"], rejected=rejected, splits=report["splits"])


@step()
def prepare(photographs: Dataset, params: Params) -> build.Report:
    """Write the prepared set."""
    data_hash = dvc.data_hash(ROOT) if (ROOT / "data.dvc").exists() else ""
    return build.prepare(photographs, ROOT / "data", ROOT / "prepared", params, data_hash)


if __name__ == "__main__":
    run_stage(preprocess, "preprocess")

"""One MLflow experiment a data set, and in it a run for each pipeline run, under which its trainings are folded.

experiment.of(root, "sample")             # its id
experiment.pipeline(root, "sample")       # the id of the run that stands for this `make run`; "" by hand
"""

import os
import time
from pathlib import Path

import mlflow
from mlflow.entities import RunStatus
from mlflow.exceptions import MlflowException

from pawprint.tracking import server

NOTE = "mlflow.note.content"  # the Markdown that the UI shows as a description
PARENT = "mlflow.parentRunId"

EXPERIMENT_NOTE = """\
**Every training on the photographs `{dataset}`: one run each, all judged on the same test photographs.**

To compare, tick runs and press *Compare*. What counts, by metric:

| metric | what it says | better |
|---|---|---|
| `test_log_loss` | how far the probabilities are from the truth; the gate decides by it | lower |
| `test_accuracy` | share of the test photographs that is right | higher |
| `test_calibration_error` | gap between "90 % sure" and being right 90 % of the time | lower |
| `test_worst_slice` | accuracy in the worst part of the photographs (`slice/...` has all) | higher |
| `test_robustness_loss` | accuracy lost under the worst disturbance (`robustness/...` has all) | lower |
| `test_refused`, `clutter_accepted` | test photographs called "neither"; nonsense called a class | lower |
| `latency_p50_ms`, `size_mb` | one answer, on the machine that judged; the model's files | lower |

`..._low` and `..._high` are the ends of the 95 % interval. `train_...` and `validation_...` have a point an epoch.
The parameters are those of params.yaml. Tags to filter by: `tags.candidate = 'article_cnn'`,
`tags.git_commit`, `tags.data_hash`, `tags.gate = 'promoted'`, `tags.pipeline_run` (one `make run`).

What one `make run` trained stands folded under a run of its own, whose page also names the candidates that were up to
date and not trained again.
"""


def of(root: Path, dataset: str) -> str:
    """The experiment of a data set, made where it is not there: one data set, one table to compare in."""
    client = mlflow.MlflowClient()
    found = client.get_experiment_by_name(dataset)
    if found is None:
        try:
            made = client.create_experiment(dataset, artifact_location=_location(root, dataset))
        except MlflowException:  # another stage made it in this very moment
            found = client.get_experiment_by_name(dataset)
            if found is None:
                raise
        else:
            client.set_experiment_tag(made, NOTE, EXPERIMENT_NOTE.format(dataset=dataset))
            client.set_experiment_tag(made, "mlflow.experimentPrimaryMetricName", "test_log_loss")
            client.set_experiment_tag(made, "mlflow.experimentKind", "custom_model_development")
            return str(made)
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def _location(root: Path, dataset: str) -> str | None:
    base = server.artifact_root(root)
    return f"{base}/{dataset}" if base else None


def pipeline(root: Path, dataset: str) -> str:
    """The id of the run that stands for the pipeline run of this process, made by the first who asks; "" by hand.

    It is finished from the start: its children say how they ended.
    """
    word = pipeline_word()
    if not word:
        return ""
    client, home = mlflow.MlflowClient(), of(root, dataset)
    found = client.search_runs([home], f"tags.pipeline_run = '{word}' and tags.kind = 'pipeline'", max_results=1)
    if found:
        return str(found[0].info.run_id)
    name = f"pipeline · {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}"
    made = client.create_run(home, run_name=name, tags={"pipeline_run": word, "kind": "pipeline"}).info.run_id
    client.set_terminated(made, RunStatus.to_string(RunStatus.FINISHED))
    return str(made)


def pipeline_word() -> str:
    """How the pipeline run of this process is called (Prefect's flow run id); "" where a stage was started by hand."""
    return os.environ.get("PAWPRINT_PIPELINE_RUN", "").removeprefix("pipeline ")

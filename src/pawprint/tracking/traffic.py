"""A traffic report is an MLflow run too, in an experiment of its own beside the trainings."""

from collections.abc import Mapping
from pathlib import Path

import mlflow
from mlflow.entities import RunStatus

from pawprint.tracking import runs, server


def keep(
    root: Path, dataset: str, given: Mapping[str, str], figures: Mapping[str, float], page: Path, said: str
) -> str:
    """Enter a report into the experiment `<dataset> traffic`; the run's id."""
    server.connect(root)
    client = mlflow.MlflowClient()
    name = f"{dataset} traffic"
    found = client.get_experiment_by_name(name)
    base = server.artifact_root(root)
    location = f"{base}/{dataset}-traffic" if base else None
    experiment = found.experiment_id if found else client.create_experiment(name, artifact_location=location)
    run_id = str(client.create_run(experiment, run_name=f"traffic of {given['model']}").info.run_id)
    run = runs.Run(run_id)
    run.params(given)
    run.metrics(figures)
    run.artifact(page)
    run.describe(said)
    client.set_terminated(run_id, RunStatus.to_string(RunStatus.FINISHED))
    return run_id

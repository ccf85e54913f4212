"""Which model is best: one registered model a data set, its versions, and the alias `champion`.

champion = registry.champion(root, "pawprint-sample")
version = registry.register(root, "pawprint-sample", run, info)
registry.promote(root, version)
"""

import tempfile
from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException
from pydantic import BaseModel, ConfigDict

from pawprint.errors import PawprintError
from pawprint.runtime import ModelInfo
from pawprint.tracking import server
from pawprint.tracking.runs import FOLDER, Run
from pawprint.versioning import main_workspace

CHAMPION = "champion"
CHALLENGER = "challenger"


class Champion(BaseModel):
    """champion.json: the version that the alias `champion` points at."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str  # registered model, e.g. pawprint-sample
    version: str
    run_id: str
    candidate: str
    model_digest: str
    dataset: str


def model_name(dataset: str) -> str:
    """The registered model of a data set: what learned from drawings never competes with photographs."""
    return f"pawprint-{dataset}"


def register(root: Path, name: str, run: Run, info: ModelInfo) -> Champion:
    """The version of `name` that holds this very model; made where it is not there yet.

    A model is known by its digest, so registering again (a stage run twice, a parameter turned back) gives the
    version that there was.
    """
    server.connect(root)
    client = mlflow.MlflowClient()
    try:
        client.create_registered_model(name, description=f"Classifiers of the data set `{info.lineage.dataset}`.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    found = client.search_model_versions(f"name = '{name}' and tags.model_digest = '{info.model_digest}'")
    if found:
        entry = max(found, key=lambda version: int(version.version))
    else:
        lineage = info.lineage
        entry = client.create_model_version(
            name,
            source=run.record().model_uri,
            run_id=run.id,
            tags={
                "candidate": info.candidate,
                "model_digest": info.model_digest,
                "git_commit": lineage.git_commit,
                "data_hash": lineage.data_hash,
                "dataset": lineage.dataset,
                "params_digest": lineage.params_digest,
            },
        )
    return _champion(entry)


def challenge(root: Path, version: Champion) -> None:
    """Move the alias `challenger` to `version`."""
    server.connect(root)
    mlflow.MlflowClient().set_registered_model_alias(version.model, CHALLENGER, version.version)


def champion(root: Path, name: str) -> Champion | None:
    """The reigning champion of `name`; None where there is none yet."""
    server.connect(root)
    try:
        return _champion(mlflow.MlflowClient().get_model_version_by_alias(name, CHAMPION))
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def promote(root: Path, version: Champion, because: str) -> None:
    """Move the alias `champion` to `version` and write down why."""
    server.connect(root)
    client = mlflow.MlflowClient()
    client.set_model_version_tag(version.model, version.version, "promoted_because", because)
    client.set_registered_model_alias(version.model, CHAMPION, version.version)


def folder(root: Path, version: Champion) -> Path:
    """The model folder of a version, fetched once and kept under cache/registry/ by its digest."""
    kept = main_workspace(root) / "cache" / "registry" / version.model_digest
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        download(root, version, kept)
    return kept


def download(root: Path, version: Champion, out: Path) -> None:
    """Fetch a version's model folder to `out` (complete or not at all) and check its digest."""
    server.connect(root)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        got = Path(mlflow.artifacts.download_artifacts(run_id=version.run_id, artifact_path=FOLDER, dst_path=scratch))
        info = ModelInfo.read(got)
        if info.model_digest != version.model_digest:
            raise PawprintError(
                f"{version.model} version {version.version} names model {version.model_digest[:12]} but its run "
                f"{version.run_id} holds {info.model_digest[:12]}. Register the model again or roll back."
            )
        got.rename(out)


def _champion(entry: "mlflow.entities.model_registry.ModelVersion") -> Champion:
    return Champion(
        model=entry.name,
        version=str(entry.version),
        run_id=entry.run_id or "",
        candidate=entry.tags.get("candidate", ""),
        model_digest=entry.tags.get("model_digest", ""),
        dataset=entry.tags.get("dataset", ""),
    )

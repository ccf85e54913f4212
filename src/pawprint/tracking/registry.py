"""Which model is best: one registered model a data set, its versions, and the alias `champion`.

champion = registry.champion(root, "pawprint-sample")
version = registry.register(root, "pawprint-sample", run, info)
registry.promote(root, version, "log loss 0.03 against 0.06", over=champion)    # False: somebody was faster
registry.roll_back(root, "pawprint-sample", "it calls foxes dogs")

MLflow moves an alias in one step but cannot move it "only if it still points at X". A lock of this host stands
around every look-and-move, so of two registrations at once the later one sees what the earlier did.
"""

import contextlib
import fcntl
import hashlib
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException
from pydantic import BaseModel, ConfigDict

from pawprint.dvc import main_workspace
from pawprint.errors import PawprintError
from pawprint.inference.classifier import ModelInfo
from pawprint.tracking import server
from pawprint.tracking.runs import FOLDER, Run

CHAMPION = "champion"
CHALLENGER = "challenger"
ROLLED_BACK = "rolled_back"  # tag: why a person took this version off the throne
BEAT = "beat"  # tag: the version that reigned before this one
BENTO = "bento."  # beginning of a tag: the digest of a Bento that holds this version, by the Bento's tag


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
    with _alone(root, name):
        try:
            client.create_registered_model(name, description=_about(info))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        found = client.search_model_versions(f"name = '{name}' and tags.model_digest = '{info.model_digest}'")
        if found:
            entry = max(found, key=lambda version: int(version.version))
        else:
            lineage, source = info.lineage, run.record().model_uri
            if not source:
                raise server.Unreachable(
                    f"MLflow does not hold the model of run {run.id} yet: it or its store of artifacts was away when "
                    "the model was logged. `pawprint sync` delivers it, then run again."
                )
            entry = client.create_model_version(
                name,
                source=source,
                run_id=run.id,
                model_id=source.removeprefix("models:/"),  # a server refuses a source that it cannot tie to its model
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


def describe(root: Path, version: Champion, markdown: str, tags: Mapping[str, str]) -> None:
    """What the version's page says of it, and the tags that stand beside it in the list of versions."""
    server.connect(root)
    client = mlflow.MlflowClient()
    client.update_model_version(version.model, version.version, description=markdown)
    for name, value in tags.items():
        client.set_model_version_tag(version.model, version.version, name, value)


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


def promote(root: Path, version: Champion, because: str, over: Champion | None) -> bool:
    """Move the alias `champion` to `version` and write down why.

    False, and nothing moved, where `over` (the champion that it was compared with) reigns no longer: compare again.
    """
    server.connect(root)
    client = mlflow.MlflowClient()
    with _alone(root, version.model):
        if champion(root, version.model) != over:
            return False
        client.set_model_version_tag(version.model, version.version, "promoted_because", because)
        client.set_model_version_tag(version.model, version.version, BEAT, over.version if over else "")
        client.set_registered_model_alias(version.model, CHAMPION, version.version)
    return True


def roll_back(root: Path, name: str, because: str) -> tuple[Champion, Champion]:
    """Put the previous champion back; (the one that went, the one that reigns now).

    The one that went is marked, so that the gate does not promote it again by itself.

    Raises:
        PawprintError: Nothing reigns, or nothing reigned before.
    """
    server.connect(root)
    client = mlflow.MlflowClient()
    with _alone(root, name):
        gone = champion(root, name)
        if gone is None:
            raise PawprintError(f"{name} has no champion to roll back. Run `make run` first.")
        previous, seen = gone, {gone.version}
        while previous.version in seen or rolled_back(root, previous):
            seen.add(previous.version)
            before = client.get_model_version(name, previous.version).tags.get(BEAT, "")
            if not before or before in seen:
                raise PawprintError(f"{name} version {gone.version} is the first that reigned: nothing to go back to.")
            previous = _champion(client.get_model_version(name, before))
        when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
        client.set_model_version_tag(name, gone.version, ROLLED_BACK, f"{when}: {because}")
        client.set_registered_model_alias(name, CHAMPION, previous.version)
    return gone, previous


def rolled_back(root: Path, version: Champion) -> str:
    """When and why a person took this version off the throne; "" for all others."""
    server.connect(root)
    tags = mlflow.MlflowClient().get_model_version(version.model, version.version).tags
    return str(tags.get(ROLLED_BACK, ""))


def packaged(root: Path, version: Champion, bento: str, digest: str) -> None:
    """Write down that `bento` (name:version) holds this version, and the digest of its files."""
    server.connect(root)
    name = BENTO + bento.replace(":", "/")
    mlflow.MlflowClient().set_model_version_tag(version.model, version.version, name, digest)


def bentos(root: Path, version: Champion) -> dict[str, str]:
    """Every Bento that was made of this version: tag -> digest of its files."""
    server.connect(root)
    tags = mlflow.MlflowClient().get_model_version(version.model, version.version).tags
    return {name.removeprefix(BENTO).replace("/", ":"): str(tags[name]) for name in tags if name.startswith(BENTO)}


def find(root: Path, word: str) -> Champion | None:
    """The version that a person means by `pawprint-sample/3`, `pawprint-sample@champion` or `models:/` before it."""
    server.connect(root)
    client = mlflow.MlflowClient()
    name, mark, which = word.removeprefix("models:/").replace("@", "/@").rpartition("/")
    if not mark:
        return None
    try:
        if which.startswith("@"):
            return _champion(client.get_model_version_by_alias(name, which[1:]))
        return _champion(client.get_model_version(name, which.removeprefix("v")))
    except MlflowException:
        return None


def versions(root: Path, filter_: str = "") -> list[Champion]:
    """Every registered version, newest first; `filter_` as MLflow's search takes it."""
    server.connect(root)
    found = mlflow.MlflowClient().search_model_versions(filter_ or None)
    return [_champion(entry) for entry in found if entry.name.startswith("pawprint-")]


def aliases(root: Path, version: Champion) -> list[str]:
    """The aliases that point at a version."""
    server.connect(root)
    return sorted(mlflow.MlflowClient().get_model_version(version.model, version.version).aliases)


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


@contextlib.contextmanager
def _alone(root: Path, name: str) -> Iterator[None]:
    """One process of this host at a time for one registered model; a killed one leaves no lock behind."""
    key = hashlib.sha256(f"{server.uri(root)} {name}".encode()).hexdigest()[:16]
    with (Path(tempfile.gettempdir()) / f"pawprint-{key}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _about(info: ModelInfo) -> str:
    classes = ", ".join(info.classes)
    return (
        f"Classifiers of the photographs `{info.lineage.dataset}`: {classes}.\n\n"
        "`champion` is what is served, `challenger` what was last put before the gate. Each version's tags say "
        "why it was promoted (`promoted_because`), whom it beat, or why it was rolled back.\n"
    )


def _champion(entry: "mlflow.entities.model_registry.ModelVersion") -> Champion:
    return Champion(
        model=entry.name,
        version=str(entry.version),
        run_id=entry.run_id or "",
        candidate=entry.tags.get("candidate", ""),
        model_digest=entry.tags.get("model_digest", ""),
        dataset=entry.tags.get("dataset", ""),
    )

"""Registered models: one a data set, its versions, and the alias `champion`.

registry = Tracker(root).registry
version = registry.register("pawprint-sample", run, info)
registry.promote(version, "log loss 0.03 against 0.06", over=champion)    # False: another registration was faster
registry.roll_back("pawprint-sample", "it calls foxes dogs")

MLflow moves an alias atomically but cannot move it "only if it still points at X". A lock of this workspace is held
around every comparison and move, so of two registrations at once the later one sees what the earlier did.
"""

import re
import tempfile
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
from filelock import FileLock
from mlflow.exceptions import MlflowException

from pawprint import files
from pawprint.errors import PawprintError
from pawprint.inference.classifier import ModelInfo
from pawprint.lineage import Champion
from pawprint.tracking.run import FOLDER, Run, shortened
from pawprint.tracking.server import Unreachable

if TYPE_CHECKING:
    from pawprint.tracking.tracker import Tracker

CHAMPION = "champion"
CHALLENGER = "challenger"
ROLLED_BACK = "rolled_back"  # tag: when and why a person rolled this version back
BEAT = "beat"  # tag: the version that was champion before this one
HISTORY = "champions"  # tag of the registered model: the versions that were champion, oldest first
BENTO = "bento."  # beginning of a tag: the digest of a Bento that holds this version, by the Bento's tag
LINEAGE = {"git_commit", "data_hash", "dataset", "params_digest"}  # tags of a version, beside candidate and digest
LOOK = "look."  # beginning of a registered model's tag: a test side, and a model that was compared on it
METRIC = "metric."  # beginning of a tag: a figure on the test photographs
_LENGTH = 5000  # characters of a description


def model_name(dataset: str) -> str:
    """The registered model of a data set: a model of drawings never competes with one of photographs."""
    return f"pawprint-{dataset}"


class Registry:
    """See the module."""

    def __init__(self, tracker: "Tracker") -> None:
        self._tracker = tracker

    @property
    def _client(self) -> mlflow.MlflowClient:
        return self._tracker.client

    def register(self, name: str, run: Run, info: ModelInfo) -> Champion:
        """The version of `name` that holds this model, created where it does not exist.

        A model is known by its digest, so registering again (a stage run twice, a parameter changed back) gives the
        version that exists.
        """
        with self._lock(name):
            try:
                self._client.create_registered_model(name, description=shortened(_description(info), _LENGTH))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            found = self._client.search_model_versions(f"name = '{name}' and tags.model_digest = '{info.model_digest}'")
            if found:
                return _champion(max(found, key=lambda version: int(version.version)))
            source = run.model_uri
            if not source:
                raise Unreachable(
                    f"MLflow does not hold the model of run {run.id} yet: it or its store of artifacts was away when "
                    "the model was logged. `pawprint sync` uploads it, then run again."
                )
            entry = self._client.create_model_version(
                name,
                source=source,
                run_id=run.id,
                model_id=source.removeprefix("models:/"),  # a server refuses a source that it cannot tie to its model
                tags=info.model_dump(include={"candidate", "model_digest"}) | info.lineage.model_dump(include=LINEAGE),
            )
        return _champion(entry)

    def describe(self, version: Champion, markdown: str, tags: Mapping[str, str]) -> None:
        """Set the version's description, and the tags that the list of versions shows."""
        self._client.update_model_version(version.model, version.version, description=shortened(markdown, _LENGTH))
        self._tag(version, tags)

    def record_metrics(self, version: Champion, metrics: Mapping[str, float]) -> None:
        """Keep the figures that the service answers at /model."""
        self._tag(version, {f"{METRIC}{name}": f"{value:.6g}" for name, value in metrics.items()})

    def count_look(self, version: Champion, side: str) -> int:
        """How many models have been compared on the test side `side` (a digest of how it is drawn), this one too."""
        with self._lock(version.model):
            begins = f"{LOOK}{side[:12]}."
            name = f"{begins}{version.model_digest[:12]}"
            self._client.set_registered_model_tag(version.model, name, version.version)
            tags = self._client.get_registered_model(version.model).tags
        return sum(tag.startswith(begins) for tag in tags)

    def challenge(self, version: Champion) -> None:
        self._client.set_registered_model_alias(version.model, CHALLENGER, version.version)

    def current_champion(self, name: str) -> Champion | None:
        """The current champion of `name`; None where there is none yet."""
        try:
            return _champion(self._client.get_model_version_by_alias(name, CHAMPION))
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise

    def promote(self, version: Champion, reason: str, over: Champion | None) -> bool:
        """Move the alias `champion` to `version` and record why.

        False, and nothing moved, where `over` (which it was compared with) is not the current champion any more.
        """
        with self._lock(version.model):
            current = self.current_champion(version.model)
            if (current and current.version) != (over and over.version):
                return False
            self._tag(version, {"promoted_because": reason, BEAT: over.version if over else ""})
            self._make_champion(version)
        return True

    def _make_champion(self, version: Champion) -> None:
        """Move the alias and keep its history: MLflow keeps none."""
        history = ",".join([*self._history(version.model), version.version])
        self._client.set_registered_model_alias(version.model, CHAMPION, version.version)
        self._client.set_registered_model_tag(version.model, HISTORY, history)

    def _history(self, name: str) -> list[str]:
        """The versions that have been champion, oldest first; the last is the current one, also one set by hand."""
        kept = self._client.get_registered_model(name).tags.get(HISTORY, "")
        entries = self._client.search_model_versions(f"name = '{name}'")
        promoted = sorted(int(entry.version) for entry in entries if "promoted_because" in entry.tags)
        history = kept.split(",") if kept else [str(version) for version in promoted]
        current = self.current_champion(name)
        if current and current.version not in history[-1:]:
            history.append(current.version)
        existing = {str(entry.version) for entry in entries}
        return [version for version in history if version in existing]

    def roll_back(self, name: str, reason: str) -> tuple[Champion, Champion]:
        """Make the previous champion the current one; (the one before, the one now).

        The one before is marked, so that the gate does not promote it again by itself.

        Raises:
            PawprintError: There is no champion, or none before it.
        """
        with self._lock(name):
            gone = self.current_champion(name)
            if gone is None:
                raise PawprintError(f"{name} has no champion to roll back. Run `make run` first.")
            versions = (
                _champion(self._client.get_model_version(name, version)) for version in reversed(self._history(name))
            )
            usable = (
                one
                for one in versions
                if one.model_digest and one.version != gone.version and not self.rolled_back(one)
            )
            previous = next(usable, None)
            if previous is None:
                raise PawprintError(
                    f"{name} version {gone.version} is the first champion that was not rolled back: there is none "
                    "before it."
                )
            when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
            self._tag(gone, {ROLLED_BACK: f"{when}: {reason}"})
            self._make_champion(previous)
        return gone, previous

    def rolled_back(self, version: Champion) -> str:
        """When and why a person rolled this version back; "" for all others."""
        return self._tags(version).get(ROLLED_BACK, "")

    def packaged(self, version: Champion, bento: str, digest: str) -> None:
        """Record that `bento` (name:version) holds this version, and the digest of its files."""
        self._tag(version, {BENTO + bento.replace(":", "/"): digest})

    def bentos(self, version: Champion) -> dict[str, str]:
        """Every Bento that was made of this version: tag -> digest of its files."""
        tags = self._tags(version)
        return {name.removeprefix(BENTO).replace("/", ":"): tags[name] for name in tags if name.startswith(BENTO)}

    def find(self, word: str) -> Champion | None:
        """The version that a person means by `pawprint-sample/3`, `pawprint-sample@champion`, with or without
        `models:/`."""
        name, mark, which = word.removeprefix("models:/").replace("@", "/@").rpartition("/")
        if not mark:
            return None
        try:
            if which.startswith("@"):
                return _champion(self._client.get_model_version_by_alias(name, which[1:]))
            return _champion(self._client.get_model_version(name, which.removeprefix("v")))
        except MlflowException:
            return None

    def versions(self, filter_: str = "") -> list[Champion]:
        """Every registered version, newest first; `filter_` as MLflow's search takes it."""
        found = self._client.search_model_versions(filter_ or None)
        return [_champion(entry) for entry in found if entry.name.startswith("pawprint-")]

    def aliases(self, version: Champion) -> list[str]:
        return sorted(self._client.get_model_version(version.model, version.version).aliases)

    def folder(self, version: Champion) -> Path:
        """The model folder of a version, fetched once and kept under cache/registry/ by its digest.

        Raises:
            PawprintError: the version's run holds another model.
        """
        if not version.model_digest:
            raise PawprintError(
                f"{version.model} version {version.version} was registered by hand: no tag `model_digest` says which "
                f"model it holds. Point the alias at another version (`pawprint rollback`, or the MLflow UI), or train "
                "the model here."
            )
        kept = self._tracker.workspace / "cache" / "registry" / version.model_digest
        if kept.exists():
            return kept
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent, prefix=f".{kept.name}-") as scratch:
            fetched = Path(self._client.download_artifacts(version.run_id, FOLDER, scratch))
            info = ModelInfo.read(fetched)
            if version.model_digest not in (info.model_digest, info.onnx_digest):  # the second: registered before
                raise PawprintError(
                    f"{version.model} version {version.version} names model {version.model_digest[:12]} but its run "
                    f"{version.run_id} holds {info.model_digest[:12]}. Register the model again or roll back."
                )
            if not kept.exists():
                fetched.rename(kept)
        return kept

    def _tags(self, version: Champion) -> dict[str, str]:
        return dict(self._client.get_model_version(version.model, version.version).tags)

    def _tag(self, version: Champion, tags: Mapping[str, str]) -> None:
        for name, value in tags.items():
            self._client.set_model_version_tag(version.model, version.version, name, value)

    def _lock(self, name: str) -> AbstractContextManager[FileLock]:
        """One process of this workspace at a time for one registered model."""
        safe = re.sub(r"[^\w.-]", "_", name)
        return files.lock(self._tracker.workspace / "cache" / "locks" / f"{safe}.lock", timeout=-1)


def _description(info: ModelInfo) -> str:
    classes = ", ".join(info.classes)
    return (
        f"Classifiers of the photographs `{info.lineage.dataset}`: {classes}.\n\n"
        "`champion` is served, `challenger` was judged last by the gate. The tags of each version say why it was "
        "promoted (`promoted_because`), which version it beat, or why it was rolled back.\n"
    )


def _champion(entry: Any) -> Champion:
    tags = entry.tags
    return Champion(
        model=entry.name,
        version=str(entry.version),
        run_id=entry.run_id or "",
        candidate=tags.get("candidate", ""),
        model_digest=tags.get("model_digest", ""),
        dataset=tags.get("dataset", ""),
        metrics={name.removeprefix(METRIC): float(tags[name]) for name in sorted(tags) if name.startswith(METRIC)},
    )

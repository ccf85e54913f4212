"""`pawprint trace X`: from a prediction down to its photographs, and from a photograph up to its models and Bentos.

    tree = trace(Path("."), "pawprint-sample@champion")
    list(tree.broken())                             # every link whose digest does not match

X is the id of a prediction, a Bento tag, a model version (`pawprint-sample/3`) or alias (`pawprint-sample@champion`), a
run's id, its first letters or its name, a candidate, a photograph's path or SHA-256, or a git commit, branch or tag.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field

from pawprint import dvc, lineage
from pawprint.data import manifest as manifests
from pawprint.data import origins
from pawprint.data.dataset import PreparedDataset
from pawprint.data.inbox import TRAFFIC
from pawprint.data.labels import FILE as LABELS
from pawprint.data.labels import Labels
from pawprint.errors import PawprintError
from pawprint.inference.classifier import ModelInfo
from pawprint.lineage import Champion
from pawprint.serving import bento, traffic
from pawprint.tracking.run import FOLDER
from pawprint.tracking.tracker import FILTERED, Tracker

State = Literal["proved", "broken", "unproved"]  # unproved: nothing here to prove it with


class Link(BaseModel):
    """One thing in the chain, what is known of it, what it was made from and what was made of it."""

    kind: str  # "prediction", "Bento", "version", "run", "commit", "data", "photographs", "photograph", ...
    name: str
    state: State = "proved"
    note: str = Field(default="", serialization_alias="said")  # why it is broken or unproved, or a word on it
    links: list["Link"] = []  # down: what it was made from
    led_to: list["Link"] = []  # up: what was made of it

    def broken(self) -> Iterator["Link"]:
        """Every broken link, from here on."""
        if self.state == "broken":
            yield self
        for link in (*self.links, *self.led_to):
            yield from link.broken()

    def as_json(self) -> str:
        """The tree as JSON, with `intact` on top."""
        return json.dumps({"intact": not any(self.broken()), **self.model_dump(by_alias=True)}, indent=1)


def trace(root: Path, word: str) -> Link:
    """The chain of whatever `word` names.

    Raises:
        PawprintError: It names nothing that is known here.
    """
    tracer = _Tracer(root)
    tracker = tracer.tracker
    if ":" in word and not word.startswith("models:") and (folder := bento.folder(word)):
        return tracer.bento(word, folder)
    if version := tracker.registry.find(word):
        return tracer.version(version)
    if prediction := traffic.find_prediction(word):
        return tracer.prediction(prediction)
    if photograph := tracer.photograph(word):
        return photograph
    if len(word) >= 4 and (found := tracker.find_run(word)):
        return tracer.run(found, up=True)
    if commit := lineage.commit_of(root, word):
        trained = [tracer.run(run, up=True) for run in tracker.search_runs(f"tags.git_commit = '{commit}'")]
        made = f"{len(trained)} run{'s' * (len(trained) != 1)} made from it"
        return Link(kind="commit", name=commit, note=made, led_to=trained)
    raise PawprintError(
        f"{word!r} is no prediction, Bento tag, model version, alias, run, candidate, photograph or commit that is "
        "known here. "
        "`pawprint trace pawprint-<data set>@champion` traces the current champion."
    )


class _Tracer:
    """A method a kind of link. With `up` a link has what was made of it too."""

    def __init__(self, root: Path) -> None:
        self.root, self.tracker = root, Tracker(root)
        self.registry = self.tracker.registry

    def prediction(self, row: Mapping[str, str]) -> Link:
        """A prediction of the service, its picture (one of the prepared set or not), and the model version."""
        note = self._prepared(row["picture_sha256"]) or "none of the prepared photographs"
        picture = Link(kind="picture", name=row["picture_sha256"], note=note)
        kept = row.get("picture") or row["picture_sha256"]  # without its metadata it has another hash
        where = [Link(kind="photograph", name=one.file or "dropped") for one in origins.of(self.root / "data", kept)]
        picture.led_to = [*self._decisions(kept), *where]
        name, source = f"{row['model']}/{row['model_version']}", f"the prediction came from {row['model_digest'][:12]}"
        below = self._version_of(self.registry.find(name), name, row["model_digest"], source, up=True)
        return Link(kind="prediction", name=row["id"], note=f"{row['label']}, {row['time']}", links=[picture, below])

    def bento(self, tag: str, folder: Path) -> Link:
        """A Bento and the version in it, each against its record in the registry."""
        inside = folder / "src" / "champion"
        try:
            champion = Champion.read(inside)
            info = ModelInfo.read(inside)
            whole = lineage.sha256(inside / "model.onnx") == info.onnx_digest
        except (OSError, PawprintError) as error:
            return Link(kind="Bento", name=tag, state="broken", note=str(error))
        name = f"{champion.model}/{champion.version}"
        version = self.registry.find(name)
        link = Link(kind="Bento", name=tag)
        if not whole or champion.model_digest not in (info.model_digest, info.onnx_digest):
            held = info.model_digest[:12] if whole else "another model.onnx than its model.json describes"
            link.state, link.note = "broken", f"it holds model {held} but names {champion.model_digest[:12]}"
        elif version:
            link = _checked_bento(tag, folder, self.registry.bentos(version).get(tag, ""))
        source = f"the Bento {champion.model_digest[:12]}"
        link.links.append(self._version_of(version, name, champion.model_digest, source, up=False))
        return link

    def _version_of(self, version: Champion | None, name: str, digest: str, source: str, *, up: bool) -> Link:
        """The version that a prediction or a Bento names, broken where its model has not the `digest` of the source."""
        if version is None:
            return Link(kind="version", name=name, state="unproved", note="not registered here")
        link = self.version(version, up)
        if version.model_digest != digest:
            link.state, link.note = "broken", f"the registry records model {version.model_digest[:12]}, {source}"
        return link

    def version(self, version: Champion, up: bool = True) -> Link:
        """A registered version and its run, and the Bentos that were made of it."""
        notes = [version.candidate, *(f"@{alias}" for alias in self.registry.aliases(version))]
        if because := self.registry.rolled_back(version):
            notes.append(f"rolled back {because}")
        return Link(
            kind="version",
            name=f"{version.model}/{version.version}",
            note=", ".join(notes),
            links=[self.run(version.run_id, version.model_digest)],
            led_to=self._bentos(version) if up else [],
        )

    def _bentos(self, version: Champion) -> list[Link]:
        links = []
        for tag, digest in self.registry.bentos(version).items():
            if folder := bento.folder(tag):
                links.append(_checked_bento(tag, folder, digest))
            else:
                links.append(Link(kind="Bento", name=tag, state="unproved", note="not in BentoML's store here"))
        return links

    def run(self, run_id: str, expected: str = "", up: bool = False) -> Link:
        """A run, its model and what both were made from; `expected` is the digest that the registry names."""
        tags = self.tracker.run_tags(run_id)
        if tags is None:
            return Link(kind="run", name=run_id, state="broken", note="MLflow has no such run")
        link = Link(kind="run", name=run_id, note=tags.get("mlflow.runName", ""))
        for version in self.registry.versions(f"run_id = '{run_id}'") if up else ():
            name = f"{version.model}/{version.version}"
            link.led_to.append(Link(kind="version", name=name, note=version.candidate, led_to=self._bentos(version)))
        try:
            folder = self.tracker.artifact(run_id, FOLDER)
            info = ModelInfo.read(folder) if folder else None
        except PawprintError as error:
            link.links.append(Link(kind="model", name=expected[:12], state="broken", note=str(error)))
            return link
        if folder is None or info is None:
            link.links.append(Link(kind="model", name=expected[:12], state="unproved", note="the run keeps no model"))
            return link
        model = Link(kind="model", name=info.model_digest, note=f"{info.candidate}, {', '.join(info.classes)}")
        if problems := [*_model_problems(folder, info, run_id, tags, expected)]:
            model.state, model.note = "broken", "; ".join(problems)
        link.links += [model, self._commit(run_id, info.lineage), self._photographs(run_id, folder, info.lineage)]
        return link

    def _commit(self, run_id: str, record: lineage.Lineage) -> Link:
        """The commit, and what the record names by digest: data, code, parameters, packages, each against it."""
        commit = record.git_commit
        link = Link(kind="commit", name=commit or "none")
        known = bool(commit and lineage.commit_of(self.root, commit))
        if not known:
            link.state, link.note = "unproved", lineage.why_unknown(self.root, commit)
        elif record.git_dirty:
            link.note = "with uncommitted changes"

        def compare(kind: str, recorded: str, digest_at: Callable[[str], str], name: str = "") -> Link:
            committed = digest_at(commit) if known and recorded else ""
            below = Link(kind=kind, name=name or recorded[:12] or "none", note="as in that commit")
            if not committed:
                below.state, below.note = "unproved", "only its commit could prove it"
            elif recorded != committed and record.git_dirty:
                below.state, below.note = "unproved", "changed and not committed"
            elif recorded != committed:
                below.state, below.note = "broken", f"that commit has {committed[:12]}"
            return below

        def file_digest(path: str) -> Callable[[str], str]:
            def digest_at(commit: str) -> str:
                content = lineage.at_commit(self.root, commit, path)
                return hashlib.sha256(content).hexdigest() if content else ""

            return digest_at

        data = f"{record.dataset} {record.data_hash}"
        link.links.append(compare("data", record.data_hash, lambda commit: dvc.data_hash(self.root, commit), data))
        if record.code_digest:
            link.links.append(compare("code", record.code_digest, lambda commit: dvc.code_digest(self.root, commit)))
        params, lock = (
            lineage.sha256(copy) if (copy := self.tracker.artifact(run_id, path)) else ""
            for path in ("params.yaml", "environment/requirements.lock")
        )
        link.links.append(compare("params", params, file_digest("params.yaml")))
        packages = compare("packages", record.lock_digest, file_digest("requirements.lock"))
        if lock not in ("", record.lock_digest):
            packages.state = "broken"
            packages.note = f"the run keeps {lock[:12]}, the lineage names {record.lock_digest[:12]}"
        link.links.append(packages)
        return link

    def _photographs(self, run_id: str, folder: Path, record: lineage.Lineage) -> Link:
        """The photographs that the model learned from, against the manifest that the record names."""
        claimed = lineage.claimed(folder)
        link = Link(kind="photographs", name=f"{len(claimed)} trained on or validated with")
        kept, here = self.tracker.manifest(run_id, record.manifest_digest), self.root / "prepared" / manifests.FILE
        found = (path for path in (kept, here) if path and manifests.is_manifest(path, record.manifest_digest))
        manifest = next(found, None)
        if kept and kept != manifest:
            link.state, link.note = "broken", "the run's manifest is not the one that the lineage names"
        elif manifest is None:
            link.state, link.note = "unproved", f"manifest {record.manifest_digest[:12]} is not kept"
        elif manifests.learned_hashes(manifest) != claimed:
            link.state, link.note = "broken", "photographs.txt does not list the photographs of the manifest"
        else:
            trained = len(manifests.read(manifest).of_splits("train"))
            link.name = f"{trained} trained on, {len(claimed) - trained} validated with"
            link.note = f"as in manifest {record.manifest_digest[:12]}"
        return link

    def photograph(self, word: str) -> Link | None:
        """Up from a photograph's path or hash: every registered version that used it to train, each with its chain.

        None where `word` is no file, and no hash of a prepared photograph.
        """
        path = Path(word)
        digest = lineage.sha256(path) if path.is_file() else word
        if not re.fullmatch(r"[0-9a-f]{64}", digest):
            return None
        note, history = self._prepared(digest), [*self._origins(digest), *self._decisions(digest)]
        if not note and not history and not path.is_file():
            return None
        link = Link(kind="photograph", name=digest, links=history)
        for version in self.registry.versions():
            names = self.tracker.artifact(version.run_id, f"{FOLDER}/photographs.txt")
            if names and digest in names.read_text(encoding="ascii").split():
                link.led_to.append(self.version(version))
        models = len(link.led_to)
        link.note = f"{note or 'not among the prepared photographs'}; "
        link.note += f"{models} registered version{'s' * (models != 1)} trained on it or validated with it"
        return link

    def _origins(self, digest: str) -> Iterator[Link]:
        """Where a photograph of data/ came from; the answer, where it came from the service."""
        for row in origins.of(self.root / "data", digest):
            link = Link(kind="origin", name=row.source, note=f"{row.name}, {row.file or 'dropped'}")
            if row.source.startswith(TRAFFIC):
                answer = traffic.find_prediction(row.name)
                said = f"{answer['label']}, {answer['time']}" if answer else "not in the traffic log any more"
                link.links.append(Link(kind="answer", name=row.name, note=said))
            yield link

    def _decisions(self, digest: str) -> list[Link]:
        """What people decided of a photograph."""
        return [
            Link(kind="decision", name=one.outcome or "nothing", note=f"{one.who}, {one.when}, {one.why}")
            for one in Labels(self.root / LABELS).of(digest)
        ]

    def _prepared(self, digest: str) -> str:
        """Path, split and data set of a prepared photograph; "" where it does not have it, or is not there."""
        try:
            data = PreparedDataset.open(self.root / "prepared")
        except PawprintError:
            return ""
        found = (row for row in data.rows if row.hash == digest)
        return next((f"{row.origin}, {row.split} split of {data.dataset}" for row in found), "")


def _checked_bento(tag: str, folder: Path, recorded: str) -> Link:
    """A Bento against the digest that the registry has recorded at its build."""
    found = lineage.bento_digest(folder)
    link = Link(kind="Bento", name=tag, note=f"digest {found[:12]}, as at its build")
    if not recorded:
        link.state, link.note = "unproved", f"digest {found[:12]}, which the registry does not record"
    elif found != recorded:
        link.state = "broken"
        link.note = f"its files have digest {found[:12]}, at its build it was {recorded[:12]}"
    return link


def _model_problems(
    folder: Path, info: ModelInfo, run_id: str, tags: Mapping[str, str], expected: str
) -> Iterator[str]:
    """Where a run's model folder, its model.json, the run's tags and the registry contradict each other."""
    for name, digest in (("model.onnx", info.onnx_digest), ("model.safetensors", info.weights_digest)):
        if not (folder / name).is_file() or lineage.sha256(folder / name) != digest:
            yield f"{name} is not the file that model.json describes"
    if expected and expected != info.model_digest:
        yield f"the registry names model {expected[:12]}"
    trained = info.lineage.run_id
    if run_id not in (trained, "") and tags.get("restored_from", "") != trained:
        yield f"model.json names run {trained[:12]}"
    for name, value in info.lineage.model_dump(exclude={"run_id", "execution"}).items():
        recorded = tags.get(name if name in FILTERED else f"lineage.{name}", str(value))
        if recorded != str(value):
            yield f"the run records {name} {recorded[:12]}, the model {str(value)[:12]}"

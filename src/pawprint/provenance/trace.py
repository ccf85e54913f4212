"""`pawprint trace X`: from a prediction down to its photographs, and from a photograph up to its models and Bentos.

    tree = trace(Path("."), "pawprint-sample@champion", Served(bento.folder, find_prediction))
    list(tree.broken())                             # every link whose digest does not match

X is the id of a prediction, a Bento tag, a model version (`pawprint-sample/3`) or alias (`pawprint-sample@champion`), a
run id or its first letters, a photograph's path or SHA-256, or a git commit.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from pawprint import dvc, lineage
from pawprint.data.dataset import PreparedDataset, learned_hashes
from pawprint.errors import PawprintError
from pawprint.inference.classifier import ModelInfo
from pawprint.lineage import Champion
from pawprint.tracking.run import FOLDER, MANIFEST
from pawprint.tracking.tracker import Tracker

State = Literal["proved", "broken", "unproved"]  # unproved: nothing here to prove it with


class Link(BaseModel):
    """One thing in the chain, what is known of it, what it was made from and what was made of it."""

    kind: str  # "prediction", "Bento", "version", "run", "commit", "data", "photographs", "photograph", ...
    name: str
    state: State = "proved"
    note: str = ""  # why it is broken or unproved, or a word on it
    links: list["Link"] = []  # down: what it was made from
    led_to: list["Link"] = []  # up: what was made of it

    def broken(self) -> Iterator["Link"]:
        """Every broken link, from here on."""
        if self.state == "broken":
            yield self
        for link in (*self.links, *self.led_to):
            yield from link.broken()


@dataclass(frozen=True)
class Served:
    """Look-ups that only the serving package has; the command line passes them in."""

    bento: Callable[[str], Path | None]  # the folder of a Bento tag
    prediction: Callable[[str], Mapping[str, str] | None]  # a row of the traffic log, by its id


def trace(root: Path, word: str, served: Served) -> Link:
    """The chain of whatever `word` names.

    Raises:
        PawprintError: It names nothing that is known here.
    """
    tracker = Tracker(root)
    if ":" in word and not word.startswith("models:") and (folder := served.bento(word)):
        return _bento(tracker, word, folder)
    if version := tracker.registry.find(word):
        return _version(tracker, version, served)
    if prediction := served.prediction(word):
        return _prediction(tracker, prediction, served)
    if photograph := _photograph_hash(tracker, word):
        return _photograph(tracker, *photograph, served)
    if re.fullmatch(r"[0-9a-f]{4,64}", word):
        if found := tracker.find_run(word):
            return _run(tracker, found, served=served)
        if commit := lineage.commit_of(tracker.root, word):
            trained = [_run(tracker, id, served=served) for id in tracker.search_runs(f"tags.git_commit = '{commit}'")]
            made = f"{len(trained)} run{'s' * (len(trained) != 1)} made from it"
            return Link(kind="commit", name=commit, note=made, led_to=trained)
    raise PawprintError(
        f"{word!r} is no prediction, Bento tag, model version, alias, run, photograph or commit that is known here. "
        "`pawprint trace pawprint-<data set>@champion` traces the current champion."
    )


def _prediction(tracker: Tracker, prediction: Mapping[str, str], served: Served) -> Link:
    """A prediction of the service, the picture where it is one of the prepared set, and the model version."""
    link = Link(kind="prediction", name=prediction["id"], note=f"{prediction['label']}, {prediction['time']}")
    note = _known(tracker, prediction["picture_sha256"]) or "none of the prepared photographs"
    link.links.append(Link(kind="picture", name=prediction["picture_sha256"], note=note))
    named, digest = f"{prediction['model']}/{prediction['model_version']}", prediction["model_digest"]
    version = tracker.registry.find(named)
    if version is None:
        link.links.append(Link(kind="version", name=named, state="unproved", note="not registered here"))
        return link
    below = _version(tracker, version, served)
    if version.model_digest != digest:
        below.state = "broken"
        below.note = f"the registry says model {version.model_digest[:12]}, the prediction came from {digest[:12]}"
    link.links.append(below)
    return link


def _bento(tracker: Tracker, tag: str, folder: Path) -> Link:
    """A Bento and the version in it, each against its record in the registry."""
    link = Link(kind="Bento", name=tag)
    inside = folder / "src" / "champion"
    try:
        champion = Champion.model_validate_json((inside / "champion.json").read_bytes())
        info = ModelInfo.read(inside)
        held = lineage.sha256(inside / "model.onnx")
    except (OSError, ValueError, PawprintError) as error:
        return link.model_copy(update={"state": "broken", "note": str(error)})
    if not held == info.model_digest == champion.model_digest:
        link.state = "broken"
        link.note = f"it holds model {held[:12]} but names {champion.model_digest[:12]}"
    version = tracker.registry.find(f"{champion.model}/{champion.version}")
    if version is None:
        name = f"{champion.model}/{champion.version}"
        link.links.append(Link(kind="version", name=name, state="unproved", note="not registered"))
        return link
    if link.state == "proved":
        _check_bento(link, folder, tracker.registry.bentos(version).get(tag, ""))
    below = _version(tracker, version)
    if version.model_digest != champion.model_digest:
        below.state = "broken"
        below.note = f"the registry says {version.model_digest[:12]}, the Bento {champion.model_digest[:12]}"
    link.links.append(below)
    return link


def _check_bento(link: Link, folder: Path, recorded: str) -> None:
    found = lineage.bento_digest(folder)
    if not recorded:
        link.state, link.note = "unproved", f"digest {found[:12]}, which the registry does not record"
    elif found != recorded:
        link.state = "broken"
        link.note = f"its files have digest {found[:12]}, at its build it was {recorded[:12]}"
    else:
        link.note = f"digest {found[:12]}, as at its build"


def _version(tracker: Tracker, version: Champion, served: Served | None = None) -> Link:
    """A registered version, its run, and (where `served` tells) the Bentos that were made of it."""
    marks = [f"@{alias}" for alias in tracker.registry.aliases(version)]
    if because := tracker.registry.rolled_back(version):
        marks.append(f"rolled back {because}")
    link = Link(kind="version", name=f"{version.model}/{version.version}", note=", ".join([version.candidate, *marks]))
    link.links.append(_run(tracker, version.run_id, expected=version.model_digest))
    link.led_to += _bentos_of(tracker, version, served)
    return link


def _bentos_of(tracker: Tracker, version: Champion, served: Served | None) -> list[Link]:
    found = []
    for tag, digest in tracker.registry.bentos(version).items() if served else ():
        folder = served.bento(tag) if served else None
        link = Link(kind="Bento", name=tag, state="unproved", note="not in BentoML's store here")
        if folder:
            link = Link(kind="Bento", name=tag)
            _check_bento(link, folder, digest)
        found.append(link)
    return found


def _run(tracker: Tracker, run_id: str, expected: str = "", served: Served | None = None) -> Link:
    """A run, its model and what both were made from; `expected` is the digest that the registry names.

    Where `served` is given, what was made of the run too: versions and their Bentos.
    """
    tags = tracker.run_tags(run_id)
    if tags is None:
        return Link(kind="run", name=run_id, state="broken", note="MLflow has no such run")
    link = Link(kind="run", name=run_id, note=tags.get("mlflow.runName", ""))
    for version in tracker.registry.versions(f"run_id = '{run_id}'") if served else ():
        up = Link(kind="version", name=f"{version.model}/{version.version}", note=version.candidate)
        up.led_to += _bentos_of(tracker, version, served)
        link.led_to.append(up)
    folder = tracker.artifact(run_id, FOLDER)
    if folder is None:
        link.links.append(Link(kind="model", name=expected[:12], state="unproved", note="the run keeps no model"))
        return link
    try:
        info = ModelInfo.read(folder)
    except PawprintError as error:
        link.links.append(Link(kind="model", name=expected[:12], state="broken", note=str(error)))
        return link
    record = info.lineage
    model = Link(kind="model", name=info.model_digest, note=f"{info.candidate}, {', '.join(info.classes)}")
    problems = [
        f"{name} is not the file that model.json describes"
        for name, digest in (("model.onnx", info.model_digest), ("model.safetensors", info.weights_digest))
        if not (folder / name).is_file() or lineage.sha256(folder / name) != digest
    ]
    if expected and expected != info.model_digest:
        problems.append(f"the registry names model {expected[:12]}")
    if run_id not in (record.run_id, "") and tags.get("restored_from", "") != record.run_id:
        problems.append(f"model.json names run {record.run_id[:12]}")
    note = {name: str(value) for name, value in record.model_dump(exclude={"run_id"}).items()}
    problems += [
        f"the run says {name} {tags[name][:12]}, the model {value[:12]}"
        for name, value in note.items()
        if tags.get(name, value) != value
    ]
    if problems:
        model.state, model.note = "broken", "; ".join(problems)
    link.links += [model, _commit(tracker, run_id, record), _photographs(tracker, run_id, folder, record)]
    return link


def _commit(tracker: Tracker, run_id: str, record: lineage.Lineage) -> Link:
    """The commit, and what the record names by digest: data, code, parameters, packages, each against that commit."""
    root, commit = tracker.root, record.git_commit
    link = Link(kind="commit", name=commit or "none")
    known = bool(commit and lineage.commit_of(root, commit))
    if not known:
        link.state, link.note = "unproved", "not in this repository"
    elif record.git_dirty:
        link.note = "with uncommitted changes"

    def compare(kind: str, named: str, committed: Callable[[], str], name: str = "") -> None:
        there = committed() if known else ""
        below = Link(kind=kind, name=name or named[:12] or "none")
        if not there or not named:
            below.state, below.note = "unproved", "only its commit could prove it"
        elif named == there:
            below.note = "as in that commit"
        elif record.git_dirty:
            below.state, below.note = "unproved", "changed and not committed"
        else:
            below.state, below.note = "broken", f"that commit has {there[:12]}"
        link.links.append(below)

    def committed_file(path: str) -> str:
        content = lineage.at_commit(root, commit, path)
        return hashlib.sha256(content).hexdigest() if content else ""

    data = f"{record.dataset} {record.data_hash}"
    compare("data", record.data_hash, partial(dvc.data_hash, root, commit), data)
    if record.code_digest:
        compare("code", record.code_digest, partial(dvc.code_digest, root, commit))
    for kind, path, named in (
        ("params", "params.yaml", ""),
        ("packages", "environment/requirements.lock", record.lock_digest),
    ):
        copy = tracker.artifact(run_id, path)
        held = lineage.sha256(copy) if copy else ""
        if named and held and held != named:
            note = f"the run keeps {held[:12]}, the lineage names {named[:12]}"
            link.links.append(Link(kind=kind, name=named, state="broken", note=note))
        else:
            compare(kind, named or held, partial(committed_file, Path(path).name))
    return link


def _photographs(tracker: Tracker, run_id: str, folder: Path, record: lineage.Lineage) -> Link:
    claimed = lineage.claimed(folder)
    link = Link(kind="photographs", name=f"{len(claimed)} learned from")
    kept = tracker.artifact(run_id, MANIFEST)
    if kept is not None and not lineage.is_manifest(kept, record):
        link.state, link.note = "broken", "the run's manifest is not the one that the lineage names"
        return link
    here = tracker.root / "prepared" / "manifest.csv"
    manifest = kept or (here if lineage.is_manifest(here, record) else None)
    if manifest is None:
        link.state, link.note = "unproved", f"manifest {record.manifest_digest[:12]} is not kept"
    elif learned_hashes(manifest) != claimed:
        link.state, link.note = "broken", "photographs.txt does not name what the manifest says"
    else:
        link.note = f"as manifest {record.manifest_digest[:12]} says"
    return link


def _photograph_hash(tracker: Tracker, word: str) -> tuple[str, str] | None:
    """(SHA-256, what is note of it) of a photograph's path or hash."""
    path = Path(word)
    digest = lineage.sha256(path) if path.is_file() else word if re.fullmatch(r"[0-9a-f]{64}", word) else ""
    if not digest:
        return None
    note = _known(tracker, digest)
    return (digest, note or "not among the prepared photographs") if note or path.is_file() else None


def _known(tracker: Tracker, digest: str) -> str:
    """What the prepared set says of a photograph; "" where it does not know it, or is not there."""
    try:
        data = PreparedDataset.open(tracker.root / "prepared")
    except PawprintError:
        return ""
    for split in (data.split("train"), data.split("validation"), data.split("test")):
        if digest in split.hashes:
            return f"{split.origins[split.hashes.index(digest)]}, {split.name} split of {data.dataset}"
    return ""


def _photograph(tracker: Tracker, digest: str, note: str, served: Served) -> Link:
    """Up from one photograph: every registered version that learned from it, each with its chain and its Bentos."""
    link = Link(kind="photograph", name=digest, note=note)
    for version in tracker.registry.versions():
        names = tracker.artifact(version.run_id, f"{FOLDER}/photographs.txt")
        if names and digest in names.read_text(encoding="ascii").split():
            link.led_to.append(_version(tracker, version, served))
    learned = len(link.led_to)
    link.note += f"; {learned} registered version{'s' * (learned != 1)} learned from it"
    return link


def as_json(link: Link) -> str:
    """The tree as JSON, with `intact` on top; `note` is called `said` there, as before."""

    def plain(one: Link) -> dict[str, object]:
        below = {name: [plain(each) for each in getattr(one, name)] for name in ("links", "led_to")}
        return {"kind": one.kind, "name": one.name, "state": one.state, "said": one.note, **below}

    return json.dumps({"intact": not any(link.broken()), **plain(link)}, indent=1)

"""`pawprint trace X`: from an answer down to its photographs, and from a photograph up to its models and Bentos.

    tree = trace(Path("."), "pawprint-sample@champion", Served(bento.folder, find_answer))
    list(tree.broken())                             # every link whose digest does not match

X is the id of an answer, a Bento tag, a model version (`pawprint-sample/3`) or alias (`pawprint-sample@champion`), a
run id or its first letters, a photograph's path or SHA-256, or a git commit. It lies above the rooms that it reads,
beside the command line.
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

from pawprint import lineage
from pawprint.data.dataset import PreparedDataset
from pawprint.errors import PawprintError
from pawprint.inference.classifier import ModelInfo
from pawprint.tracking import registry, runs
from pawprint.tracking.registry import Champion

State = Literal["proved", "broken", "unproved"]  # unproved: nothing here to prove it with


class Link(BaseModel):
    """One thing in the chain, what is known of it, what it was made from and what was made of it."""

    kind: str  # "answer", "Bento", "version", "run", "commit", "data", "photographs", "photograph", ...
    name: str
    state: State = "proved"
    said: str = ""  # why it is broken or unproved, or a word on it
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
    """What only the service's room knows; the command line hands it in."""

    bento: Callable[[str], Path | None]  # the folder of a Bento tag
    answer: Callable[[str], Mapping[str, str] | None]  # what is kept of an answer, by its id


def trace(root: Path, word: str, served: Served) -> Link:
    """The chain of whatever `word` names.

    Raises:
        PawprintError: It names nothing that is known here.
    """
    if ":" in word and not word.startswith("models:") and (folder := served.bento(word)):
        return _bento(root, word, folder)
    if version := registry.find(root, word):
        return _version(root, version, served)
    if answer := served.answer(word):
        return _answer(root, answer, served)
    if photograph := _photograph_hash(root, word):
        return _photograph(root, *photograph, served)
    if re.fullmatch(r"[0-9a-f]{4,64}", word):
        if found := runs.find(root, word):
            return _run(root, found, served=served)
        if commit := lineage.commit_of(root, word):
            trained = [_run(root, id, served=served) for id in runs.search(root, f"tags.git_commit = '{commit}'")]
            made = f"{len(trained)} run{'s' * (len(trained) != 1)} made from it"
            return Link(kind="commit", name=commit, said=made, led_to=trained)
    raise PawprintError(
        f"{word!r} is no answer, Bento tag, model version, alias, run, photograph or commit that is known here. "
        "`pawprint trace pawprint-<data set>@champion` traces what reigns."
    )


def _answer(root: Path, answer: Mapping[str, str], served: Served) -> Link:
    """An answer of the service, the picture where it is one of ours, and the version that gave it."""
    link = Link(kind="answer", name=answer["id"], said=f"{answer['label']}, {answer['time']}")
    said = _known(root, answer["picture_sha256"]) or "none of the prepared photographs"
    link.links.append(Link(kind="picture", name=answer["picture_sha256"], said=said))
    named, digest = f"{answer['model']}/{answer['model_version']}", answer["model_digest"]
    version = registry.find(root, named)
    if version is None:
        link.links.append(Link(kind="version", name=named, state="unproved", said="not registered here"))
        return link
    below = _version(root, version, served)
    if version.model_digest != digest:
        below.state = "broken"
        below.said = f"the registry says model {version.model_digest[:12]}, the answer came from {digest[:12]}"
    link.links.append(below)
    return link


def _bento(root: Path, tag: str, folder: Path) -> Link:
    """A Bento and the version in it, each against what the registry wrote down of it."""
    link = Link(kind="Bento", name=tag)
    inside = folder / "src" / "champion"
    try:
        champion = Champion.model_validate_json((inside / "champion.json").read_bytes())
        info = ModelInfo.read(inside)
        held = lineage.sha256(inside / "model.onnx")
    except (OSError, ValueError, PawprintError) as error:
        return link.model_copy(update={"state": "broken", "said": str(error)})
    if not held == info.model_digest == champion.model_digest:
        link.state = "broken"
        link.said = f"it holds model {held[:12]} but names {champion.model_digest[:12]}"
    version = registry.find(root, f"{champion.model}/{champion.version}")
    if version is None:
        name = f"{champion.model}/{champion.version}"
        link.links.append(Link(kind="version", name=name, state="unproved", said="not registered"))
        return link
    if link.state == "proved":
        _check_bento(link, folder, registry.bentos(root, version).get(tag, ""))
    below = _version(root, version)
    if version.model_digest != champion.model_digest:
        below.state = "broken"
        below.said = f"the registry says {version.model_digest[:12]}, the Bento {champion.model_digest[:12]}"
    link.links.append(below)
    return link


def _check_bento(link: Link, folder: Path, written_down: str) -> None:
    found = lineage.bento_digest(folder)
    if not written_down:
        link.state, link.said = "unproved", f"digest {found[:12]}, which nobody wrote down"
    elif found != written_down:
        link.state = "broken"
        link.said = f"its files have digest {found[:12]}, at its build it was {written_down[:12]}"
    else:
        link.said = f"digest {found[:12]}, as at its build"


def _version(root: Path, version: Champion, served: Served | None = None) -> Link:
    """A registered version, its run, and (where `served` tells) the Bentos that were made of it."""
    marks = [f"@{alias}" for alias in registry.aliases(root, version)]
    if because := registry.rolled_back(root, version):
        marks.append(f"rolled back {because}")
    link = Link(kind="version", name=f"{version.model}/{version.version}", said=", ".join([version.candidate, *marks]))
    link.links.append(_run(root, version.run_id, expected=version.model_digest))
    link.led_to += _bentos_of(root, version, served)
    return link


def _bentos_of(root: Path, version: Champion, served: Served | None) -> list[Link]:
    found = []
    for tag, digest in registry.bentos(root, version).items() if served else ():
        folder = served.bento(tag) if served else None
        link = Link(kind="Bento", name=tag, state="unproved", said="not in BentoML's store here")
        if folder:
            link = Link(kind="Bento", name=tag)
            _check_bento(link, folder, digest)
        found.append(link)
    return found


def _run(root: Path, run_id: str, expected: str = "", served: Served | None = None) -> Link:
    """A run, its model and what both were made from; `expected` is the digest that the registry names.

    Where `served` is given, what was made of the run too: versions and their Bentos.
    """
    tags = runs.tags(root, run_id)
    if tags is None:
        return Link(kind="run", name=run_id, state="broken", said="MLflow has no such run")
    link = Link(kind="run", name=run_id, said=tags.get("mlflow.runName", ""))
    for version in registry.versions(root, f"run_id = '{run_id}'") if served else ():
        up = Link(kind="version", name=f"{version.model}/{version.version}", said=version.candidate)
        up.led_to += _bentos_of(root, version, served)
        link.led_to.append(up)
    folder = runs.artifact(root, run_id, runs.FOLDER)
    if folder is None:
        link.links.append(Link(kind="model", name=expected[:12], state="unproved", said="the run keeps no model"))
        return link
    try:
        info = ModelInfo.read(folder)
    except PawprintError as error:
        link.links.append(Link(kind="model", name=expected[:12], state="broken", said=str(error)))
        return link
    record = info.lineage
    model = Link(kind="model", name=info.model_digest, said=f"{info.candidate}, {', '.join(info.classes)}")
    problems = [
        f"{name} is not the file that model.json describes"
        for name, digest in (("model.onnx", info.model_digest), ("model.safetensors", info.weights_digest))
        if not (folder / name).is_file() or lineage.sha256(folder / name) != digest
    ]
    if expected and expected != info.model_digest:
        problems.append(f"the registry names model {expected[:12]}")
    if run_id not in (record.run_id, "") and tags.get("restored_from", "") != record.run_id:
        problems.append(f"model.json names run {record.run_id[:12]}")
    said = {name: str(value) for name, value in record.model_dump(exclude={"run_id"}).items()}
    problems += [
        f"the run says {name} {tags[name][:12]}, the model {value[:12]}"
        for name, value in said.items()
        if tags.get(name, value) != value
    ]
    if problems:
        model.state, model.said = "broken", "; ".join(problems)
    link.links += [model, _commit(root, run_id, record), _photographs(root, run_id, folder, record)]
    return link


def _commit(root: Path, run_id: str, record: lineage.Lineage) -> Link:
    """The commit, and what the record names by digest: data, code, parameters, packages, each against that commit."""
    link = Link(kind="commit", name=record.git_commit or "none")
    known = bool(lineage.commit_of(root, record.git_commit)) if record.git_commit else False
    if not known:
        link.state, link.said = "unproved", "not in this repository"
    elif record.git_dirty:
        link.said = "with uncommitted changes"
    at = partial(lineage.at_commit, root, record.git_commit) if known else lambda path: None
    link.links.append(_data(record, at("data.dvc")))
    if record.code_digest:
        code = lineage.code_at(root, record.git_commit) if known else ""
        link.links.append(_same("code", record.code_digest, code, record.git_dirty))
    kept = {path: runs.artifact(root, run_id, path) for path in ("params.yaml", "environment/requirements.lock")}
    for kind, (path, copy), named in zip(("params", "packages"), kept.items(), ("", record.lock_digest), strict=True):
        there = at(Path(path).name)
        held = lineage.sha256(copy) if copy else ""
        if named and held and held != named:
            said = f"the run keeps {held[:12]}, the lineage names {named[:12]}"
            link.links.append(Link(kind=kind, name=named, state="broken", said=said))
        else:
            committed = hashlib.sha256(there).hexdigest() if there is not None else ""
            link.links.append(_same(kind, named or held, committed, record.git_dirty))
    return link


def _data(record: lineage.Lineage, pointer: bytes | None) -> Link:
    link = Link(kind="data", name=f"{record.dataset} {record.data_hash}")
    named = re.findall(r"md5: (\S+)", pointer.decode(errors="replace")) if pointer is not None else []
    if pointer is None:
        link.state, link.said = "unproved", "only its commit could prove it"
    elif record.data_hash in named:
        link.said = "as data.dvc of that commit names it"
    elif record.git_dirty:
        link.state, link.said = "unproved", "data.dvc was changed and not committed"
    else:
        link.state, link.said = "broken", f"data.dvc of that commit names {', '.join(named) or 'nothing'}"
    return link


def _same(kind: str, named: str, committed: str, dirty: bool) -> Link:
    """What has digest `named` against the digest that the commit gives it ("": nothing to compare with)."""
    link = Link(kind=kind, name=named[:12] or "none")
    if not committed or not named:
        link.state, link.said = "unproved", "only its commit could prove it"
    elif named == committed:
        link.said = "as in that commit"
    elif dirty:
        link.state, link.said = "unproved", "changed and not committed"
    else:
        link.state, link.said = "broken", f"that commit has {committed[:12]}"
    return link


def _photographs(root: Path, run_id: str, folder: Path, record: lineage.Lineage) -> Link:
    claimed = lineage.claimed(folder)
    link = Link(kind="photographs", name=f"{len(claimed)} learned from")
    kept = runs.artifact(root, run_id, runs.MANIFEST)
    if kept is not None and not lineage.is_manifest(kept, record):
        link.state, link.said = "broken", "the run's manifest is not the one that the lineage names"
        return link
    here = root / "prepared" / "manifest.csv"
    manifest = kept or (here if lineage.is_manifest(here, record) else None)
    if manifest is None:
        link.state, link.said = "unproved", f"manifest {record.manifest_digest[:12]} is not kept"
    elif lineage.learned(manifest) != claimed:
        link.state, link.said = "broken", "photographs.txt does not name what the manifest says"
    else:
        link.said = f"as manifest {record.manifest_digest[:12]} says"
    return link


def _photograph_hash(root: Path, word: str) -> tuple[str, str] | None:
    """(SHA-256, what is said of it) of a photograph's path or hash."""
    path = Path(word)
    digest = lineage.sha256(path) if path.is_file() else word if re.fullmatch(r"[0-9a-f]{64}", word) else ""
    if not digest:
        return None
    said = _known(root, digest)
    return (digest, said or "not among the prepared photographs") if said or path.is_file() else None


def _known(root: Path, digest: str) -> str:
    """What the prepared set says of a photograph; "" where it does not know it, or is not there."""
    try:
        data = PreparedDataset.open(root / "prepared")
    except PawprintError:
        return ""
    for split in (data.split("train"), data.split("validation"), data.split("test")):
        if digest in split.hashes:
            return f"{split.origins[split.hashes.index(digest)]}, {split.name} split of {data.dataset}"
    return ""


def _photograph(root: Path, digest: str, said: str, served: Served) -> Link:
    """Up from one photograph: every registered version that learned from it, each with its chain and its Bentos."""
    link = Link(kind="photograph", name=digest, said=said)
    for version in registry.versions(root):
        names = runs.artifact(root, version.run_id, f"{runs.FOLDER}/photographs.txt")
        if names and digest in names.read_text(encoding="ascii").split():
            link.led_to.append(_version(root, version, served))
    learned = len(link.led_to)
    link.said += f"; {learned} registered version{'s' * (learned != 1)} learned from it"
    return link


def as_json(link: Link) -> str:
    """The tree for a machine, with `intact` on top."""
    return json.dumps({"intact": not any(link.broken()), **link.model_dump()}, indent=1)

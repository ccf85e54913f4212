"""`pawprint trace X`: from an answer's model down to its photographs, and from a photograph up to its models.

    tree = trace(Path("."), "pawprint-sample@champion", bento_folder)
    tree.broken                                     # every link whose digest does not match

X is a Bento tag, a model version (`pawprint-sample/3`) or alias (`pawprint-sample@champion`), a run id or its first
letters, a photograph's path or SHA-256, or a git commit. It lies above the rooms that it reads, beside the command
line.
"""

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from pawprint import lineage
from pawprint.errors import PawprintError
from pawprint.prepared.read import PreparedSet
from pawprint.runtime import ModelInfo
from pawprint.tracking import registry, runs
from pawprint.tracking.registry import Champion

State = Literal["proved", "broken", "unproved"]  # unproved: nothing here to prove it with


class Link(BaseModel):
    """One thing in the chain, what is known of it, and what follows from it."""

    kind: str  # "Bento", "version", "run", "commit", "data", "photographs", "photograph"
    name: str
    state: State = "proved"
    said: str = ""  # why it is broken or unproved, or a word on it
    links: list["Link"] = []

    def broken(self) -> Iterator["Link"]:
        """Every broken link, from here on."""
        if self.state == "broken":
            yield self
        for link in self.links:
            yield from link.broken()


def trace(root: Path, word: str, bento_folder: Callable[[str], Path | None]) -> Link:
    """The chain of whatever `word` names; `bento_folder` gives the folder of a Bento tag.

    Raises:
        PawprintError: It names nothing that is known here.
    """
    if ":" in word and not word.startswith("models:") and (folder := bento_folder(word)):
        return _bento(root, word, folder)
    if version := registry.find(root, word):
        return _version(root, version)
    if photograph := _photograph_hash(root, word):
        return _photograph(root, *photograph)
    if re.fullmatch(r"[0-9a-f]{4,64}", word):
        if found := runs.find(root, word):
            return _run(root, found)
        if commit := _git(root, "rev-parse", "--verify", "--quiet", f"{word}^{{commit}}"):
            trained = [_run(root, run_id) for run_id in runs.search(root, f"tags.git_commit = '{commit}'")]
            return Link(kind="commit", name=commit, said=f"{len(trained)} runs were made from it", links=trained)
    raise PawprintError(
        f"{word!r} is no Bento tag, model version, alias, run, photograph or commit that is known here. "
        "`pawprint trace pawprint-<data set>@champion` traces what reigns."
    )


def _bento(root: Path, tag: str, folder: Path) -> Link:
    link = Link(kind="Bento", name=tag)
    inside = folder / "src" / "champion"
    try:
        champion = Champion.model_validate_json((inside / "champion.json").read_bytes())
        info = ModelInfo.read(inside)
    except (OSError, ValueError, PawprintError) as error:
        return link.model_copy(update={"state": "broken", "said": str(error)})
    held = lineage.sha256(inside / "model.onnx")
    if not held == info.model_digest == champion.model_digest:
        link.state = "broken"
        link.said = f"it holds model {held[:12]} but names {champion.model_digest[:12]}"
    version = registry.find(root, f"{champion.model}/{champion.version}")
    if version is None:
        link.links.append(
            Link(kind="version", name=f"{champion.model}/{champion.version}", state="unproved", said="not registered")
        )
    else:
        below = _version(root, version)
        if version.model_digest != champion.model_digest:
            below.state = "broken"
            below.said = f"the registry says {version.model_digest[:12]}, the Bento {champion.model_digest[:12]}"
        link.links.append(below)
    return link


def _version(root: Path, version: Champion) -> Link:
    marks = [f"@{alias}" for alias in registry.aliases(root, version)]
    if because := registry.rolled_back(root, version):
        marks.append(f"rolled back {because}")
    link = Link(kind="version", name=f"{version.model}/{version.version}", said=", ".join([version.candidate, *marks]))
    run = _run(root, version.run_id, expected=version.model_digest)
    link.links.append(run)
    return link


def _run(root: Path, run_id: str, expected: str = "") -> Link:
    """A run, its model and what both were made from; `expected` is the digest that the registry names."""
    tags = runs.tags(root, run_id)
    if tags is None:
        return Link(kind="run", name=run_id, state="broken", said="MLflow has no such run")
    link = Link(kind="run", name=run_id, said=tags.get("mlflow.runName", ""))
    folder = runs.artifact(root, run_id, runs.FOLDER)
    if folder is None:
        link.links.append(Link(kind="model", name=expected[:12], state="unproved", said="the run keeps no model"))
        return link
    try:
        info = ModelInfo.read(folder)
    except PawprintError as error:
        link.links.append(Link(kind="model", name=expected[:12], state="broken", said=str(error)))
        return link
    model = Link(kind="model", name=info.model_digest, said=f"{info.candidate}, {', '.join(info.classes)}")
    problems = [
        f"{name} is not the file that model.json describes"
        for name, digest in (("model.onnx", info.model_digest), ("model.safetensors", info.weights_digest))
        if not (folder / name).is_file() or lineage.sha256(folder / name) != digest
    ]
    if expected and expected != info.model_digest:
        problems.append(f"the registry names model {expected[:12]}")
    record = info.lineage
    said = {name: str(value) for name, value in record.model_dump(exclude={"run_id"}).items()}
    problems += [
        f"the run says {name} {tags[name][:12]}, the model {value[:12]}"
        for name, value in said.items()
        if tags.get(name, value) != value
    ]
    if problems:
        model.state, model.said = "broken", "; ".join(problems)
    link.links += [model, _commit(root, record), _photographs(root, run_id, folder, record)]
    return link


def _commit(root: Path, record: lineage.Lineage) -> Link:
    link = Link(kind="commit", name=record.git_commit or "none")
    data = Link(kind="data", name=f"{record.dataset} {record.data_hash}")
    link.links.append(data)
    if not record.git_commit or not _git(root, "cat-file", "-t", record.git_commit):
        link.state, link.said = "unproved", "not in this repository"
        data.state, data.said = "unproved", "only its commit could prove it"
        return link
    if record.git_dirty:
        link.said = "with uncommitted changes"
    named = re.findall(r"md5: (\S+)", _git(root, "show", f"{record.git_commit}:data.dvc"))
    if record.data_hash in named:
        data.said = "as data.dvc of that commit names it"
    elif record.git_dirty:
        data.state, data.said = "unproved", "data.dvc was changed and not committed"
    else:
        data.state, data.said = "broken", f"data.dvc of that commit names {', '.join(named) or 'nothing'}"
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
    data = PreparedSet.open(root / "prepared")
    for side in (data.side("train"), data.side("validation"), data.side("test")):
        if digest in side.hashes:
            return digest, f"{side.origins[side.hashes.index(digest)]}, {side.name} side of {data.dataset}"
    return (digest, "not among the prepared photographs") if path.is_file() else None


def _photograph(root: Path, digest: str, said: str) -> Link:
    """Up from one photograph: every registered version that learned from it, each with its own chain."""
    link = Link(kind="photograph", name=digest, said=said)
    for version in registry.versions(root):
        names = runs.artifact(root, version.run_id, f"{runs.FOLDER}/photographs.txt")
        if names and digest in names.read_text(encoding="ascii").split():
            link.links.append(_version(root, version))
    learned = len(link.links)
    link.said += f"; {learned} registered version{'s' * (learned != 1)} learned from it"
    return link


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def as_json(link: Link) -> str:
    """The tree for a machine, with `intact` on top."""
    return json.dumps({"intact": not any(link.broken()), **link.model_dump()}, indent=1)

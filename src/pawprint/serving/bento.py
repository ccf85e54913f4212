"""A champion's folder -> a Bento in BentoML's store.

    tag = build(Path("champion"), {"model": "pawprint-sample", "version": "3"})   # pawprint:sample-v3-1f2e3d4c
    bentoml serve pawprint:latest

The Bento holds the few modules that serving needs, the champion and the `serving` parameters, and installs the
packages that bentofile.yaml names at the versions of requirements.lock. Neither torch nor pawprint itself has to
be installed where it is served.
"""

import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import bentoml
import yaml
from bentoml.bentos import build_bentofile
from bentoml.exceptions import BentoMLException, NotFound

from pawprint.errors import PawprintError
from pawprint.files import write_json, write_text
from pawprint.image import IMAGE_SUFFIXES
from pawprint.inference.classifier import load_verified
from pawprint.lineage import folder_digest
from pawprint.serving import selftest

NAME = "pawprint"
_ROOT = Path(__file__).resolve().parents[3]
_MODULES = ("__init__.py", "config.py", "errors.py", "image.py", "inference", "lineage.py", "serving", "telemetry.py")


def build(folder: Path, champion: Mapping[str, Any], root: Path = _ROOT) -> str:
    """The Bento of the model in `folder`, and `pawprint:latest` names it. Its tag.

    The version ends in a digest of all that goes in, so building the same again finds what there is, and another
    model, other code or other packages make another Bento.

    Args:
        folder: a model folder.
        champion: the content of champion.json; `model` and `version` are needed.
        root: the checkout that the code, bentofile.yaml and requirements.lock are taken from.

    Raises:
        PawprintError: the model folder is damaged, or BentoML refused.
    """
    load_verified(folder)
    with tempfile.TemporaryDirectory(prefix="pawprint-bento-") as scratch:
        context = Path(scratch)
        _stage(context, folder, champion, root)
        version = f"{_plain(champion)}-{folder_digest(context)[:8]}"
        tag = f"{NAME}:{version}"
        if not _holds(tag, context):
            try:
                build_bentofile(str(context / "bentofile.yaml"), version=version, build_ctx=str(context))
            except BentoMLException as error:
                raise PawprintError(f"BentoML could not build {tag}: {error}.") from error
    _make_latest(tag)
    return tag


def exists(tag: str) -> bool:
    """Is exactly this Bento in BentoML's store?"""
    try:
        return str(bentoml.get(tag).tag) == tag
    except BentoMLException:
        return False


def folder(tag: str) -> Path | None:
    """The folder of exactly this Bento in BentoML's store; None where it is not there."""
    return Path(bentoml.get(tag).path) if exists(tag) else None


def latest() -> str | None:
    """The tag that `pawprint:latest` stands for, None where there is no Bento yet."""
    try:
        return str(bentoml.get(f"{NAME}:latest").tag)
    except BentoMLException:
        return None


def requirements(lock: str, packages: Iterable[str]) -> list[str]:
    """`name==version` of `packages` and of all that they need, sorted, as a compiled lock has them.

    uv notes under each package which others asked for it (`# via`); that is followed the other way round.
    """
    versions: dict[str, str] = {}
    needs: dict[str, set[str]] = {}
    name = ""
    for line in lock.splitlines():
        if match := re.match(r"([a-z0-9][\w.-]*)==([^\s;\\]+)", line):
            name = match[1]
            versions[name] = match[2]
        elif match := re.match(r"\s+#(?: via)?\s+([a-z0-9][\w.-]*)(?:\s|$)", line):
            needs.setdefault(match[1], set()).add(name)
    wanted: set[str] = set()
    waiting = list(packages)
    while waiting:
        name = waiting.pop()
        if name not in versions:
            raise PawprintError(f"bentofile.yaml wants {name}, which requirements.lock does not have.")
        if name not in wanted:
            wanted.add(name)
            waiting.extend(needs.get(name, ()))
    return [f"{name}=={versions[name]}" for name in sorted(wanted)]


def _stage(context: Path, folder: Path, champion: Mapping[str, Any], root: Path) -> None:
    """Fill `context` with what the Bento holds, and a bentofile.yaml that says how to build it."""
    package = context / "pawprint"
    package.mkdir()
    for module in _MODULES:
        source = root / "src" / "pawprint" / module
        if source.is_dir():
            shutil.copytree(source, package / module, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, package)
    shutil.copytree(folder, context / "champion", ignore=shutil.ignore_patterns("model.safetensors"))  # ONNX serves
    write_json(context / "champion" / "champion.json", dict(champion))
    if known := _one_of_each_class(root / "data"):
        selftest.write(context / "champion", known)
    params = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))
    (context / "params.yaml").write_text(yaml.safe_dump({"serving": params["serving"]}), encoding="utf-8")
    options = yaml.safe_load((root / "bentofile.yaml").read_text(encoding="utf-8"))
    del options["include"], options["exclude"]  # here all is staged already
    lock = (root / "requirements.lock").read_text(encoding="utf-8")
    options["python"] = {
        "packages": requirements(lock, options["python"]["packages"]),
        "lock_packages": False,
    }
    options["labels"] = {key: str(champion[key]) for key in ("model", "version")}
    options["description"] = _description(champion)
    (context / "bentofile.yaml").write_text(yaml.safe_dump(options), encoding="utf-8")


def _one_of_each_class(data: Path) -> dict[str, bytes]:
    """The first photograph of every class folder, for the self-test; none where there are no photographs here."""
    firsts: dict[str, bytes] = {}
    for folder in sorted(path for path in data.glob("*") if path.is_dir() and not path.name.startswith(".")):
        pictures = sorted(
            path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
        )
        if pictures:
            firsts[f"{folder.name}.jpg"] = pictures[0].read_bytes()  # the self-test keeps it as a packed JPEG
    return firsts


def _description(champion: Mapping[str, Any]) -> str:
    lines = [f"- {key}: {value}" for key, value in champion.items()]
    return "\n".join([f"# {champion['model']} version {champion['version']}", "", *lines, ""])


def _plain(champion: Mapping[str, Any]) -> str:
    """`sample-v3`: a Bento's version may hold letters, digits, dots and dashes."""
    name = re.sub(r"[^a-z0-9.]+", "-", str(champion["model"]).removeprefix(f"{NAME}-").lower()).strip("-.")
    return f"{name or 'model'}-v{champion['version']}"


def _holds(tag: str, context: Path) -> bool:
    """Is the Bento there with every staged file? What a killed build left behind is removed."""
    try:
        kept = Path(bentoml.get(tag).path) / "src"
        if str(bentoml.get(tag).tag) != tag:  # BentoML takes the beginning of a version for the whole
            return False
    except NotFound:
        return False
    except BentoMLException:
        bentoml.delete(tag)
        return False
    staged = (path for path in context.rglob("*") if path.is_file() and path.name != "bentofile.yaml")
    for path in staged:
        stored = kept / path.relative_to(context)
        if not stored.is_file() or stored.read_bytes() != path.read_bytes():
            bentoml.delete(tag)
            return False
    return True


def _make_latest(tag: str) -> None:
    """BentoML leaves `latest` where it was when an older Bento becomes the one to serve again."""
    bento = bentoml.get(tag)
    pointer = Path(bento.path).parent / "latest"
    write_text(pointer, bento.tag.version)

"""A champion's folder -> a Bento in BentoML's store.

    tag = build(Path("champion"), {"model": "pawprint-sample", "version": "3"})   # pawprint:sample-v3-1f2e3d4c
    bentoml serve pawprint:latest

The Bento holds the few modules that serving needs, the champion and the `serving` parameters, and installs the
packages of deploy/serve.lock. Neither torch nor pawprint itself has to be installed where it is served.
"""

import re
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import bentoml
import yaml
from bentoml._internal import configuration
from bentoml.bentos import build_bentofile
from bentoml.exceptions import BentoMLException, NotFound

from pawprint.config import load_yaml
from pawprint.errors import PawprintError
from pawprint.files import write_json, write_text
from pawprint.image import IMAGE_SUFFIXES
from pawprint.inference import selftest
from pawprint.inference.classifier import load_verified
from pawprint.lineage import folder_digest

NAME = "pawprint"
_ROOT = Path(__file__).resolve().parents[3]
_MODULES = (
    "__init__.py",
    "config.py",
    "errors.py",
    "files.py",
    "image.py",
    "inference",
    "lineage.py",
    "parallel.py",
    "serving",
    "telemetry.py",
)
# BentoML installs uv from PyPI where there is none, also for `lock_packages: false`, which does without
configuration.get_uv_command = lambda: ["uv"]
_ENTRY = "pawprint_bento"  # bento_entry.py under a name that no installed package has


def build(model: Path, champion: Mapping[str, Any], root: Path = _ROOT) -> str:
    """The Bento of the model folder `model`, and `pawprint:latest` names it. Its tag.

    The version ends in a digest of all that goes in, so building the same again finds what there is, and another
    model, other code or other packages make another Bento.

    Args:
        model: a model folder.
        champion: the content of champion.json; `model` and `version` are needed.
        root: the checkout that the code, bentofile.yaml and deploy/serve.lock are taken from.

    Raises:
        PawprintError: the model folder is damaged, or BentoML refused.
    """
    info, _ = load_verified(model)
    with tempfile.TemporaryDirectory(prefix="pawprint-bento-") as scratch:
        context = Path(scratch)
        _stage(context, model, {**champion, "model_digest": info.model_digest}, root)
        version = f"{_plain(champion)}-{folder_digest(context)[:8]}"
        tag = f"{NAME}:{version}"
        if not _holds(tag, context):
            try:
                build_bentofile(str(context / "bentofile.yaml"), version=version, build_ctx=str(context))
            except BentoMLException as error:
                raise PawprintError(f"BentoML could not build {tag}: {error}.") from error
    write_text(Path(bentoml.get(tag).path).parent / "latest", version)  # BentoML moves it for a new Bento only
    return tag


def exists(tag: str) -> bool:
    """Is exactly this Bento in BentoML's store?"""
    try:
        return str(bentoml.get(tag).tag) == tag  # BentoML takes the beginning of a version for the whole
    except BentoMLException:
        return False


def folder(tag: str) -> Path | None:
    """The folder of exactly this Bento in BentoML's store; None where it is not there."""
    return Path(bentoml.get(tag).path) if exists(tag) else None


def folders() -> dict[str, Path]:
    """Every Bento of the service in BentoML's store: tag -> its folder."""
    return {str(one.tag): Path(one.path) for one in bentoml.list() if one.tag.name == NAME}


def delete(*tags: str) -> None:
    """Remove exactly these Bentos from BentoML's store, where they are there."""
    for tag in filter(exists, tags):
        bentoml.delete(tag)


def _stage(context: Path, model: Path, champion: Mapping[str, Any], root: Path) -> None:
    """Fill `context` with what the Bento holds, and a bentofile.yaml that says how to build it."""
    source, package = root / "src" / "pawprint", context / "pawprint"
    package.mkdir()
    for module in _MODULES:
        if (source / module).is_dir():
            shutil.copytree(source / module, package / module, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source / module, package)
    shutil.copy(source / "serving" / "bento_entry.py", context / f"{_ENTRY}.py")
    shutil.copytree(model, context / "champion", ignore=shutil.ignore_patterns("model.safetensors"))  # ONNX serves
    write_json(context / "champion" / "champion.json", dict(champion))
    own = (context / "champion" / selftest.FOLDER).is_dir()  # models of before have none
    if not own and (known := _one_of_each_class(root / "data")):
        selftest.write(context / "champion", known)
    params = load_yaml(root / "params.yaml")
    write_text(context / "params.yaml", yaml.safe_dump({"serving": params["serving"]}))
    options = yaml.safe_load((root / "bentofile.yaml").read_text(encoding="utf-8"))
    del options["include"], options["exclude"]  # here all is staged already
    shutil.copy(root / options["python"]["requirements_txt"], context / "requirements.txt")
    options["service"] = f"{_ENTRY}:Pawprint"
    options["python"] = {"requirements_txt": "requirements.txt", "lock_packages": False}
    options["labels"] = {key: str(champion[key]) for key in ("model", "version", "model_digest")}
    lines = [f"- {key}: {value}" for key, value in champion.items()]
    options["description"] = "\n".join([f"# {champion['model']} version {champion['version']}", "", *lines, ""])
    write_text(context / "bentofile.yaml", yaml.safe_dump(options))


def _one_of_each_class(data: Path) -> dict[str, bytes]:
    """The first photograph of every class folder, for the self-test; none where there are no photographs here."""
    firsts: dict[str, bytes] = {}
    for folder in sorted(path for path in data.glob("*") if path.is_dir() and not path.name.startswith(".")):
        pictures = sorted(
            path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
        )
        if pictures:
            firsts[f"{len(firsts)}.jpg"] = pictures[0].read_bytes()  # the self-test keeps it as a packed JPEG
    return firsts


def _plain(champion: Mapping[str, Any]) -> str:
    """`sample-v3`: a Bento's version may hold letters, digits, dots and dashes."""
    name = re.sub(r"[^a-z0-9.]+", "-", str(champion["model"]).removeprefix(f"{NAME}-").lower()).strip("-.")
    return f"{name or 'model'}-v{champion['version']}"


def _holds(tag: str, context: Path) -> bool:
    """Is the Bento there with every staged file? What a killed build left behind, or somebody changed, is removed."""
    stored, without = folder(tag), ("bentofile.yaml",)
    if stored and folder_digest(stored / "src", without) == folder_digest(context, without):
        return True
    with suppress(NotFound):
        bentoml.delete(tag)
    return False

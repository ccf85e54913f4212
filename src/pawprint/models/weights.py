"""Pretrained weights of networks that this package does not bring: a record in git, and a store by digest.

    add("timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k")       # from the hub, once
    add("timm/resnet10t.c3_in1k", Path("resnet10t.safetensors"), licence="apache-2.0")
    tensors = read("timm/resnet10t.c3_in1k").tensors()          # no network; a file of another digest is refused

weights/<name>.lock is the record. It pins the weights by SHA-256: on the first fetch there is nothing to compare with
but what the hub itself says of the file. The file lies in weights/ of PAWPRINT_CACHE (or cache/), under its digest.
Only safetensors are read, which hold numbers and no code.
"""

import os
import re
import shutil
from pathlib import Path
from typing import Any, Self

from pydantic import ConfigDict, Field, ValidationError
from torch import Tensor

from pawprint import files
from pawprint.errors import PawprintError
from pawprint.lineage import Pretrained, sha256

LOCKS = Path("weights")  # below the project, in git
FILE = "model.safetensors"  # its name in a repository of the hub
UNKNOWN = "unknown"
_NAME = re.compile(r"timm/[A-Za-z0-9_][A-Za-z0-9_.-]*")


class Record(Pretrained):
    """weights/<name>.lock: which file holds the weights, and what the network takes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = 1
    revision: str = ""  # commit of the hub's repository; "" for a local file
    size: int = Field(ge=32)  # pixels of a side of the input
    mean: tuple[float, float, float]  # of each channel, on the scale 0..1
    std: tuple[float, float, float]
    classes: int = Field(ge=0)  # that the file's own classifier knows; 0 where it has none

    @property
    def path(self) -> Path:
        """Where the store has the file."""
        return store() / f"{self.sha256}.safetensors"

    def check(self) -> Self:
        """Raise PawprintError where the store has no file of this digest."""
        if not self.path.is_file():
            raise PawprintError(
                f"The weights of {self.name} are not on this machine ({self.path} is missing). "
                f"`pawprint models add {self.name}` fetches them; --file takes a file that you have."
            )
        if (found := sha256(self.path)) != self.sha256:
            raise PawprintError(
                f"{self.path} is not the file that {_lock(self.name)} pins (its SHA-256 is {found[:12]}...), so it is "
                f"not read. Delete it; `pawprint models add {self.name}` fetches it again."
            )
        return self

    def tensors(self) -> dict[str, Tensor]:
        """The file's tensors, its digest checked."""
        return _tensors(self.check().path)


def read(name: str) -> Record:
    """The record of `name`; PawprintError where there is none, or where it is damaged."""
    path = _lock(name)
    try:
        return Record.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise PawprintError(
            f"{name} has not been added: there is no {path}. `pawprint models add {name}` fetches its weights once."
        ) from None
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(str(part) for part in problem["loc"]) or "the file"
        raise PawprintError(
            f"{path}: `{field}`: {problem['msg']}. `git checkout {path}`, or add {name} again."
        ) from None


def known() -> list[Record]:
    """All records of this project, by name."""
    return [read(path.relative_to(LOCKS).with_suffix("").as_posix()) for path in sorted(LOCKS.glob("timm/*.lock"))]


def add(name: str, file: Path | None = None, licence: str = "") -> Record:
    """Take the weights of `name` from the hub, or from a local `file`, into the store, and write the record.

    Where there is a record, the file must be the one that it pins.

    Raises:
        PawprintError: The hub or the file cannot be read, the digest is another than the hub's or the record's, or the
            tensors do not fit the network.
    """
    from pawprint.models import timm_backbone

    pinned = read(name) if _lock(name).is_file() else None
    about = timm_backbone.about(name)
    incoming = store() / "incoming" / name.replace("/", "+")
    if file is not None:
        if not file.is_file():
            raise PawprintError(f"{file} is no file. Name the safetensors file that holds the weights of {name}.")
        given = {"source": f"file {file.name}", "licence": licence or about["licence"] or UNKNOWN}
    else:
        file, given = _fetch(about["repository"], pinned, incoming)
        given["licence"] = licence or given["licence"] or about["licence"] or UNKNOWN
    digest = sha256(file)
    if pinned is not None and digest != pinned.sha256:
        raise PawprintError(
            f"The weights of {given['source']} have SHA-256 {digest}, and {_lock(name)} pins {pinned.sha256}, so the "
            f"file is not taken. If it is meant, `pawprint models remove {name}` first."
        )
    classes = timm_backbone.fit_check(name, _tensors(file))
    measures = {key: about[key] for key in ("size", "mean", "std")}
    record = pinned or Record.model_validate({"name": name, "sha256": digest, "classes": classes, **measures, **given})
    if not record.path.is_file() or sha256(record.path) != digest:
        with files.new_file(record.path) as partial:
            shutil.copyfile(file, partial)
    files.write_text(_lock(name), record.model_dump_json(indent=1) + "\n")
    shutil.rmtree(incoming, ignore_errors=True)
    return record


def remove(name: str) -> Record:
    """Delete the record, and the file where no other record names it."""
    record = read(name)
    _lock(name).unlink()
    if all(other.sha256 != record.sha256 for other in known()):
        record.path.unlink(missing_ok=True)
    return record


def _fetch(repository: str, pinned: Record | None, folder: Path) -> tuple[Path, dict[str, Any]]:
    """(the downloaded file, what the hub says of it). A download that was cut resumes in `folder`."""
    try:
        import httpx
        from huggingface_hub import HfApi, hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError
    except ModuleNotFoundError:
        raise PawprintError(timm_missing()) from None
    if not repository:
        raise PawprintError("timm knows no weights of this network. Name a file: --file weights.safetensors.")
    revision = pinned.revision if pinned else ""
    hub = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    try:
        about = HfApi().model_info(repository, revision=revision or None, files_metadata=True, timeout=30)
        found = {one.rfilename: one for one in about.siblings or ()}
        if FILE not in found:
            raise PawprintError(f"{hub}/{repository} has no {FILE}, and nothing else is read. Convert a file of it.")
        path = Path(hf_hub_download(repository, FILE, revision=about.sha, local_dir=folder))
    except (HfHubHTTPError, httpx.HTTPError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise PawprintError(
            f"{repository} could not be fetched from {hub} ({reason}). Run it again, which goes on where it broke off; "
            "name a mirror in HF_ENDPOINT; or take a file that you have: --file weights.safetensors."
        ) from None
    lfs = found[FILE].lfs
    if lfs is not None and sha256(path) != lfs.sha256:
        shutil.rmtree(folder, ignore_errors=True)
        raise PawprintError(
            f"{FILE} of {hub}/{repository} does not have the SHA-256 that the hub says ({lfs.sha256}), so it is not "
            "taken. Run it again."
        )
    card = about.card_data
    licence = str((card.get("license_name") or card.get("license")) if card else "") or ""
    return path, {"source": f"{hub}/{repository}", "revision": about.sha or "", "licence": licence}


def instead(name: str) -> str:
    """Which name to write in place of one that cannot be a network's."""
    source, _, network = name.partition("/")
    if source == "torchvision":
        return f"timm has torchvision's weights: `pawprint models search {network or ''}*tv_in` lists them."
    if source == "hf":
        return (
            "timm's own repositories of the hub are timm/NAME; of another one, download its safetensors file and give "
            "it to the network that it was trained with: `pawprint models add timm/NAME --file model.safetensors`."
        )
    return "Write timm/ and a name of `pawprint models search WORD`."


def timm_missing() -> str:
    """What to do where the extra is not installed."""
    return (
        "Networks by name need timm and huggingface_hub, which are not installed. In a checkout: `make setup TIMM=1`; "
        "elsewhere: `uv pip install --no-deps -r locks/timm.lock`."
    )


def _tensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise PawprintError(
            f"{path.name} is no safetensors file ({error}), and nothing else is read. Of a file of torch: "
            "`safetensors.torch.save_file(torch.load(FILE, weights_only=True), 'weights.safetensors')`."
        ) from None
    return tensors


def _lock(name: str) -> Path:
    if not _NAME.fullmatch(name):
        raise PawprintError(f"{name!r} names no network here. {instead(name)}")
    return LOCKS / f"{name}.lock"


def store(root: Path = Path()) -> Path:
    """The folder of a project's files of weights, each named by its digest."""
    return root / os.environ.get("PAWPRINT_CACHE", "cache") / "weights"

"""The champion to the running service: put into a shared folder whole or not at all, then taken over.

deliver(Path("champion"), Path("challenger"))     # PAWPRINT_DELIVER, PAWPRINT_SERVICE, PAWPRINT_SERVICE_TOKEN

In PAWPRINT_DELIVER `champion` is a link to one of `versions/<digest>`, replaced in one step; the link is relative, so
that each container may mount the folder where it likes. So is `challenger`, where there is one.
"""

import os
import shutil
from pathlib import Path

import httpx

from pawprint.errors import PawprintError
from pawprint.lineage import folder_digest

KEPT = 3  # versions that stay: the service may be reading the one before
DELIVERED = ".served"  # the version that the service has confirmed


class NotServed(Exception):
    """The service has not taken the champion over; it may another time."""


def deliver(champion: Path, challenger: Path) -> bool:
    """Put both where PAWPRINT_DELIVER says and have them served; False where all of that was done before.

    Raises:
        NotServed: The service does not answer, or refused; it continues with the version before.
        PawprintError: The service does not take the token.
    """
    if not (place := os.environ.get("PAWPRINT_DELIVER")):
        return False
    folder = Path(place)
    name = folder_digest(champion)
    put(champion, folder, name)
    if challenger.is_dir():
        put(challenger, folder, beside := folder_digest(challenger), "challenger")
        name = f"{name} {beside}"
    else:
        (folder / "challenger").unlink(missing_ok=True)
    delivered = folder / DELIVERED
    if delivered.exists() and delivered.read_text() == name:
        return False
    if service := os.environ.get("PAWPRINT_SERVICE"):
        reload(service, os.environ.get("PAWPRINT_SERVICE_TOKEN", ""), champion)
    delivered.write_text(name)
    return True


def put(model: Path, folder: Path, name: str, called: str = "champion") -> None:
    """Copy `model` to `versions/<name>` and let the link `called` point at it."""
    versions, link = folder / "versions", folder / called
    versions.mkdir(parents=True, exist_ok=True)
    if not (versions / name).exists():
        scratch = versions / f".{name}"
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.copytree(model, scratch)
        scratch.rename(versions / name)
    target = Path("versions") / name
    if not link.is_symlink() or link.readlink() != target:
        if link.is_dir() and not link.is_symlink():
            raise PawprintError(f"{link} is a folder that somebody else put there. Move it away; it becomes a link.")
        fresh = folder / f".{called}"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(target)
        fresh.replace(link)
        (versions / name).touch()
    linked = {name, *(one.readlink().name for one in folder.iterdir() if one.is_symlink())}
    by_age = sorted(
        (path for path in versions.iterdir() if path.name not in linked), key=lambda path: path.stat().st_mtime
    )
    for old in by_age[: max(0, len(by_age) - KEPT + 1)]:
        shutil.rmtree(old, ignore_errors=True)


def reload(service: str, token: str, champion: Path) -> None:
    """Have the service load what lies in its model folder, and check that it is this champion."""
    from pawprint.inference.classifier import ModelInfo

    url = f"{service.rstrip('/')}/admin/reload"
    try:
        answer = httpx.post(url, headers={"Authorization": f"Bearer {token}"}, timeout=120)
    except httpx.HTTPError as error:
        raise NotServed(f"The service at {service} does not answer ({error}). Start it, or correct it.") from None
    if answer.status_code in (401, 403, 404):
        raise PawprintError(
            f"The service at {service} does not take PAWPRINT_SERVICE_TOKEN ({_said(answer)}). Give the worker the "
            "token that opens the service's /admin: its SHA-256 is in serving.tokens.admin."
        )
    if answer.status_code != 200:
        raise NotServed(f"The service at {service} did not take the champion over: {_said(answer)}")
    wanted = ModelInfo.read(champion).model_digest
    served = str(answer.json().get("digest", ""))
    if served != wanted:
        raise NotServed(
            f"The service at {service} serves model {served[:12]} and not the champion {wanted[:12]}. Its "
            "PAWPRINT_MODEL must be the folder `champion` in PAWPRINT_DELIVER."
        )


def _said(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {answer.status_code}"

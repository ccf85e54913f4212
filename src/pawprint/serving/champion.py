"""The model to serve: the folder `champion/`, where it is, and its serving parameters.

In a checkout it lies in the root (`make run` puts it there), in a Bento beside the code;
PAWPRINT_MODEL=<folder> serves any other model folder. It may name several, separated as in PATH: the first that exists
is served, so that a service can start with the Bento's own champion and change to one that is delivered later.
"""

import os
import re
from pathlib import Path

from pawprint.config import Challenger, Serving, Tokens, load_serving
from pawprint.errors import PawprintError
from pawprint.inference.classifier import load_verified
from pawprint.lineage import Champion

_HERE = Path(__file__).resolve()
_HOMES = _HERE.parents[2], Path.cwd(), _HERE.parents[3]  # a Bento's src, a project, the checkout of the code


def read_champion(folder: Path) -> Champion | None:
    """champion.json of a model folder; None where there is none. PawprintError where it is damaged."""
    return Champion.read(folder) if (folder / "champion.json").exists() else None


def registered_model(folder: Path) -> str:
    """The registered model that a model folder holds a version of; "" where it was never registered."""
    champion = read_champion(folder)
    return champion.model if champion else ""


def model_folder() -> Path:
    """The model folder to serve; PawprintError where there is none."""
    if override := os.environ.get("PAWPRINT_MODEL"):
        for folder in map(Path, override.split(os.pathsep)):
            if folder.is_dir():
                return folder
        raise PawprintError(f"PAWPRINT_MODEL={override} is not a folder. Name a model folder or unset it.")
    for home in _HOMES:
        if (home / "champion").is_dir():
            return home / "champion"
    raise PawprintError("There is no champion/ to serve yet. Run `make run` first.")


def challenger_folder() -> Path | None:
    """The challenger's model folder: PAWPRINT_CHALLENGER, or `challenger/` beside the champion; None without one.

    PAWPRINT_CHALLENGER=off: there is none, whatever the parameters say, as where a gateway gives the shares.
    """
    named = os.environ.get("PAWPRINT_CHALLENGER")
    if named == "off":
        return None
    folders = [Path(named)] if named else [home / "challenger" for home in _HOMES]
    return next((folder for folder in folders if folder.is_dir()), None)


def verify(bento: str, packaged: str | None) -> None:
    """PawprintError unless there is a whole model to serve, and it is the one that a Bento was built with.

    Args:
        bento: the tag that is served, "" in a checkout.
        packaged: the digest of the Bento's model; None where the Bento records none.
    """
    info, _ = load_verified(model_folder())
    if bento and packaged != info.model_digest and "PAWPRINT_MODEL" not in os.environ:
        raise PawprintError(
            f"{bento} was built with the model {(packaged or 'of an older version')[:12]}, but {model_folder()} holds "
            f"{info.model_digest[:12]}. Package it again (`make run`), or name a model folder in PAWPRINT_MODEL."
        )


def serving_params() -> Serving:
    """The `serving` section of the params.yaml beside the champion, and the tokens and names that the environment adds.

    PAWPRINT_READ_SHA256, PAWPRINT_FEEDBACK_SHA256 and PAWPRINT_ADMIN_SHA256 hold digests, PAWPRINT_ALLOWED_HOSTS,
    PAWPRINT_ALLOWED_ORIGINS and PAWPRINT_TRUSTED_PROXIES add to the parameters of these names, all separated by commas:
    where a Bento runs is known later than what is in it. So do PAWPRINT_CHALLENGER_MODE and PAWPRINT_CHALLENGER_SHARE.
    """
    found = [home / "params.yaml" for home in _HOMES if (home / "params.yaml").is_file()]
    params = load_serving(found[0]) if found else Serving()
    tokens = params.tokens.model_dump()
    for part in tokens:
        name = f"PAWPRINT_{part.upper()}_SHA256"
        added = tuple(filter(None, os.environ.get(name, "").split(",")))
        if not all(re.fullmatch("[0-9a-f]{64}", digest) for digest in added):
            raise PawprintError(f"{name} is not a SHA-256 in hex. Make one: printf %s TOKEN | sha256sum")
        tokens[part] = (*tokens[part], *added)
    named = {
        part: (*getattr(params, part), *filter(None, os.environ.get(f"PAWPRINT_{part.upper()}", "").split(",")))
        for part in ("allowed_hosts", "allowed_origins", "trusted_proxies")
    }
    return params.model_copy(update={"tokens": Tokens(**tokens), "challenger": _challenger(params.challenger), **named})


def _challenger(given: Challenger) -> Challenger:
    mode, share = (os.environ.get(f"PAWPRINT_CHALLENGER_{name}") for name in ("MODE", "SHARE"))
    try:
        return Challenger.model_validate(
            given.model_dump() | ({"mode": mode} if mode else {}) | ({"share": float(share)} if share else {})
        )
    except ValueError:
        raise PawprintError(
            f"PAWPRINT_CHALLENGER_MODE={mode or ''} or PAWPRINT_CHALLENGER_SHARE={share or ''} cannot be: the mode is "
            "off, shadow or canary, the share a number from 0 to 1."
        ) from None

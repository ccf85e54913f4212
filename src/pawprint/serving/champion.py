"""Which model is served: the folder `champion/`, where it lies and what is known of it.

In a checkout it lies in the root (`make run` puts it there), in a Bento beside the code;
PAWPRINT_MODEL=<folder> serves any other model folder.
"""

import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from pawprint.errors import PawprintError
from pawprint.params import Serving, load_serving

_HERE = Path(__file__).resolve()
_HOMES = _HERE.parents[2], _HERE.parents[3]  # a Bento's src, a checkout's root


class Champion(BaseModel):
    """champion.json: the registered version that the folder holds. All empty for a folder that has none."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    model: str = ""  # registered model, e.g. pawprint-sample
    version: str = ""
    metrics: dict[str, float] = {}

    @classmethod
    def read(cls, folder: Path) -> "Champion":
        """What champion.json in a model folder says; PawprintError where it is damaged."""
        path = folder / "champion.json"
        if not path.exists():
            return cls()
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise PawprintError(
                f"{path} is damaged: {error.errors()[0]['msg']}. Run `make run` to package again."
            ) from None


def model_folder() -> Path:
    """The model folder to serve; PawprintError where there is none."""
    if override := os.environ.get("PAWPRINT_MODEL"):
        folder = Path(override)
        if not folder.is_dir():
            raise PawprintError(f"PAWPRINT_MODEL={override} is not a folder. Name a model folder or unset it.")
        return folder
    for home in _HOMES:
        if (home / "champion").is_dir():
            return home / "champion"
    raise PawprintError("There is no champion/ to serve yet. Run `make run` first.")


def serving_params() -> Serving:
    """The `serving` section of the params.yaml beside the champion."""
    for home in _HOMES:
        if (home / "params.yaml").is_file():
            return load_serving(home / "params.yaml")
    return Serving()

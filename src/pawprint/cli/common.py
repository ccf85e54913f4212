"""What the groups of commands share."""

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console

from pawprint.errors import PawprintError

if TYPE_CHECKING:
    from pawprint.inference.classifier import Classifier, Unloaded

STORES = {"PREFECT_HOME": ".prefect", "BENTOML_HOME": "bentoml"}  # variable -> the default, in the home folder
Command = TypeVar("Command", bound=Callable[..., Any])


def project_root(folder: Path) -> Path:
    """The project that `folder` lies in: the nearest folder, from here upwards, with params.yaml and dvc.yaml.

    `folder` itself where there is none; each command says what it misses then.
    """
    marks = ("params.yaml", "dvc.yaml")
    return next((one for one in (folder, *folder.parents) if all((one / mark).is_file() for mark in marks)), folder)


ROOT = project_root(Path.cwd())
HERE = Path(os.path.relpath(ROOT))  # the same as a person types it: "." in the root, ".." in a folder below


def examples(text: str) -> Callable[[Command], Command]:
    """The examples that a command's --help ends with."""

    def mark(command: Command) -> Command:
        command.epilog = f"Examples: {text}" if " | " in text else f"Example: {text}"  # type: ignore[attr-defined]
        return command

    return mark


def console() -> Console:
    """The terminal, or 80 columns (COLUMNS says another number) where the output is a file."""
    return Console(highlight=False)


def classifier(model: Path, otherwise: str = "") -> "Classifier":
    """The model of a folder, with the project's limit of pixels.

    Raises:
        PawprintError: There is no such folder; `otherwise` is what else there is to do.
    """
    from pawprint.inference.classifier import Classifier

    return Classifier(_existing(model, otherwise), max_pixels=_max_pixels())


def unloaded(model: Path) -> "Unloaded":
    """The same, for a command whose work others do."""
    from pawprint.inference.classifier import Unloaded

    return Unloaded(_existing(model), _max_pixels())


def _existing(model: Path, otherwise: str = "") -> Path:
    if not model.is_dir():
        raise PawprintError(
            f"There is no model folder {model.absolute()}. Run this in a project after `pawprint run`, or name a model "
            f"folder with --model.{otherwise}"
        )
    return model


def _max_pixels() -> int:
    from pawprint import image
    from pawprint.config import load_params

    params = HERE / "params.yaml"
    return load_params(params).preprocess.max_pixels if params.exists() else image.MAX_PIXELS


LocalOption = Annotated[
    bool, typer.Option("--local", help="use this folder alone: no Prefect, no MLflow server, BentoML's store in cache/")
]


def start(*words: str, local: bool = False) -> None:
    """Run `python -m ...` of the current project to its end, with its exit code.

    With `local` neither Prefect nor an MLflow server is used, whatever the environment names, and the stores of
    Prefect and BentoML lie in the project and not in the home folder.
    """
    if not (ROOT / "flows").is_dir():
        raise PawprintError(f"{ROOT} is no pawprint project: it has no flows/. Change into the project's folder.")
    environment = dict(os.environ)
    if local:
        for server in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
            environment.pop(server, None)
        environment["PAWPRINT_LOCAL"] = "1"  # flows/tasks.py runs the flows as plain functions
        environment |= {variable: str(ROOT / "cache" / "local" / name) for variable, name in STORES.items()}
    for variable, name in STORES.items():
        _check_writable(variable, Path(environment.get(variable) or Path.home() / name))
    command = [sys.executable, "-m", *words]
    if os.name == "posix":  # become it: its signals, its exit code
        os.chdir(ROOT)
        sys.stdout.flush()
        os.execve(sys.executable, command, environment)
    with subprocess.Popen(command, cwd=ROOT, env=environment) as child:
        while True:
            with contextlib.suppress(KeyboardInterrupt):  # the child gets it too, and ends
                raise typer.Exit(child.wait())


def _check_writable(variable: str, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(2**16))
            probe.flush()
    except OSError as error:
        raise PawprintError(
            f"{folder} cannot be written ({error.strerror}). Free or unlock it, name another folder in {variable}, or "
            "add --local: then it lies in the project's cache/."
        ) from None

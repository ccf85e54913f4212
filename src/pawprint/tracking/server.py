"""Where the runs are kept: `mlflow.db` beside the project, or the server that MLFLOW_TRACKING_URI names.

connect(root)          # Tracker.client calls it
serve(root, port=5000) # the MLflow UI over the same runs
"""

import os
import socket
import sys
from pathlib import Path
from urllib.parse import urlsplit

import mlflow
import requests
from mlflow.exceptions import MlflowException
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request

from pawprint.dvc import main_workspace
from pawprint.errors import PawprintError

os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
# By default MLflow's client tries for four minutes, and a training would stand still for as long.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
_TEMPORARY = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "DEADLINE_EXCEEDED")


class Unreachable(PawprintError):
    """The MLflow server does not answer; it may at another time."""


def is_outage(error: BaseException) -> bool:
    """Will the same call succeed another time?"""
    if isinstance(error, MlflowException):
        return error.error_code in _TEMPORARY
    return isinstance(error, Unreachable | requests.RequestException | ConnectionError | TimeoutError)


def uri(root: Path) -> str:
    """The tracking URI; the default is absolute and in the main workspace, also in DVC's temporary copies."""
    return os.environ.get("MLFLOW_TRACKING_URI") or _beside(root)


def _beside(root: Path) -> str:
    return f"sqlite:///{main_workspace(root) / 'mlflow.db'}"


def artifact_root(root: Path) -> str | None:
    """Where artifacts go: a folder beside mlflow.db; None where a server decides."""
    if uri(root) != _beside(root):  # MLflow sets the variable itself once it is connected
        return None
    return (main_workspace(root) / "mlartifacts").as_uri()


def connect(root: Path) -> None:
    """Point MLflow at the runs; Unreachable at once, not after minutes of retries, where no server answers.

    Raises:
        PawprintError: The server refuses the password.
    """
    address = uri(root)
    if address.startswith(("http://", "https://")):
        check_auth(address)
    mlflow.set_tracking_uri(address)
    mlflow.set_registry_uri(address)


def prepare(root: Path) -> None:
    """Make the tables of a new mlflow.db; nothing where a server keeps the runs. Takes seconds, once."""
    if uri(root).startswith("sqlite:"):
        connect(root)
        mlflow.search_experiments(max_results=1)


def check_auth(address: str) -> None:
    """Make one call of the API, because /health answers without a password.

    Raises:
        Unreachable: The server does not answer, or answers 500.
        PawprintError: The server refuses the password.
    """
    parts = urlsplit(address)
    shown = f"The MLflow server at {parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")
    creds, endpoint = get_default_host_creds(address), "/api/2.0/mlflow/experiments/search?max_results=1"
    try:
        answer = http_request(creds, endpoint, "GET", max_retries=0, timeout=(10, 30), raise_on_status=False)
    except MlflowException:
        raise Unreachable(
            f"{shown} does not answer. Start it, correct MLFLOW_TRACKING_URI, or unset it to use mlflow.db here."
        ) from None
    if answer.status_code in (401, 403):
        raise PawprintError(
            f"{shown} refuses the name and password (HTTP {answer.status_code}). "
            "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to an account that it has."
        )
    if answer.status_code >= 500:
        raise Unreachable(
            f"{shown} answers HTTP {answer.status_code}: it has lost its database. Look at its log, then run again."
        )


def serve(root: Path, host: str = "127.0.0.1", port: int = 5000) -> None:
    """Become the MLflow UI on `host`:`port` over this project's runs; does not return."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise PawprintError(
                f"Port {port} on {host} cannot be used ({error.strerror}). Take another: `make ui UI_PORT={port + 1}`."
            ) from None
    command = [sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", uri(root), "--default-artifact-root", artifact_root(root) or "./mlartifacts"]
    print(f"MLflow UI on http://{host}:{port} (Ctrl-C ends it)", flush=True)
    os.execv(sys.executable, command)

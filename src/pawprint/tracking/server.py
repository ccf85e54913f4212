"""Where the runs are kept: `mlflow.db` beside the project, or the server that MLFLOW_TRACKING_URI names.

connect(root)          # before anything else of this room
serve(root, port=5000) # the MLflow UI over the same runs
"""

import os
import socket
import sys
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

from pawprint.errors import PawprintError
from pawprint.versioning import main_workspace

os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
# By default MLflow's client tries for four minutes, and a training would stand still for as long.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")


class Unreachable(PawprintError):
    """The MLflow server does not answer; it may another time."""


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
    """Point MLflow at the runs; Unreachable at once, not after minutes of retries, when nobody answers."""
    address = uri(root)
    if address.startswith(("http://", "https://")):
        _answers(address)
    import mlflow

    mlflow.set_tracking_uri(address)
    mlflow.set_registry_uri(address)


def prepare(root: Path) -> None:
    """Make the tables of a new mlflow.db; nothing where a server keeps the runs. Takes seconds, once."""
    if uri(root).startswith("sqlite:"):
        connect(root)
        import mlflow

        mlflow.search_experiments(max_results=1)


def _answers(address: str) -> None:
    parts = urlsplit(address)
    shown = f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")  # without a password
    try:
        urlopen(f"{shown}{parts.path.rstrip('/')}/health", timeout=10).close()
    except HTTPError:
        return  # somebody is there; what it wants, MLflow's own client will say
    except (URLError, OSError) as error:
        raise Unreachable(
            f"The MLflow server at {shown} does not answer ({getattr(error, 'reason', error)}). "
            "Start it, correct MLFLOW_TRACKING_URI, or unset it to use mlflow.db here."
        ) from None


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

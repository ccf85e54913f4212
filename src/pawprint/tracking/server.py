"""Where the runs are kept: `mlflow.db` beside the project, or the server that MLFLOW_TRACKING_URI names.

connect(root)          # Tracker.client calls it
serve(root, "/")       # the MLflow UI over the same runs
"""

import contextlib
import logging
import os
import re
import sqlite3
import subprocess
import sys
import tempfile
import time
import webbrowser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import mlflow
import psutil
import requests
import sqlalchemy
from mlflow.exceptions import MlflowException
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request

from pawprint import files
from pawprint.dvc import main_workspace
from pawprint.errors import PawprintError, port_problem

os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
# By default MLflow's client tries for four minutes, and a training would stand still for as long.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # it says that it creates tables
UI = "http://127.0.0.1:5000"  # where `make ui` listens, unless another port is asked for
ARTIFACTS = "mlartifacts"  # the folder beside mlflow.db
ADDRESSES = (  # the columns of mlflow.db with addresses of artifacts
    ("experiments", "artifact_location"), ("runs", "artifact_uri"), ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"), ("model_versions", "source"),
)  # fmt: skip
_TEMPORARY = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "DEADLINE_EXCEEDED")


class Unreachable(PawprintError):
    """The MLflow server does not answer; it may at another time."""


def is_outage(error: BaseException) -> bool:
    """Will the same call succeed another time?"""
    if isinstance(error, MlflowException):
        return error.error_code in _TEMPORARY
    return isinstance(error, Unreachable | requests.RequestException | ConnectionError | TimeoutError)


def uri(root: Path) -> str:
    """The tracking URI; the default is absolute and in the main workspace, also in DVC's temporary copies.

    Raises:
        PawprintError: MLFLOW_TRACKING_URI names a folder or nothing that MLflow knows, or the project lies where no
            database address can name it.
    """
    given = os.environ.get("MLFLOW_TRACKING_URI")
    if not given:
        return _beside(root)
    if given.startswith("file:") or not urlsplit(given).scheme:
        raise PawprintError(
            f"MLFLOW_TRACKING_URI={given} is a folder, which MLflow no longer writes runs to. Unset it (runs are kept "
            "in mlflow.db here), or name a server; `mlflow migrate-filestore` takes the folder's runs along."
        )
    if not re.match(r"https?:|(sqlite|postgresql|mysql|mssql)(\+\w+)?:", given):
        raise PawprintError(
            f"MLFLOW_TRACKING_URI={_shown(given)} names no server (http://...) and no database (sqlite:///..., "
            "postgresql://...). Correct it, or unset it: runs are kept in mlflow.db here."
        )
    path = given.removeprefix("sqlite:///")
    return f"sqlite:///{main_workspace(root) / path}" if path != given else given


def _beside(root: Path) -> str:
    path = main_workspace(root) / "mlflow.db"
    if "?" in str(path):
        raise PawprintError(
            f"The address of a database cannot hold the `?` of {path.parent}. Rename the folder, or name a server in "
            "MLFLOW_TRACKING_URI."
        )
    return f"sqlite:///{path}"


def artifact_root(root: Path) -> str | None:
    """Where artifacts go: a folder beside mlflow.db; None where a server decides."""
    if uri(root) != _beside(root):  # MLflow sets the variable itself once it is connected
        return None
    return (main_workspace(root) / ARTIFACTS).as_uri()


def connect(root: Path) -> None:
    """Point MLflow at the runs; Unreachable at once, not after minutes of retries, where no server answers.

    Raises:
        PawprintError: The server refuses the password, or the database cannot be used.
    """
    address = uri(root)
    if address.startswith(("http://", "https://")):
        check_auth(address)
    elif address.startswith("sqlite:"):
        if database := sqlalchemy.make_url(address).database:
            _make_tables(Path(database))
        if address == _beside(root):
            follow_move(main_workspace(root))
    else:
        try:
            sqlalchemy.create_engine(address).connect().close()
        except (ImportError, sqlalchemy.exc.SQLAlchemyError) as error:
            raise PawprintError(
                f"The database {_shown(address)} of MLFLOW_TRACKING_URI cannot be used ({str(error).splitlines()[0]}). "
                "Start it, install its driver, or unset the variable: runs are kept in mlflow.db here."
            ) from None
    mlflow.set_tracking_uri(address)
    mlflow.set_registry_uri(address)


def _make_tables(database: Path) -> None:
    """A new database appears whole: MLflow makes its tables step by step, and two processes at once, or one that is
    killed, leave one that it refuses from then on. Takes seconds, once.
    """

    def is_there() -> bool:
        return database.exists() and database.stat().st_size > 0

    if is_there() or not os.access(database.parent, os.W_OK):  # what else is wrong MLflow reports
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore  # here, for it takes long

    new = database.with_name(f"{database.name}.partial")
    with files.lock(database.with_name(f".{database.name}.lock"), timeout=-1):
        if is_there():
            return
        new.unlink(missing_ok=True)
        os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        SqlAlchemyStore(f"sqlite:///{new}", (database.parent / ARTIFACTS).as_uri()).engine.dispose()
        new.replace(database)


def follow_move(workspace: Path) -> None:
    """Correct the artifact addresses in mlflow.db, which are absolute, where the project was moved or copied.

    An address changes only where what it names lies in this workspace's own folder of artifacts.
    """
    database, kept = workspace / "mlflow.db", workspace / ARTIFACTS
    if not database.exists() or not kept.exists():
        return
    with contextlib.closing(sqlite3.connect(database, timeout=60)) as db, db:
        try:
            homes = [home for (home,) in db.execute("SELECT artifact_location FROM experiments") if home]
        except sqlite3.OperationalError:  # a new file, without tables
            return
        pairs = [home.rpartition(f"/{ARTIFACTS}/") for home in homes if home.startswith("file:")]
        before = {old for old, _, name in pairs if (kept / unquote(name)).exists()} - {workspace.as_uri()}
        for old in before:
            for table, column in ADDRESSES:
                db.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE {column} LIKE ? ESCAPE '!'",
                    (workspace.as_uri(), len(old) + 1, re.sub("([!%_])", r"!\1", f"{old}/{ARTIFACTS}/") + "%"),
                )
            print(
                f"mlflow.db comes from {unquote(urlsplit(old).path)}: its artifacts are those here now.",
                file=sys.stderr,
            )


def prepare(root: Path) -> None:
    """Make the tables of a new mlflow.db; nothing where a server keeps the runs."""
    if uri(root).startswith("sqlite:"):
        connect(root)


def _shown(address: str) -> str:
    """The address without its password and path."""
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def check_auth(address: str) -> None:
    """Make one call of the API, because /health answers without a password.

    Raises:
        Unreachable: The server does not answer, or answers 500.
        PawprintError: The server refuses the password.
    """
    shown = f"The MLflow server at {_shown(address)}"
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


def serve(root: Path, page: str, host: str = "127.0.0.1", port: int = 5000) -> None:
    """Run the MLflow UI on `host`:`port` over this project's runs until Ctrl-C, and open its path `page` in a browser.

    Where a server keeps the runs, its own pages are opened.
    """
    address = uri(root)
    if address.startswith(("http://", "https://")):
        _open(address.rstrip("/") + page)
        return
    if problem := port_problem(host, port):
        raise PawprintError(
            f"Port {port} on {host} cannot be used ({problem}). Take another: `make ui UI_PORT={port + 1}`."
        )
    command = [sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        address,
        "--registry-store-uri",
        address,
        "--uvicorn-opts",
        "--log-level warning",
    ]
    command += ["--default-artifact-root", artifact_root(root) or f"./{ARTIFACTS}"]
    prepare(root)
    # MLflow's lock on a database and its assistant's sessions have names in the temporary folder that anyone can take.
    private = tempfile.TemporaryDirectory(prefix="pawprint-mlflow-", ignore_cleanup_errors=True)
    environment = os.environ | {
        "MLFLOW_LOGGING_LEVEL": "WARNING",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # of language models: ten processes that each import MLflow
        "PYTHONWARNINGS": "ignore",
        "TMPDIR": private.name,
    }
    process = subprocess.Popen(command, env=environment, start_new_session=True)  # Ctrl-C is for this process
    try:
        while process.poll() is None and not _listens(f"http://{host}:{port}/health"):
            time.sleep(0.3)
        if process.poll() is None:
            _open(f"http://{host}:{port}{page}")
            print("Ctrl-C ends it.", flush=True)
        process.wait()
    finally:
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(process.pid).children(recursive=True):
                child.terminate()
        process.terminate()
        process.wait()
        private.cleanup()


def _listens(address: str) -> bool:
    try:
        return requests.get(address, timeout=5).ok
    except requests.RequestException:
        return False


def _open(address: str) -> None:
    """Print an address, and show it where there is a window to show it in."""
    print(f"MLflow: {address}", flush=True)
    if sys.platform in ("darwin", "win32") or {"DISPLAY", "WAYLAND_DISPLAY"} & set(os.environ):
        webbrowser.open(address)

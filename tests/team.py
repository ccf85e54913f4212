"""A team's servers as processes on free ports: PostgreSQL, S3, MLflow with passwords, Prefect, the service, the worker.

with started(folder) as team:
    team.start("worker")
    team.post("deployments/name/scheduled/pawprint", ...)
"""

import hashlib
import http.server
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from service_process import ROOT, free_port
from toy import build_toy_model
from workspace import clone

POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
MISSING = [
    what
    for what, there in (
        ("PostgreSQL (apt-get install postgresql)", POSTGRES),
        ("boto3", find_spec("boto3")),
        ("flask-wtf", find_spec("flask_wtf")),
    )
    if not there
]
UNSET = ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "PAWPRINT_DEBUG", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


class Team:
    """The processes, their ports and their passwords."""

    def __init__(self, folder: Path, change: Callable[[Any], None] = lambda params: None) -> None:
        """`change` is made to params.yaml of the project and of the service."""
        self.folder, self.change = folder, change
        self.ports = {name: free_port() for name in ("postgres", "s3", "mlflow", "prefect", "service")}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.s3_port = self.ports["s3"]  # what clients of S3 are told; a proxy may stand there
        self.clean = {name: value for name, value in os.environ.items() if name not in UNSET} | {
            "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT), *sys.path[1:]]),
            "PREFECT_HOME": str(folder / "prefect-home"),
            "BENTOML_HOME": str(folder / "bentoml"),
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PREFECT_WORKER_PREFETCH_SECONDS": "1",
        }
        self.repository, self.workspace = folder / "repository", folder / "workspace"
        self.deliver, self.traffic = folder / "deliver", folder / "service" / "traffic"
        self.notifications: list[dict[str, str]] = []  # what people were told
        self.ear = listening(self.notifications)

    @property
    def keys(self) -> dict[str, str]:
        """What opens S3: MLflow's server has it, and who uses DVC; no client of MLflow needs it."""
        url = f"http://127.0.0.1:{self.s3_port}"
        return {
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    @property
    def client(self) -> dict[str, str]:
        """The environment of a person, or of the worker but for S3's keys."""
        return self.clean | {
            "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{self.ports['mlflow']}",
            "MLFLOW_TRACKING_USERNAME": "admin",
            "MLFLOW_TRACKING_PASSWORD": "mlflow-password",
            "PREFECT_API_URL": f"http://127.0.0.1:{self.ports['prefect']}/api",
            "PREFECT_API_AUTH_STRING": "admin:prefect-password",
        }

    @property
    def worker(self) -> dict[str, str]:
        """What docker-compose.yml gives the worker."""
        return (
            self.client
            | self.keys
            | {
                "PAWPRINT_REPOSITORY": str(self.repository),
                "PAWPRINT_WORKSPACE": str(self.workspace),
                "PAWPRINT_REMOTE": "s3://dvc/store",
                "PAWPRINT_DELIVER": str(self.deliver),
                "PAWPRINT_TRAFFIC": str(self.traffic),
                "PAWPRINT_SERVICE": f"http://127.0.0.1:{self.ports['service']}",
                "PAWPRINT_SERVICE_TOKEN": "admin-token",
                "PAWPRINT_LOOK_SECONDS": "2",
                "PAWPRINT_RETRY_SECONDS": "5",
                "PAWPRINT_NOTIFY": f"json://127.0.0.1:{self.ear.server_port}/room",
            }
        )

    # -- processes -------------------------------------------------------------------------------------------------

    def run(self, name: str, command: list[Any], environment: dict[str, str], **options: Any) -> None:
        """Start a process in a session of its own; its words are in `<name>.log`."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [str(word) for word in command],
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **options,
            )

    def end(self, name: str, how: int = signal.SIGTERM) -> None:
        process = self.processes.pop(name)
        family = [process, *_children(process.pid)]
        with suppress(ProcessLookupError):
            os.kill(process.pid, how)
        try:
            process.wait(40)
        finally:
            if how != signal.SIGKILL:
                for one in family:
                    with suppress(psutil.Error, ProcessLookupError):
                        one.kill()

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def start(self, name: str) -> None:
        getattr(self, f"_{name}")()

    def _postgres(self) -> None:
        home = POSTGRES[-1]
        data = self.database
        if not (data / "PG_VERSION").exists():
            words = [home / "initdb", "-D", data, "-U", "postgres", "--auth=trust", "--no-sync", "-E", "UTF8"]
            subprocess.run([*as_postgres(), *map(str, words)], check=True, capture_output=True)
            (data / "postgresql.auto.conf").write_text("fsync = off\nmax_connections = 200\n")
        command = [*as_postgres(), home / "postgres", "-D", data, "-h", "127.0.0.1", "-p", self.ports["postgres"]]
        self.run("postgres", [*command, "-k", data], self.clean)
        ask = [home / "psql", "-h", "127.0.0.1", "-p", self.ports["postgres"], "-U", "postgres", "-tAc"]
        self.until(lambda: self._sql(ask, "select 1") == "1", "postgres")
        for name in ("mlflow", "prefect"):
            if self._sql(ask, f"select 1 from pg_database where datname = '{name}'") != "1":
                self._sql(ask, f"create database {name}")

    def _sql(self, ask: list[Any], words: str) -> str:
        return subprocess.run([*map(str, ask), words], capture_output=True, text=True, check=False).stdout.strip()

    def query(self, database: str, words: str) -> list[str]:
        """Rows of a query, as psql prints them."""
        psql = POSTGRES[-1] / "psql"
        ask = [psql, "-h", "127.0.0.1", "-p", self.ports["postgres"], "-U", "postgres", "-d", database, "-tAc"]
        return self._sql(ask, words).splitlines()

    @property
    def database(self) -> Path:
        """PostgreSQL's folder: it refuses root, and another user cannot reach pytest's folders."""
        known = self.folder / "database"
        if not known.exists():
            place = Path(tempfile.mkdtemp(prefix="pawprint-pg-", dir="/tmp"))
            if os.getuid() == 0:
                shutil.chown(place, "postgres", "postgres")
            known.symlink_to(place)
        return known.resolve()

    def _s3(self) -> None:
        for bucket in ("dvc", "mlflow"):
            (self.folder / "buckets" / bucket).mkdir(parents=True, exist_ok=True)
        package = find_spec("rclone_api")
        assert package
        assert package.origin
        program = Path(package.origin).parent / "bin" / "rclone"
        address = f"127.0.0.1:{self.ports['s3']}"
        options = ["--auth-key", "key,secret", "--config", "/dev/null"]
        self.run("s3", [program, "serve", "s3", self.folder / "buckets", "--addr", address, *options], self.clean)

    def _mlflow(self) -> None:
        url = f"postgresql+psycopg2://postgres@127.0.0.1:{self.ports['postgres']}/mlflow"
        config = self.folder / "auth.ini"
        config.write_text(
            f"[mlflow]\ndefault_permission = READ\ndatabase_uri = {url}\nadmin_username = admin\n"
            "admin_password = mlflow-password\nauth_cache_ttl_seconds = 60\n"
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        )
        secret = {"MLFLOW_AUTH_CONFIG_PATH": str(config), "MLFLOW_FLASK_SERVER_SECRET_KEY": "a secret"}
        secret["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # as in docker-compose.yml
        command = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--workers", "1"]
        command += ["--host", "127.0.0.1", "--port", self.ports["mlflow"], "--backend-store-uri", url]
        command += ["--artifacts-destination", "s3://mlflow/artifacts"]
        environment = self.clean | self.keys | secret | {"MLFLOW_S3_ENDPOINT_URL": self.keys["AWS_ENDPOINT_URL"]}
        self.run("mlflow", command, environment, cwd=self.folder)

    def _prefect(self) -> None:
        url = f"postgresql+asyncpg://postgres@127.0.0.1:{self.ports['postgres']}/prefect"
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1"]
        secret = {"PREFECT_SERVER_API_AUTH_STRING": "admin:prefect-password"}
        database = {"PREFECT_API_DATABASE_CONNECTION_URL": url}
        self.run("prefect", [*command, "--port", self.ports["prefect"]], self.clean | secret | database)

    def _service(self) -> None:
        home = self.folder / "service"
        if not home.exists():
            home.mkdir()
            params = yaml.safe_load((ROOT / "params.yaml").read_text())
            params["serving"]["tokens"]["admin"] = [hashlib.sha256(b"admin-token").hexdigest()]
            self.change(params)
            (home / "params.yaml").write_text(yaml.safe_dump(params))
            shutil.copy(ROOT / "bentofile.yaml", home)
            shutil.copytree(ROOT / "src/pawprint", home / "src/pawprint")
            build_toy_model(self.deliver / "versions" / "toy")
            (self.deliver / "champion").symlink_to("versions/toy")
        environment = self.clean | {
            "PYTHONPATH": str(home / "src"),
            "PAWPRINT_MODEL": str(self.deliver / "champion"),
            "PAWPRINT_TRAFFIC": str(self.traffic),
            "BENTOML_HOME": str(home / "bentoml"),
        }
        command = [sys.executable, "-m", "bentoml", "serve", ".", "--host", "127.0.0.1"]
        self.run("service", [*command, "--port", self.ports["service"]], environment, cwd=home)

    def _worker(self) -> None:
        self.run("worker", [sys.executable, "-m", "flows.worker"], self.worker, cwd=ROOT)

    # -- what is asked of them --------------------------------------------------------------------------------------

    def until(self, condition: Callable[[], Any], *logs: str, seconds: float = 120) -> Any:
        """What `condition` says as soon as it is true; the end of the named logs where it never is."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for name in logs:
                if name in self.processes and self.processes[name].poll() is not None:
                    raise AssertionError(f"{name} ended:\n{self.log(name)[-4000:]}")
            with suppress(httpx.HTTPError, ValueError, KeyError):
                if found := condition():
                    return found
            time.sleep(0.25)
        raise AssertionError("not in time\n" + "\n".join(f"--- {name}\n{self.log(name)[-4000:]}" for name in logs))

    def healthy(self, name: str) -> bool:
        path = {"mlflow": "health", "prefect": "api/health", "service": "readyz"}[name]
        auth = ("admin", "prefect-password") if name == "prefect" else None
        answer = httpx.get(f"http://127.0.0.1:{self.ports[name]}/{path}", auth=auth, timeout=3)
        return answer.status_code == 200

    def api(self, method: str, path: str, **json_: Any) -> Any:
        """Prefect's API."""
        url = f"http://127.0.0.1:{self.ports['prefect']}/api/{path}"
        answer = httpx.request(
            method, url, json=json_ if method == "POST" else None, auth=("admin", "prefect-password"), timeout=30
        ).raise_for_status()
        return answer.json() if answer.content else None

    def begin(self) -> str:
        """Start a run of the deployment by hand; its id."""
        deployment = self.api("GET", "deployments/name/scheduled/pawprint")["id"]
        return str(self.api("POST", f"deployments/{deployment}/create_flow_run")["id"])

    def runs(self) -> list[dict[str, Any]]:
        """The deployment's runs but those that the schedule has planned, oldest first."""
        asked = {"flows": {"name": {"any_": ["scheduled"]}}}
        found = self.api("POST", "flow_runs/filter", **asked, limit=100)
        return sorted((run for run in found if not run["auto_scheduled"]), key=lambda run: run["created"])

    def planned(self) -> list[dict[str, Any]]:
        """The runs that the schedule has planned."""
        found = self.api("POST", "flow_runs/filter", flows={"name": {"any_": ["scheduled"]}})
        return [run for run in found if run["auto_scheduled"]]

    def state(self, run: str) -> str:
        return str(self.api("GET", f"flow_runs/{run}")["state"]["name"])

    def ended(self, run: str, seconds: float = 300) -> str:
        """The name of the state that a run ends in."""

        def final() -> str:
            state = self.api("GET", f"flow_runs/{run}")["state"]
            return state["name"] if state["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") else ""

        return str(self.until(final, "worker", seconds=seconds))

    def flow_log(self, run: str) -> str:
        """A run's log."""
        asked = {"logs": {"flow_run_id": {"any_": [run]}}, "sort": "TIMESTAMP_ASC"}
        return "\n".join(line["message"] for line in self.api("POST", "logs/filter", **asked, limit=200))

    def served(self) -> str:
        """The digest of the model that answers."""
        url = f"http://127.0.0.1:{self.ports['service']}/model"
        return str(httpx.get(url, timeout=5).json()["model"]["digest"])

    def champion(self) -> dict[str, Any]:
        return dict(json.loads((self.workspace / "champion.json").read_bytes()))

    # -- the project ------------------------------------------------------------------------------------------------

    def author(self, photographs: int = 30, epochs: int = 1) -> None:
        """The repository that a person has pushed to: few photographs of each class, one small candidate."""
        self.repository.mkdir()
        clone(self.repository)
        self.dvc("pull", "data.dvc")
        self.change_photographs(slice(photographs, None))
        params = yaml.safe_load((self.repository / "params.yaml").read_text())
        small = params["candidates"]["article_cnn"] | {"epochs": epochs, "batch_size": 16, "accumulate": 1}
        params["candidates"] = {"article_cnn": small}
        params["evaluation"] |= {"corruptions": 0, "clutter": 0}
        self.change(params)
        (self.repository / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
        (self.repository / "data" / "dataset.json").write_text('{"name": "toys"}\n')
        self.version("first photographs")

    def change_photographs(self, without: slice) -> None:
        """Take photographs of each class away."""
        for kind in ("cat", "dog"):
            for photo in sorted((self.repository / "data" / kind).iterdir())[without]:
                photo.unlink()

    def version(self, message: str) -> str:
        """Version the photographs, send them to S3 and commit; the commit."""
        code = "import pathlib; from pawprint import dvc as v; r = pathlib.Path('.'); v.add(r)"
        code += "; v.use_remote(r, 's3://dvc/store'); v.push(r)"
        self.shell(sys.executable, "-c", code)
        self.shell("git", "add", "-A")
        self.shell("git", "commit", "-qm", message)
        return self.shell("git", "rev-parse", "HEAD").strip()

    def dvc(self, *words: str) -> None:
        self.shell(sys.executable, "-m", "dvc", *words)

    def shell(self, *words: str) -> str:
        environment = self.clean | self.keys
        done = subprocess.run(
            words, cwd=self.repository, env=environment, capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def as_postgres() -> list[str]:
    """What makes a command run as the user postgres; nothing where we are not root."""
    if os.getuid() != 0:
        return []
    user = pwd.getpwnam("postgres")
    return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]


def listening(notifications: list[dict[str, str]]) -> http.server.ThreadingHTTPServer:
    """A place that apprise can tell something to."""

    class Ear(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            notifications.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Ear)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def _children(pid: int) -> list[psutil.Process]:
    with suppress(psutil.Error):
        return psutil.Process(pid).children(recursive=True)
    return []


@contextmanager
def started(
    folder: Path, epochs: int = 1, change: Callable[[Any], None] = lambda params: None, photographs: int = 30
) -> Iterator[Team]:
    """All servers but the worker, and a project to work on; everything ended by process id."""
    team = Team(folder, change)
    try:
        for name in ("s3", "service"):
            team.start(name)
        team.start("postgres")
        for name in ("mlflow", "prefect"):
            team.start(name)
        team.author(photographs, epochs)  # while they start
        for name in ("mlflow", "prefect", "service"):
            team.until(lambda name=name: team.healthy(name), name)
        yield team
    finally:
        with ExitStack() as stack:  # one that does not end leaves no other behind
            stack.callback(shutil.rmtree, team.database, ignore_errors=True)
            stack.callback(team.ear.shutdown)
            for name in team.processes:
                stack.callback(team.end, name, signal.SIGINT if name == "postgres" else signal.SIGTERM)

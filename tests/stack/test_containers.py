"""Our images, built and started as docker-compose.yml says: same user, read-only root, limits and health checks.

Only the network differs (the host's: an engine without a bridge has no other). PostgreSQL and S3, whose images cannot
be pulled everywhere, are processes. Skipped where there is no engine.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from service_process import ROOT, free_port
from team import POSTGRES, Team

ENGINE = shutil.which("docker") and not subprocess.run(["docker", "info"], capture_output=True, check=False).returncode
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not ENGINE, reason="no Docker engine answers here"),
    pytest.mark.skipif(not shutil.which("docker-compose"), reason="docker-compose is not installed"),
    pytest.mark.skipif(not POSTGRES, reason="PostgreSQL is not installed (Debian: postgresql)"),
]
OLD_BUILDER = os.environ | {"DOCKER_BUILDKIT": "0"}


def say(*words: Any, **options: Any) -> str:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, f"{words}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout.strip()


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, toy_model: Path) -> dict[str, int]:
    """Our two images, built; their sizes in bytes."""
    folder = tmp_path_factory.mktemp("images")
    if subprocess.run(["bash", str(ROOT / "deploy/stand-in.sh")], check=False).returncode:
        pytest.skip("the base image can neither be pulled nor made here")
    torch = re.findall(r'"(torch==[^"]+)"', (ROOT / "pyproject.toml").read_text())[0]
    index, port = folder / "index/torch", free_port()
    say(Path(sys.base_prefix) / "bin/python3", "-m", "pip", "download", "--no-deps", "--dest", index, f"{torch}+cpu")
    server = subprocess.Popen(
        [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "-d", index.parent]
    )
    try:
        build = ["docker", "build", "--network", "host", "--build-arg", f"TORCH_INDEX=http://127.0.0.1:{port}"]
        say(*build, "-t", "pawprint-platform:0.1.0", "-f", ROOT / "deploy/Dockerfile", ROOT, env=OLD_BUILDER)
    finally:
        server.terminate()
        server.wait(10)
    home = OLD_BUILDER | {"BENTOML_HOME": str(folder / "bentoml"), "PYTHONPATH": str(ROOT / "src")}
    code = (
        "import sys; from pathlib import Path; from pawprint.serving import bento;"
        "bento.build(Path(sys.argv[1]), {'model': 'pawprint-colours', 'version': '1', 'run_id': 'a' * 32})"
    )
    say(sys.executable, "-c", code, toy_model, env=home)
    words = [
        "-m",
        "bentoml",
        "containerize",
        "pawprint:latest",
        "-t",
        "pawprint-service:0.1.0",
        "--opt",
        "network=host",
    ]
    say(sys.executable, *words, env=home)
    names = ("pawprint-platform:0.1.0", "pawprint-service:0.1.0")
    return {name: int(say("docker", "image", "inspect", "--format", "{{.Size}}", name)) for name in names}


def derived(team: Team) -> tuple[dict[str, Any], dict[str, str]]:
    """docker-compose.yml on the host's network, at ports of its own; and its .env."""
    ports = {name: team.ports[name] for name in ("mlflow", "prefect", "service")} | {"worker": free_port()}
    renamed = {
        "http://s3:8333": f"http://127.0.0.1:{team.ports['s3']}",
        "mlflow:5000": f"127.0.0.1:{ports['mlflow']}",
        "127.0.0.1:5000": f"127.0.0.1:{ports['mlflow']}",
        "prefect:4200": f"127.0.0.1:{ports['prefect']}",
        "127.0.0.1:4200": f"127.0.0.1:{ports['prefect']}",
        "service:3000": f"127.0.0.1:{ports['service']}",
        "127.0.0.1:3000": f"127.0.0.1:{ports['service']}",
        "127.0.0.1:8080": f"127.0.0.1:{ports['worker']}",
        "./.git": str(team.repository / ".git"),
    }
    text = (ROOT / "docker-compose.yml").read_text()
    for old, new in renamed.items():
        text = text.replace(old, new)
    content = yaml.safe_load(text)
    services = {name: content["services"][name] for name in ("prepare", "mlflow", "prefect", "worker", "service")}
    for one in services.values():
        for name in ("networks", "ports", "depends_on", "profiles", "build"):
            one.pop(name, None)
        one["network_mode"] = "host"
    services["mlflow"]["environment"] |= {
        "PGHOST": "127.0.0.1",
        "PGPORT": str(team.ports["postgres"]),
        "MLFLOW_HOST": "127.0.0.1",
        "MLFLOW_PORT": str(ports["mlflow"]),
    }
    prefect = services["prefect"]
    prefect["command"] = ["prefect", "server", "start", "--host", "127.0.0.1", "--port", str(ports["prefect"])]
    prefect["environment"] |= {
        "PREFECT_SERVER_DATABASE_HOST": "127.0.0.1",
        "PREFECT_SERVER_DATABASE_PORT": str(team.ports["postgres"]),
    }
    services["worker"]["environment"]["PREFECT_WORKER_WEBSERVER_PORT"] = str(ports["worker"])
    services["service"]["environment"] |= {"BENTOML_HOST": "127.0.0.1", "BENTOML_PORT": str(ports["service"])}
    keys = team.keys
    env = {name: f"{name.lower()}-of-this-test" for name in re.findall(r"\$\{(\w+):\?", text)}
    env |= {
        "COMPOSE_PROJECT_NAME": f"pawprint-test-{os.getpid()}",
        "S3_ACCESS_KEY_ID": keys["AWS_ACCESS_KEY_ID"],
        "S3_SECRET_ACCESS_KEY": keys["AWS_SECRET_ACCESS_KEY"],
        "SERVICE_ADMIN_SHA256": hashlib.sha256(b"service_admin_token-of-this-test").hexdigest(),
    }
    return {"services": services, "volumes": {"s3": {}, "work": {}, "deliver": {}, "traffic": {}}}, env


@pytest.fixture(scope="module")
def running(
    images: dict[str, int], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Team, list[str], dict[str, str]]]:
    """(databases and S3 as processes, the compose command, its .env) of containers that are all healthy."""
    team = Team(tmp_path_factory.mktemp("team"))
    folder = tmp_path_factory.mktemp("compose")
    say("git", "clone", "-q", ROOT, team.repository)
    say("git", "-C", team.repository, "checkout", "-q", "-B", "main")
    content, env = derived(team)
    (folder / "docker-compose.yml").write_text(yaml.safe_dump(content))
    (folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in env.items()))
    compose = ["docker-compose", "--project-directory", str(folder), "-f", str(folder / "docker-compose.yml")]
    try:
        team.start("s3")
        team.start("postgres")
        for name in ("mlflow", "prefect"):
            team.query("postgres", f"drop database {name}")
        where = {"PGHOST": "127.0.0.1", "PGPORT": str(team.ports["postgres"])}
        say("bash", ROOT / "deploy/postgres/databases.sh", env=os.environ | where | env)
        say(*compose, "up", "-d", "prepare")
        say(*compose, "up", "-d", "mlflow", "prefect", "service")
        healthy(compose, "mlflow", "prefect", "service")
        say(*compose, "up", "-d", "worker")
        healthy(compose, "worker")
        yield team, compose, env
    finally:
        print(subprocess.run([*compose, "logs", "--tail", "60"], capture_output=True, text=True, check=False).stdout)
        subprocess.run([*compose, "down", "--volumes", "--timeout", "20"], capture_output=True, check=False)
        for name in list(team.processes):
            team.end(name)


def healthy(compose: list[str], *names: str) -> None:
    deadline = time.monotonic() + 240
    for name in names:
        container = say(*compose, "ps", "-q", name)
        while (state := say("docker", "inspect", "--format", "{{.State.Health.Status}}", container)) != "healthy":
            assert time.monotonic() < deadline, f"{name} is {state}"
            time.sleep(2)


def test_the_services_image_is_small_and_has_no_torch(images: dict[str, int]) -> None:
    assert images["pawprint-service:0.1.0"] < 900e6
    words = ["docker", "run", "--rm", "--network", "none", "--entrypoint", "python", "pawprint-service:0.1.0", "-c"]
    assert say(*words, "from importlib.util import find_spec as f; print(f('torch'), f('gcc'))") == "None None"


def test_the_services_container_answers_a_photograph(running: Any, pictures: dict[str, bytes]) -> None:
    team, _, _ = running
    url = f"http://127.0.0.1:{team.ports['service']}"
    answer = httpx.post(f"{url}/predict", files={"image": pictures["red"]}, timeout=20).json()
    assert answer["label"] == "red"
    assert answer["model"]["name"] == "pawprint-colours"
    assert httpx.post(f"{url}/admin/reload").status_code == 401
    token = {"Authorization": "Bearer service_admin_token-of-this-test"}
    assert httpx.post(f"{url}/admin/reload", headers=token, timeout=20).status_code == 200


def test_mlflows_container_keeps_a_run_and_its_artifact_for_those_who_may(running: Any, tmp_path: Path) -> None:
    team, _, env = running
    code = (
        "import mlflow, pathlib; mlflow.set_experiment('try');\n"
        "with mlflow.start_run() as run: mlflow.log_text('hello', 'word.txt'); print(run.info.run_id)"
    )
    client = team.clean | {
        "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{team.ports['mlflow']}",
        "MLFLOW_TRACKING_USERNAME": "admin",
        "MLFLOW_TRACKING_PASSWORD": env["MLFLOW_ADMIN_PASSWORD"],
    }
    run = re.findall(r"^[0-9a-f]{32}$", say(sys.executable, "-c", code, env=client, cwd=tmp_path), re.MULTILINE)[0]
    kept = [path for path in (team.folder / "buckets/mlflow").rglob("word.txt") if run in str(path)]
    assert [path.read_text() for path in kept] == ["hello"]
    url = f"{client['MLFLOW_TRACKING_URI']}/api/2.0/mlflow/experiments/search?max_results=1"
    assert httpx.get(url).status_code == 401
    assert httpx.get(url, auth=("admin", "wrong")).status_code == 401
    assert httpx.get(url, auth=("admin", env["MLFLOW_ADMIN_PASSWORD"])).status_code == 200
    foreign = httpx.get(url, auth=("admin", env["MLFLOW_ADMIN_PASSWORD"]), headers={"Host": "elsewhere.example"})
    assert foreign.status_code == 403


def test_the_workers_container_has_the_pipeline_deployed(running: Any) -> None:
    team, compose, env = running
    url, auth = f"http://127.0.0.1:{team.ports['prefect']}/api", ("admin", env["PREFECT_PASSWORD"])
    (deployment,) = httpx.post(f"{url}/deployments/filter", json={}, auth=auth).json()
    assert deployment["status"] == "READY"
    assert deployment["schedules"][0]["schedule"]["cron"] == "0 3 * * *"
    assert httpx.post(f"{url}/deployments/filter", json={}).status_code == 401
    for name in ("mlflow", "prefect", "service", "worker"):
        container = json.loads(say("docker", "inspect", say(*compose, "ps", "-q", name)))[0]
        assert container["HostConfig"]["ReadonlyRootfs"]
        assert container["HostConfig"]["Memory"] > 0
        assert container["Config"]["User"] == "1034:1034"

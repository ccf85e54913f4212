"""The laws that docker-compose.yml and deploy/ keep, with no engine; and what both Compose versions say of them."""

import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import prometheus_client
import pytest
import yaml

from pawprint.serving import metrics, service

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docker-compose.yml").read_text()
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(TEXT)["services"]
PROFILES = {
    "tracking": {"prepare", "postgres", "s3", "mlflow"},
    "serving": {"service", "prometheus", "grafana"},
    "all": {"prepare", "postgres", "s3", "mlflow", "prefect", "worker", "service", "prometheus", "grafana"},
}
COMPOSE = [
    words
    for words in (["docker-compose"], ["docker", "compose"])
    if shutil.which(words[0]) and not subprocess.run([*words, "version"], capture_output=True, check=False).returncode
]

promtool = pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed (Debian: prometheus)")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What `make stack` needs of a checkout."""
    shutil.copytree(ROOT / "deploy", tmp_path / "deploy")
    for name in ("docker-compose.yml", "docker-compose.gpu.yml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def stack(folder: Path, *words: str) -> str:
    command = ["bash", str(folder / "deploy/stack.sh"), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("name", SERVICES)
def test_each_container_is_pinned_hardened_and_limited(name: str) -> None:
    one = SERVICES[name]
    image, _, tag = one["image"].rpartition(":")
    assert image
    assert re.search(r"\d+\.\d+", tag)
    assert int(one["user"].partition(":")[0]) > 0
    assert one["read_only"] is True
    assert one["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in one["security_opt"]
    assert {"mem_limit", "cpus", "pids_limit"} <= one.keys()
    health = one["healthcheck"]
    assert "test" in health or (health == {"disable": True} and one["restart"] == "no")
    assert "curl" not in str(health)
    for port in one.get("ports", []):
        assert port.startswith("${PAWPRINT_BIND:-127.0.0.1}:"), port
    for volume in one.get("volumes", []):
        source = volume.partition(":")[0]
        assert source in yaml.safe_load(TEXT)["volumes"] or volume.endswith(":ro"), volume


def test_only_the_ports_of_people_are_open_and_strangers_do_not_reach_the_stores() -> None:
    assert "ports" not in SERVICES["postgres"]
    assert SERVICES["service"]["networks"] == SERVICES["grafana"]["networks"] == ["outer"]
    for name in ("postgres", "s3", "mlflow", "prefect"):
        assert SERVICES[name]["networks"] == ["inner"]


def test_no_secret_has_a_default_and_every_one_is_written_by_make_stack(folder: Path) -> None:
    stack(folder, "env")
    written = set(re.findall(r"^(\w+)=", (folder / ".env").read_text(), re.MULTILINE))
    for name, how, default in re.findall(r"\$\{(\w+)(:-|:\?|)([^}]*)\}", TEXT):
        if re.search("PASSWORD|SECRET|TOKEN|KEY|SHA256", name):
            assert how == ":?" or default == "", name
        if how == ":?":
            assert name in written
    for one in SERVICES.values():
        for name, value in one.get("environment", {}).items():
            if re.search("PASSWORD|SECRET|TOKEN|KEY|AUTH_STRING", name):
                assert "${" in value, name


def test_secrets_are_random_private_and_never_changed(folder: Path) -> None:
    (folder / ".env").write_text("MLFLOW_ADMIN_PASSWORD=my-own\nPAWPRINT_HOST=team\n")
    stack(folder, "env")
    first = (folder / ".env").read_text()
    stack(folder, "env")
    assert (folder / ".env").read_text() == first
    assert stat.S_IMODE((folder / ".env").stat().st_mode) == 0o600
    values = dict(line.split("=", 1) for line in first.splitlines())
    assert values["MLFLOW_ADMIN_PASSWORD"] == "my-own"
    assert values["SERVICE_ADMIN_SHA256"] == hashlib.sha256(values["SERVICE_ADMIN_TOKEN"].encode()).hexdigest()
    secrets = [value for name, value in values.items() if re.search("PASSWORD|KEY|TOKEN", name)]
    assert len(set(secrets)) == len(secrets) >= 10
    assert min(map(len, set(secrets) - {"my-own"})) == 48
    assert "export MLFLOW_TRACKING_URI=http://team:5000" in stack(folder, "client")
    ignored = subprocess.run(["git", "check-ignore", "-q", "--no-index", ".env"], cwd=ROOT, check=False)
    assert ignored.returncode == 0


def test_a_last_line_without_its_end_is_joined_with_nothing(folder: Path) -> None:
    (folder / ".env").write_text("MLFLOW_ADMIN_PASSWORD=my-own")
    stack(folder, "env")
    lines = (folder / ".env").read_text().splitlines()
    assert "MLFLOW_ADMIN_PASSWORD=my-own" in lines and "COMPOSE_PROJECT_NAME=pawprint" in lines


@pytest.mark.parametrize("name", ["", "x y", "../up"])
@pytest.mark.parametrize("command", ["reset", "down"])
def test_nothing_is_deleted_under_a_name_that_is_none(folder: Path, name: str, command: str) -> None:
    (folder / ".env").write_text(f"A=1COMPOSE_PROJECT_NAME=pawprint\nCOMPOSE_PROJECT_NAME={name}\n")
    done = subprocess.run(
        ["bash", "deploy/stack.sh", command], cwd=folder, input="\n", capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and "COMPOSE_PROJECT_NAME" in done.stderr


@pytest.mark.parametrize("password", ["$(touch ran)", "`touch ran`", "a b;touch ran", "'\"\\$HOME"])
def test_what_a_password_holds_is_not_run(folder: Path, password: str) -> None:
    stack(folder, "env")
    with (folder / ".env").open("a") as file:
        file.write(f"MLFLOW_ADMIN_PASSWORD={password}\nPAWPRINT_HOST={password}\n")
    shell = 'eval "$(bash deploy/stack.sh client)"; printf %s "$MLFLOW_TRACKING_PASSWORD"'
    done = subprocess.run(["bash", "-c", shell], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout == password and not (folder / "ran").exists()


@pytest.mark.skipif(not COMPOSE, reason="neither docker-compose nor docker compose is installed")
@pytest.mark.parametrize("words", COMPOSE, ids="-".join)
def test_compose_takes_every_profile(folder: Path, words: list[str]) -> None:
    def config(profile: str, *files: str) -> subprocess.CompletedProcess[str]:
        named = [word for file in ("docker-compose.yml", *files) for word in ("-f", file)]
        environment = {**os.environ, "COMPOSE_PROFILES": profile}
        return subprocess.run(
            [*words, *named, "config"], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )

    refused = config("all")
    assert refused.returncode != 0
    assert "run make stack" in refused.stderr
    stack(folder, "env")
    for profile, names in PROFILES.items():
        done = config(profile)
        assert done.returncode == 0, done.stderr
        listed = set(yaml.safe_load(done.stdout)["services"])
        assert listed == (names if words == ["docker", "compose"] else listed | names)  # 1.29 lists those of all
    with_gpu = yaml.safe_load(config("all", "docker-compose.gpu.yml").stdout)["services"]
    for name in ("worker", "service"):
        (device,) = with_gpu[name]["deploy"]["resources"]["reservations"]["devices"]
        assert device["capabilities"] == ["gpu"]
        assert with_gpu[name]["read_only"] is True


def test_our_images_stand_on_one_base_and_hold_what_the_lock_says() -> None:
    bases = re.findall(r"^FROM (\S+)", (ROOT / "deploy/Dockerfile").read_text(), re.MULTILINE)
    assert bases == [service.IMAGE.base_image]

    def versions(path: Path) -> dict[str, str]:
        return dict(re.findall(r"^([a-z0-9][\w.-]*)==([^\s;\\]+)", path.read_text(), re.MULTILINE))

    tested, shipped = versions(ROOT / "requirements-dev.lock"), versions(ROOT / "deploy/requirements.lock")
    others = {name: (shipped[name], tested[name]) for name in shipped.keys() & tested if shipped[name] != tested[name]}
    assert not others
    assert shipped.keys() - tested.keys() <= {"boto3", "s3transfer", "flask-wtf", "wtforms"}


def test_alerts_and_dashboard_ask_for_figures_that_the_service_has() -> None:
    counted = [one for one in vars(metrics).values() if isinstance(one, prometheus_client.metrics.MetricWrapperBase)]
    known = {"up"}
    for metric in counted:
        base = metric._name
        known |= {base, f"{base}_total"} | {f"{base}_{part}" for part in ("bucket", "sum", "count")}
    assert len(counted) > 10
    for name in ("prometheus/alerts.yml", "grafana/dashboards/service.json"):
        text = (ROOT / "deploy" / name).read_text()
        used = set(re.findall(r"pawprint_\w+", text))
        assert used
        assert used <= known, used - known


@promtool
def test_prometheus_understands_every_panel(tmp_path: Path) -> None:
    dashboard = json.loads((ROOT / "deploy/grafana/dashboards/service.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    asked += [note["expr"] for note in dashboard["annotations"]["list"]]
    assert len(asked) > 12
    asked = [expr.replace("$__rate_interval", "1m").replace("$__range", "1h") for expr in asked]
    rules = [{"record": f"panel:{number}", "expr": expr} for number, expr in enumerate(asked)]
    (tmp_path / "panels.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    done = subprocess.run(["promtool", "check", "rules", tmp_path / "panels.yml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@promtool
def test_the_alerts_ring_when_they_should() -> None:
    for words in (["check", "config", "prometheus.yml"], ["test", "rules", "alerts.test.yml"]):
        done = subprocess.run(
            ["promtool", *words], cwd=ROOT / "deploy/prometheus", capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

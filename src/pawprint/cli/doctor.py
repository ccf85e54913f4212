"""`pawprint doctor`: is everything here that the project needs, and do the servers answer?

for finding in checks(Path.cwd()):
    print(finding.state, finding.name, finding.found, finding.remedy)

The servers are those that the environment names, as for all other commands.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import typer

from pawprint.cli.common import ROOT, console, examples
from pawprint.errors import port_problem

TOOLS = ("torch", "dvc", "mlflow", "prefect", "bentoml", "openvino")
_GB = 1e9
_WAIT = 5  # seconds for a server's answer


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    name: str
    state: Literal["ok", "warn", "fail"]
    found: str
    remedy: str = ""  # what to do; empty where it is ok

    def as_json(self) -> dict[str, str]:
        """For --json, whose readers know `found` as `said`."""
        return {"name": self.name, "state": self.state, "said": self.found, "remedy": self.remedy}


@examples("pawprint doctor")
def doctor(as_json: Annotated[bool, typer.Option("--json", help="the report as JSON")] = False) -> None:
    """Check tools, versions, GPU, disk, ports, servers and passwords. Exit code 1 where something must be put right."""
    from rich.markup import escape

    output, colours = console(), {"ok": "green", "warn": "yellow", "fail": "red"}
    findings = []
    for finding in checks(ROOT):
        findings.append(finding)
        if not as_json:
            remedy = f" → {finding.remedy}" if finding.remedy else ""
            mark = f"[{colours[finding.state]}]{finding.state:<4}[/]"
            output.print(f"{mark} {finding.name:<15}{escape(finding.found + remedy)}", highlight=False, soft_wrap=True)
    if as_json:
        print(json.dumps([one.as_json() for one in findings], indent=1))
    if any(finding.state == "fail" for finding in findings):
        raise typer.Exit(1)


def checks(root: Path) -> Iterator[Finding]:
    """Every check, in the order in which a person would put things right."""
    yield _python()
    yield from packages(root / "requirements.lock")
    yield from _commands()
    yield _gpu()
    yield _disk(root)
    ours = {urlsplit(os.environ.get(name, "")).port for name in ("MLFLOW_TRACKING_URI", "PAWPRINT_SERVICE")}
    yield port(3000, "make serve PORT=3001", ours)
    yield port(5000, "make ui UI_PORT=5001", ours)
    yield _mlflow()
    yield _prefect()
    yield _service()
    yield repository(root)
    yield remote(root)
    yield index(root)
    yield lockfile(root)
    yield from _secrets(root / ".env")


def _python() -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    if (3, 11) <= sys.version_info[:2] <= (3, 13):
        return Finding("python", "ok", found)
    return Finding("python", "fail", f"{found}; the locks are for 3.11 to 3.13", "make clean setup PYTHON=python3.11")


def packages(lock: Path) -> Iterator[Finding]:
    """The tools at the versions of the lock; nothing where there is no lock here."""
    if not lock.exists():
        return
    locked = dict(re.findall(r"^([a-z0-9][\w.-]*)==([^\s;\\]+)", lock.read_text(encoding="utf-8"), re.MULTILINE))
    for name in TOOLS:
        try:
            here = version(name)
        except PackageNotFoundError:
            yield Finding(name, "fail", "not installed", "make setup")
            continue
        if name in locked and locked[name] != here:
            yield Finding(name, "warn", f"{here}; the lock says {locked[name]}", "make clean setup")
        else:
            yield Finding(name, "ok", here)


def _commands() -> Iterator[Finding]:
    for name, without in (("git", "apt install git"), ("make", "apt install make")):
        found = shutil.which(name)
        yield Finding(name, "ok" if found else "fail", found or "not installed", "" if found else without)
    if not shutil.which("docker"):
        yield Finding("docker", "ok", "not installed; only `make stack` needs it")
        return
    done = subprocess.run(["docker", "info", "--format", "{{.ServerVersion}}"], capture_output=True, text=True)
    if done.returncode == 0:
        yield Finding("docker", "ok", f"engine {done.stdout.strip()}")
    else:
        remedy = "for `make stack`: start it, or join the group docker"
        yield Finding("docker", "warn", "its engine does not answer", remedy)


def _gpu() -> Finding:
    if not shutil.which("nvidia-smi"):
        return Finding("gpu", "ok", "none (no nvidia-smi); the CPU is used")
    done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True)
    if done.returncode != 0:
        found = f"nvidia-smi fails: {done.stdout.strip()[:100]}"
        return Finding("gpu", "warn", found, "repair the driver, or use the CPU")
    cards = re.sub(r" \(UUID.*?\)", "", done.stdout.strip()).replace("\n", ", ")
    if "+cpu" in version("torch"):
        return Finding("gpu", "warn", f"{cards}, but torch is the CPU build", "make clean setup TORCH=cuda")
    return Finding("gpu", "ok", cards)


def _disk(root: Path) -> Finding:
    free = shutil.disk_usage(root).free / _GB
    found = f"{free:,.0f} GB free in {root}"
    if free < 1:
        return Finding("disk", "fail", found, "free some: cache/features/ is computed again where it is gone")
    if free < 10:
        return Finding("disk", "warn", found, "a run of some thousand photographs takes a few GB")
    return Finding("disk", "ok", found)


def port(number: int, remedy: str, ours: Collection[int | None]) -> Finding:
    """Can a server here listen on it? `ours` are those that the environment names servers at."""
    name, problem = f"port {number}", port_problem("127.0.0.1", number)
    if problem and number not in ours:
        return Finding(name, "warn", f"cannot be used ({problem})", remedy)
    return Finding(name, "ok", "taken by your own server" if problem else "free")


def _mlflow() -> Finding:
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if not uri.startswith(("http://", "https://")):
        found = uri or "none (MLFLOW_TRACKING_URI is unset); runs are kept in mlflow.db here"
        return Finding("mlflow server", "ok", found)
    user, secret = (os.environ.get(f"MLFLOW_TRACKING_{part}", "") for part in ("USERNAME", "PASSWORD"))
    finding = _ask("mlflow server", uri, "/health", "", "MLFLOW_TRACKING_URI")
    if finding.state == "ok":
        path, user_and_secret = "/api/2.0/mlflow/experiments/search?max_results=1", f"{user}:{secret}" if user else ""
        finding = _ask("mlflow server", uri, path, user_and_secret, "MLFLOW_TRACKING_USERNAME/PASSWORD")
    return finding


def _prefect() -> Finding:
    url = os.environ.get("PREFECT_API_URL", "")
    if not url:
        found = "none (PREFECT_API_URL is unset); each `make run` starts a temporary one"
        return Finding("prefect server", "ok", found)
    finding = _ask("prefect server", url, "/health", "", "PREFECT_API_URL")
    if finding.state == "ok":
        secret = os.environ.get("PREFECT_API_AUTH_STRING", "")
        finding = _ask("prefect server", url, "/admin/version", secret, "PREFECT_API_AUTH_STRING")
        theirs, ours = finding.found.rpartition(" ")[2].strip('"'), version("prefect")
        if finding.state == "ok" and theirs != ours:
            remedy = "make both the same: make stack, or make setup"
            return Finding("prefect server", "warn", f"{theirs}, and {ours} here", remedy)
    return finding


def _service() -> Finding:
    url = os.environ.get("PAWPRINT_SERVICE", "")
    if not url:
        return Finding("service", "ok", "none (PAWPRINT_SERVICE is unset)")
    return _ask("service", url, "/readyz", "", "PAWPRINT_SERVICE")


def _ask(name: str, url: str, path: str, user_and_secret: str, variable: str) -> Finding:
    """Does `url` + `path` answer? A refusal and no answer are different findings; no secret is shown."""
    import httpx

    parts = urlsplit(url)
    shown = f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "") + parts.path.rstrip("/")
    secret = user_and_secret or (f"{parts.username}:{parts.password}" if parts.username else "")
    user, _, password = secret.partition(":")
    try:
        auth = (user, password) if secret else None
        answer = httpx.get(shown + path, auth=auth, timeout=_WAIT, follow_redirects=True)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return Finding(name, "fail", f"{shown} does not answer ({error})", f"start it, or correct or unset {variable}")
    if answer.status_code in (401, 403):
        found = f"{shown} {'refuses this' if secret else 'wants a'} user and password ({answer.status_code})"
        return Finding(name, "fail", found, f"set {variable} (`deploy/stack.sh client` shows them)")
    if answer.is_error:
        return Finding(name, "fail", f"{shown}{path} answers {answer.status_code}", "its own log says why")
    return Finding(name, "ok", f"{shown} answers" + (f" {answer.text[:100]}" if path == "/admin/version" else ""))


def repository(root: Path) -> Finding:
    """Is this project in git, which DVC and a model's record need?"""
    from pawprint import dvc, lineage

    if problem := dvc.no_repository(root):
        return Finding("git repository", "fail", problem)
    problem = lineage.why_no_commit(root)
    return Finding("git repository", "warn" if problem else "ok", problem or lineage.commit_of(root, "HEAD")[:12])


def remote(root: Path) -> Finding:
    """DVC's default remote: is there one, and does it let us in?"""
    from pawprint import dvc

    name = dvc.default_remote(root) if (root / ".dvc").is_dir() else ""
    if not name:
        return Finding("dvc remote", "ok", "none; photographs and models stay on this machine")
    settings = dvc.remote(root, name)
    url = settings.get("url", "")
    if url.startswith("s3://"):
        return bucket(name, settings)
    if "://" in url:
        return Finding("dvc remote", "ok", f"{name}: {url} (not checked; `dvc status --cloud` does)")
    folder = root / ".dvc" / url  # DVC takes a relative one from where its config lies
    if folder.is_dir() and os.access(folder, os.W_OK):
        return Finding("dvc remote", "ok", f"{name}: {url}")
    return Finding("dvc remote", "fail", f"{name}: {url} is not a folder that can be written", "make it, or mount it")


def index(root: Path) -> Finding:
    """Can nobody else write DVC's index, which it reads by pickle?"""
    from pawprint import dvc

    if not (root / ".dvc").is_dir() or dvc.index_is_private(root):
        return Finding("dvc index", "ok", "nobody else can write it")
    return Finding("dvc index", "warn", "is in a folder that everybody can write", "make setup")


def lockfile(root: Path) -> Finding:
    """Is dvc.lock whole?"""
    from pawprint import dvc

    if dvc.is_damaged(root):
        remedy = "`pawprint run` puts the last whole one back"
        return Finding("dvc.lock", "fail", "cut off while DVC wrote it", remedy)
    return Finding("dvc.lock", "ok", "whole" if (root / dvc.LOCKFILE).exists() else "none yet")


def bucket(name: str, settings: dict[str, str]) -> Finding:
    """Does the bucket of an S3 remote answer to the keys of DVC's configuration or the environment?"""
    import botocore.session
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    keys = {f"aws_{key}": settings.get(key) for key in ("access_key_id", "secret_access_key")}
    endpoint = settings.get("endpointurl") or os.environ.get("AWS_ENDPOINT_URL")
    where = f"{name}: {settings['url']}" + (f" at {endpoint}" if endpoint else "")
    try:
        config = Config(connect_timeout=_WAIT, read_timeout=_WAIT, retries={"total_max_attempts": 1})
        region = settings.get("region") or os.environ.get("AWS_DEFAULT_REGION", "us-east-1")
        client = botocore.session.get_session().create_client(
            "s3", region_name=region, endpoint_url=endpoint, config=config, **keys
        )
        client.list_objects_v2(Bucket=urlsplit(settings["url"]).netloc, MaxKeys=1)
    except (BotoCoreError, ClientError, ValueError) as error:
        code = getattr(error, "response", {}).get("Error", {}).get("Code", "")
        if code in ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "403") or "redentials" in str(error):
            remedy = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (`deploy/stack.sh client` says them)"
            return Finding("dvc remote", "fail", f"{where} refuses these keys ({code or 'there are none'})", remedy)
        if code == "NoSuchBucket":
            return Finding("dvc remote", "fail", f"{where}: there is no such bucket", "make it, or correct the url")
        found = f"{where} does not answer ({str(error).splitlines()[0][:100]})"
        return Finding("dvc remote", "fail", found, f"start it, or `dvc remote modify --local {name} endpointurl URL`")
    return Finding("dvc remote", "ok", f"{where} answers")


def _secrets(path: Path) -> Iterator[Finding]:
    if path.exists():
        open_to_others = path.stat().st_mode & 0o077
        found = "others on this machine can read the stack's secrets" if open_to_others else "only you can read it"
        yield Finding(".env", "fail" if open_to_others else "ok", found, "chmod 600 .env" if open_to_others else "")

"""A rollout as deploy/kubernetes/gateway does it, on one machine: `python benchmarks/rollout.py`.

Four real service processes behind Debian's HAProxy, which stands for the gateway, and Debian's Prometheus. `roll_out`
plays Argo Rollouts: it takes the steps from rollout.yaml, and queries, conditions and limits from analysis.yaml. What
differs from a cluster: time is shorter (`--speed`, `--pause-speed`), and nothing is scheduled on machines.

    good        a new version goes through all steps: how many of the requests fail, which share each weight gave,
                seconds from the last step until every process answers with one digest
    slow        a version that takes 200 ms more: intervals until it is taken back
    errors      a version whose answers are 5xx in 2 % of the cases: likewise
    refusals    a version that calls everything `unknown`: likewise
"""

import argparse
import asyncio
import json
import math
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import numpy as np
import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from pawprint import image  # noqa: E402
from pawprint.inference.classifier import ModelInfo  # noqa: E402
from service_process import free_port, serving  # noqa: E402
from toy import build_toy_model  # noqa: E402

GATEWAY = ROOT / "deploy" / "kubernetes" / "gateway"
REPLICAS, TOTAL = 4, 200  # processes; the sum of weights in HAProxy, whose largest is 256
FAULTS = {
    "slow": "await asyncio.sleep(0.2)",
    "errors": "if random.random() < 0.02: raise RuntimeError('one in fifty')",
    "refusals": "",
}
# A service whose engine has a fault, so that everything around it is the real one.
FAULTY = """
import asyncio, random
from dataclasses import replace
from pawprint.serving.engine import Engine

predict = Engine.predict

async def faulty(self, data):
    {fault}
    return await predict(self, data)

Engine.predict = faulty
from pawprint.serving.service import Pawprint
"""
HAPROXY = """
global
    stats socket {folder}/haproxy.sock mode 600 level admin
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 35s
frontend gateway
    bind 127.0.0.1:{port}
    default_backend service
backend service
    balance roundrobin
    option httpchk GET /readyz
    default-server check inter 1s fall 2 rise 1
"""
PROMETHEUS = """
global: {{scrape_interval: 1s, scrape_timeout: 1s}}
scrape_configs: [{{job_name: pods, file_sd_configs: [{{files: ["{folder}/targets.json"]}}]}}]
"""


def manifests(name: str) -> list[dict[str, Any]]:
    """The resources of a file of the gateway's."""
    return [one for one in yaml.safe_load_all((GATEWAY / name).read_text()) if one]


def seconds(text: str) -> float:
    """Of `10m` or `30s`."""
    return float(text[:-1]) * {"s": 1, "m": 60, "h": 3600}[text[-1]]


class Analysis:
    """The AnalysisTemplate, as Argo Rollouts would run it in the background."""

    def __init__(self, prometheus: str, speed: float, canary: str, stable: str) -> None:
        (template,) = manifests("analysis.yaml")
        self.metrics = template["spec"]["metrics"]
        self.interval = seconds(self.metrics[0]["interval"]) / speed
        given = {one["name"]: one.get("value", "") for one in template["spec"]["args"]}
        window = f"{seconds(given['window']) / speed:.0f}s"
        self.args = {**given, "canary": canary, "stable": stable, "window": window}
        self.prometheus, self.measured = prometheus, 0
        self.counts: Counter[tuple[str, str]] = Counter()
        self.values: dict[str, list[float]] = {one["name"]: [] for one in self.metrics}

    def measure(self) -> str:
        """Why the version is to be taken back after one more measurement of each metric; "" where it may go on."""
        self.measured += 1
        for metric in self.metrics:
            query = re.sub(r"{{args\.(\w+)}}", lambda m: self.args[m[1]], metric["provider"]["prometheus"]["query"])
            answer = httpx.get(f"{self.prometheus}/api/v1/query", params={"query": query}).json()
            result = [float(one["value"][1]) for one in answer["data"]["result"]]
            self.values[metric["name"]] += result
            state = "inconclusive"
            for kind in ("failure", "success"):
                if _holds(metric[f"{kind}Condition"], result):
                    state = kind
            self.counts[metric["name"], state] += 1
            for kind in ("failure", "inconclusive"):
                if self.counts[metric["name"], kind] > metric.get(f"{kind}Limit", 0):
                    return f"{metric['name']}: {kind}, {[round(one, 4) for one in self.values[metric['name']]]}"
        return ""


def _holds(condition: str, result: list[float]) -> bool:
    """A condition in Argo's language, as far as ours use it."""
    python = condition.replace("&&", "and").replace("||", "or")
    return bool(eval(python, {"__builtins__": {}}, {"result": result, "len": len, "isNaN": math.isnan}))


@dataclass
class Pod:
    """A service process."""

    name: str
    url: str
    stack: ExitStack

    @property
    def address(self) -> str:
        """host:port."""
        return self.url.removeprefix("http://")


@dataclass
class Place:
    """Gateway, Prometheus and the processes that run now."""

    folder: Path
    gateway: int
    prometheus: str
    stop_seconds: float
    pods: dict[str, list[Pod]] = field(default_factory=dict)  # by version
    started: int = 0

    def scale(self, version: str, model: Path, count: int, fault: str = "") -> None:
        """Processes of a version, ready; they get no requests yet."""
        pods = self.pods.setdefault(version, [])
        names = [f"pawprint-{version}-{self.started + number}" for number in range(count - len(pods))]
        self.started += len(names)
        with ThreadPoolExecutor(2) as starting:  # more take each other's cores
            list(starting.map(lambda name: self._start(name, version, model, fault), names))
        self.tell_prometheus()

    def _start(self, name: str, version: str, model: Path, fault: str) -> None:
        """A process, ready, and known to HAProxy with a weight of 0."""
        home = self.folder / name
        home.mkdir()
        env, target = {"PAWPRINT_MODEL": str(model), "PAWPRINT_TRAFFIC": str(home / "traffic")}, "."
        if fault:
            module = name.replace("-", "_")
            target, env["PYTHONPATH"] = f"{module}:Pawprint", str(home)
            (home / f"{module}.py").write_text(FAULTY.format(fault=FAULTS[fault] or "pass"))
        stack = ExitStack()
        url, _ = stack.enter_context(serving(home / "log", env, target))
        pod = Pod(name, url, stack)
        self.haproxy(f"add server service/{name} {pod.address} check inter 1s weight 0")
        self.haproxy(f"enable health service/{name}")
        self.haproxy(f"enable server service/{name}")
        self.pods[version].append(pod)

    def weigh(self, stable: str, canary: str, weight: int) -> None:
        """`weight` % of the requests to `canary`, the rest to `stable`."""
        for version, share in ((stable, 100 - weight), (canary, weight)):
            pods = self.pods.get(version, [])
            for number, pod in enumerate(pods):
                part = share * TOTAL // 100
                own = part // len(pods) + (number < part % len(pods))
                self.haproxy(f"set server service/{pod.name} weight {own}")

    def stop(self, version: str) -> None:
        """End a version's processes as Kubernetes does: no new requests, a pause, SIGTERM."""
        gone = self.pods.pop(version, [])
        for pod in gone:
            self.haproxy(f"set server service/{pod.name} state drain")
        time.sleep(self.stop_seconds)
        with ThreadPoolExecutor(REPLICAS) as ending:
            list(ending.map(lambda pod: pod.stack.close(), gone))
        for pod in gone:
            self.haproxy(f"set server service/{pod.name} state maint")
            self.haproxy(f"del server service/{pod.name}")
        self.tell_prometheus()

    def digests(self) -> set[str]:
        """Of the models that all processes answer with."""
        return {httpx.get(f"{pod.url}/model").json()["model"]["digest"] for pods in self.pods.values() for pod in pods}

    def tell_prometheus(self) -> None:
        """Which processes there are."""
        targets = [
            {"targets": [pod.address], "labels": {"pod": pod.name}} for pods in self.pods.values() for pod in pods
        ]
        partial = self.folder / "targets.json.new"
        partial.write_text(json.dumps(targets))
        partial.replace(self.folder / "targets.json")

    def haproxy(self, command: str) -> str:
        """A command of its runtime API."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self.folder / "haproxy.sock"))
            connection.sendall(f"{command}\n".encode())
            answer = b"".join(iter(lambda: connection.recv(4096), b"")).decode().strip()
        if re.search(r"(?i)unknown|no such|error|fail|can't|must|require|invalid", answer):
            raise RuntimeError(f"HAProxy: {command}: {answer}")
        return answer


@contextmanager
def place(folder: Path, stop_seconds: float) -> Iterator[Place]:
    """HAProxy and Prometheus, on 127.0.0.1 alone; they end with the block, and so do the processes."""
    gateway, port = free_port(), free_port()
    (folder / "haproxy.cfg").write_text(HAPROXY.format(folder=folder, port=gateway))
    (folder / "prometheus.yml").write_text(PROMETHEUS.format(folder=folder))
    (folder / "targets.json").write_text("[]")
    commands = (
        ["haproxy", "-db", "-f", f"{folder}/haproxy.cfg"],
        ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/tsdb",
         f"--web.listen-address=127.0.0.1:{port}"],
    )  # fmt: skip
    with (folder / "servers.log").open("wb") as log:
        servers = [subprocess.Popen(command, stdout=log, stderr=log) for command in commands]
    found = Place(folder, gateway, f"http://127.0.0.1:{port}", stop_seconds)
    try:
        _wait(lambda: httpx.get(f"{found.prometheus}/-/ready").status_code == 200, folder / "servers.log")
        _wait(lambda: bool(found.haproxy("show version")), folder / "servers.log")
        yield found
    finally:
        for pods in found.pods.values():
            for pod in pods:
                pod.stack.close()
        for server in servers:
            server.terminate()
            server.wait(30)


def _wait(ready: Any, log: Path) -> None:
    for _ in range(300):
        try:
            if ready():
                return
        except (httpx.HTTPError, OSError):
            pass
        time.sleep(0.1)
    raise RuntimeError(f"a server did not start:\n{log.read_text()}")


class Clients(Thread):
    """Requests at a steady rate until `close`; each answer's time, status, version and seconds.

    Pictures are drawn: in a fixed order a weight of 5 % gave the canary each 20th, always the same three of 60.
    """

    def __init__(self, port: int, rate: float, pictures: list[bytes]) -> None:
        super().__init__()
        self.port, self.rate, self.pictures = port, rate, pictures
        self.seen: list[tuple[float, int, str, float]] = []
        self.closing = False

    def run(self) -> None:
        """The thread."""
        asyncio.run(self._run())

    def close(self) -> None:
        """Send no more, and wait for the answers."""
        self.closing = True
        self.join()

    def shares(self, since: float, until: float) -> dict[str, float]:
        """Of the versions, among the good answers between two times."""
        counts = Counter(version for when, status, version, _ in self.seen if since <= when < until and status == 200)
        return {version: count / counts.total() for version, count in counts.items()}

    async def _run(self) -> None:
        limits = httpx.Limits(max_connections=64, max_keepalive_connections=64)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", limits=limits, timeout=60) as client:
            tasks: set[asyncio.Task[None]] = set()
            due, rng = time.monotonic(), random.Random(2017)
            while not self.closing:
                await asyncio.sleep(max(0, due - time.monotonic()))
                due = max(due + 1 / self.rate, time.monotonic() - 1)
                if len(tasks) < 64:  # past it the rate is the service's
                    task = asyncio.create_task(self._one(client, rng.choice(self.pictures)))
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
            await asyncio.gather(*tasks)

    async def _one(self, client: httpx.AsyncClient, picture: bytes) -> None:
        started = time.monotonic()
        try:
            answer = await client.post("/predict", content=picture)
            status, version = answer.status_code, answer.headers.get("x-pawprint-model", "none").split()[0]
        except httpx.HTTPError:
            status, version = 0, ""
        self.seen.append((started, status, version, time.monotonic() - started))


def roll_out(
    place: Place, clients: Clients, stable: str, canary: str, model: Path, speed: float, pause_speed: float, fault: str
) -> dict[str, Any]:
    """The Rollout's steps with its background analysis. What came of it."""
    (steps,) = [
        one["spec"]["strategy"]["canary"]["steps"] for one in manifests("rollout.yaml") if one["kind"] == "Rollout"
    ]
    analysis = Analysis(place.prometheus, speed, canary, stable)
    shares: dict[str, float] = {}
    version = f"pawprint-colours/{canary}"
    next_one = weighed = 0.0
    weight, reason = 0, ""
    for step in steps:
        if "setWeight" in step:
            weight = step["setWeight"]
            place.scale(canary, model, max(1, round(weight / 100 * REPLICAS)), fault)
            place.weigh(stable, canary, weight)
            weighed = time.monotonic()
            next_one = next_one or weighed + analysis.interval
            continue
        until = time.monotonic() + seconds(step["pause"]["duration"]) / pause_speed
        while not reason and next_one < until:
            time.sleep(max(0, next_one - time.monotonic()))
            next_one += analysis.interval
            reason = analysis.measure()
        if reason:
            place.weigh(stable, canary, 0)
            place.stop(canary)
            measured = len(analysis.values[reason.partition(":")[0]])
            return {"taken_back": reason, "intervals": analysis.measured, "measured": measured}
        time.sleep(max(0, until - time.monotonic()))
        shares[str(weight)] = clients.shares(weighed, time.monotonic()).get(version, 0)
    promoted = time.monotonic()
    place.scale(canary, model, REPLICAS, fault)
    place.weigh(stable, canary, 100)
    place.stop(stable)
    while len(place.digests()) > 1:
        time.sleep(0.2)
    return {"shares": shares, "one_digest_s": round(time.monotonic() - promoted, 1), "intervals": analysis.measured,
            "values": analysis.values}  # fmt: skip


def measure_share(place: Place, clients: Clients, stable: str, canary: str, model: Path, requests: int) -> float:
    """The share that a weight of 10 gives, over so many requests."""
    place.scale(canary, model, 1)
    place.weigh(stable, canary, 10)
    time.sleep(1)
    since, count = time.monotonic(), len(clients.seen)
    while len(clients.seen) < count + requests:
        time.sleep(0.1)
    share = clients.shares(since, time.monotonic()).get(f"pawprint-colours/{canary}", 0)
    place.weigh(stable, canary, 0)
    return share


def pictures(refused: float) -> list[bytes]:
    """Drawn photographs; the toy model calls the green ones `unknown`."""
    rng = np.random.default_rng(15)
    found = []
    for number in range(60):
        colour = (40, 220, 40) if number < refused * 60 else ((220, 40, 40), (40, 40, 220))[number % 2]
        noise = rng.integers(-30, 30, (120, 160, 1))
        found.append(image.encode(np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)))
    return found


def main() -> None:
    """Print a JSON object with the results of the chosen parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["good", "slow", "errors", "refusals"])
    parser.add_argument("--speed", type=float, default=3, help="how much shorter than on a cluster an interval is")
    parser.add_argument("--pause-speed", type=float, default=15, help="how much shorter the pauses between steps are")
    parser.add_argument("--rate", type=float, default=150, help="requests a second")
    parser.add_argument("--requests", type=int, default=10_000, help="over which the share of 10 %% is counted")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the processes end too
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="pawprint-rollout-") as scratch, place(Path(scratch), 2) as found:
        old = build_toy_model(found.folder / "old", "1")
        found.scale("1", old, REPLICAS)
        found.weigh("1", "2", 0)
        clients = Clients(found.gateway, given.rate, pictures(0.1))
        clients.start()
        try:
            stable = "1"
            for number, part in enumerate(given.parts, 2):
                before, began = len(clients.seen), time.monotonic()
                canary, fault = str(number), "" if part == "good" else part
                model = build_toy_model(found.folder / f"model{number}", canary, scale=50 - number)
                if part == "refusals":
                    refuse_all(model)
                if part == "good":
                    results["share_of_10"] = measure_share(found, clients, stable, canary, model, given.requests)
                done = roll_out(found, clients, stable, canary, model, given.speed, given.pause_speed, fault)
                seen = clients.seen[before:]
                statuses = Counter(str(status) for _, status, _, _ in seen)
                rate = round(len(seen) / (time.monotonic() - began))
                results[part] = {**done, "requests": len(seen), "statuses": dict(statuses), "a_second": rate}
                if part == "good":
                    stable = canary
        finally:
            clients.close()
    print(json.dumps(results, indent=1))


def refuse_all(model: Path) -> None:
    """Change its threshold so that every picture is `unknown` to it."""
    info = ModelInfo.read(model)
    (model / "model.json").write_text(info.model_copy(update={"ood_threshold": 1.1}).model_dump_json())


if __name__ == "__main__":
    main()

"""The pipeline as the worker runs it: on the branch's head, then the champion into service and a notification.

python -m flows.worker      # starts the worker; runs then begin on schedule, for new photographs, or in Prefect's UI

Modules imported at the top are those of the run's start; what the flow imports later is the branch's head.
"""

import json
import os
from typing import Any

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import FlowRun, State
from prefect.flows import Flow

from flows import ROOT, git_sync, notifications, rollout
from flows.rollout import NotServed
from flows.tasks import step
from pawprint import dvc
from pawprint.errors import PawprintError
from pawprint.files import write_json

BUSY = 60.0  # seconds to wait for processes that a killed run left
TIMEOUT = 3600 * float(os.environ.get("PAWPRINT_TIMEOUT_HOURS", "12"))


def failed(flow: "Flow[..., Any]", flow_run: FlowRun, state: State[Any]) -> None:
    """Notify people that the run failed, and why."""
    try:
        error = state.result(raise_on_failure=False)
    except Exception:  # a crashed run has no result
        error = None
    why = str(error) if isinstance(error, PawprintError | NotServed) else state.message or ""
    title = f"pawprint: {flow_run.name} {(state.name or '').lower()}"
    notifications.send(title, f"{why}\nIts log: {_address(flow_run)}")


def _address(run: FlowRun) -> str:
    from prefect.settings import get_current_settings

    settings = get_current_settings()
    ui = settings.ui_url or (settings.api.url or "").removesuffix("/api")
    return f"{ui}/runs/flow-run/{run.id}"


@flow(
    name="scheduled",
    flow_run_name="scheduled",
    retries=2,
    retry_delay_seconds=int(os.environ.get("PAWPRINT_RETRY_SECONDS", "120")),
    timeout_seconds=TIMEOUT,
    on_failure=[failed],
    on_crashed=[failed],
)
def scheduled() -> None:
    """`make run` on the newest commit, then the champion into service."""
    with dvc.lock(ROOT, patience=BUSY):
        # 1. the code, the parameters and the photographs of the branch's head
        update()
        pull()

        # 2. photographs of the service's traffic; enough decisions, or drift, start a training or a review
        from flows import loop

        os.environ["PAWPRINT_REASON"] = loop.look(git_sync.Settings())

        # 3. stale stages, registry, the team's remote
        from flows.pipeline import pipeline

        pipeline.fn()
        loop.trained(git_sync.Settings())

        # 4. the champion into service; a notification of a new one
        deliver()
        announce()


@step(retries=2, delay=10)
def update() -> None:
    """The worker's clone to the head of its branch."""
    commit = git_sync.prepare(git_sync.Settings())
    get_run_logger().info("at commit %s", commit)


@step(retries=2, delay=10)
def pull() -> None:
    """The photographs that data.dvc names now."""
    dvc.pull(ROOT, "data.dvc")


@step(retries=5, delay=10)
def deliver() -> None:
    """Champion and challenger into the service's folder, and taken over."""
    if (ROOT / "champion").is_dir() and rollout.deliver(ROOT / "champion", ROOT / "challenger"):
        get_run_logger().info("delivered to %s", os.environ["PAWPRINT_DELIVER"])


def announce() -> None:
    """Notify of a promotion once, also when its run was retried."""
    champion = json.loads((ROOT / "champion.json").read_bytes())
    known = ROOT / "cache" / "announced.json"
    named = {name: champion[name] for name in ("model", "version", "model_digest")}
    if known.exists() and json.loads(known.read_bytes()) == named:
        return
    verdict = json.loads((ROOT / "reports" / "gate.json").read_bytes())
    title = f"pawprint: {champion['model']} version {champion['version']} is champion"
    notifications.send(title, f"{champion['candidate']}: {verdict['reason']}", good=True)
    write_json(known, named)

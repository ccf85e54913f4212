"""The worker: deploys the pipeline on a Prefect server and runs it, every night and for each new data version.

python -m flows.worker        PREFECT_API_URL, PAWPRINT_REPOSITORY, PAWPRINT_WORKSPACE; see flows/git_sync.py

It may be started again at any time. `prefect worker` runs as its child; beside it, once a minute, git is asked whether
data.dvc has changed (docs/decisions/schedule.md says why not a flow).
"""

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from typing import Any
from uuid import UUID

# PostgreSQL away for a moment makes the server answer 500: such a request is retried.
os.environ.setdefault("PREFECT_CLIENT_RETRY_EXTRA_CODES", "500,504")
os.environ.setdefault("PREFECT_CLIENT_MAX_RETRIES", "8")

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.deployments import arun_deployment
from prefect.exceptions import PrefectHTTPStatusError
from prefect.flows import Flow
from prefect.settings import get_current_settings
from prefect.states import AwaitingRetry, Cancelled, Crashed
from prefect.types._datetime import now
from prefect.workers.process import ProcessWorker

from flows import git_sync, live
from flows.tasks import explained
from pawprint import dvc
from pawprint.config import load_params
from pawprint.errors import PawprintError
from pawprint.evaluation import gate

POOL = "pawprint"
DEPLOYMENT = "pawprint"
ENTRYPOINT = "flows/nightly.py:scheduled"
NAME = f"scheduled/{DEPLOYMENT}"
WAIT = 300.0  # seconds that the Prefect server may take to start
POLL_SECONDS = float(os.environ.get("PAWPRINT_LOOK_SECONDS", "60"))  # between two looks at the branch
ATTEMPTS = 5  # a run whose process died as often is left for a person

logger = logging.getLogger("pawprint.worker")


def main() -> None:
    """Deploy, then run Prefect's worker until it ends."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    with explained():
        settings = git_sync.Settings()
        wait_for_server()
        if not (settings.root / ".git").exists():
            git_sync.prepare(settings)
        with get_client(sync_client=True) as client:
            create_pool(client)
            deployment = asyncio.run(deploy(settings))
            resume_orphans(client, deployment, settings)
    sys.exit(work(settings))


def wait_for_server() -> None:
    """Wait until the Prefect server answers and accepts the password."""
    url = get_current_settings().api.url
    if not url:
        raise PawprintError("PREFECT_API_URL is not set. It names the Prefect server: http://HOST:4200/api.")
    deadline = time.monotonic() + WAIT
    while True:
        try:
            with get_client(sync_client=True) as client:
                client.read_work_pools(limit=1)
            return
        except PrefectHTTPStatusError as error:
            if error.response.status_code in (401, 403):
                raise PawprintError(
                    f"The Prefect server at {url} refuses the password. Set PREFECT_API_AUTH_STRING to what "
                    "the server has as PREFECT_SERVER_API_AUTH_STRING."
                ) from None
            why: Exception = error
        except httpx.HTTPError as error:
            why = error
        if time.monotonic() > deadline:
            raise PawprintError(f"The Prefect server at {url} does not answer ({why}). Start it, or correct the URL.")
        time.sleep(2)


def create_pool(client: SyncPrefectClient) -> None:
    """The work pool, one run at a time."""
    template = ProcessWorker.get_default_base_job_template()
    pool = WorkPoolCreate(name=POOL, type="process", concurrency_limit=1, base_job_template=template)
    client.create_work_pool(pool, overwrite=True)


async def deploy(settings: git_sync.Settings) -> UUID:
    """The deployment, made or brought up to date; its id."""
    flow: Flow[..., Any] = await Flow.afrom_source(source=str(settings.root), entrypoint=ENTRYPOINT)
    return await flow.adeploy(
        name=DEPLOYMENT,
        work_pool_name=POOL,
        cron=settings.cron,
        job_variables={"working_dir": str(settings.root)},
        description="Photographs in, champion out: what `make run` does, and the champion into service.",
        build=False,
        push=False,
        print_next_steps=False,
        ignore_warnings=True,
    )


def resume_orphans(client: SyncPrefectClient, deployment: UUID, settings: git_sync.Settings) -> None:
    """Resume runs that a stopped or killed worker left unfinished, in the same run.

    The workspace's lock is free, so none of their processes lives. They would hold the pool's one place for ever.
    """
    try:
        with dvc.lock(settings.root):
            for run in unfinished(client, deployment):
                if run.state_type == StateType.CANCELLING:
                    client.set_flow_run_state(run.id, Cancelled(message="The worker was gone before it could."), True)
                elif run.run_count >= ATTEMPTS:
                    client.set_flow_run_state(run.id, Crashed(message=f"Its process died {run.run_count} times."), True)
                else:
                    # a run that has been tried again in its own process is handed to no worker unless it says so
                    policy = run.empirical_policy.model_copy(update={"retry_type": "reschedule"})
                    client.update_flow_run(run.id, empirical_policy=policy)
                    again = now("UTC") + timedelta(seconds=1)
                    state: State[None] = AwaitingRetry(scheduled_time=again, message="Its worker was gone.")
                    client.set_flow_run_state(run.id, state, True)
                    logger.info("run %s was cut off: resuming it", run.id)
    except PawprintError as error:
        logger.info("%s", error)  # a run that outlived its worker ends by itself


def unfinished(client: SyncPrefectClient, deployment: UUID) -> list[FlowRun]:
    """Runs of the deployment that a worker has taken up, those that wait to be tried again among them."""
    states = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING, StateType.SCHEDULED]
    found = client.read_flow_runs(
        deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment])),
        flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=states))),
    )
    return [run for run in found if run.state_type != StateType.SCHEDULED or run.run_count > 0]


def work(settings: git_sync.Settings) -> int:
    """Prefect's worker, for as long as it lives; its exit code."""
    root = settings.root
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(root / "src"), str(root)))}
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--type", "process"]
    if "PREFECT_WORKER_WEBSERVER_PORT" in os.environ:  # the container's health check asks there
        command.append("--with-healthcheck")
    workers: list[subprocess.Popen[bytes]] = []

    def stop(*_: object) -> None:
        for process in workers:
            process.terminate()

    # Before the worker starts: a shell's background job ignores SIGINT, and so would Prefect's worker, which turns
    # every other signal into that one.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    worker = subprocess.Popen(command, cwd=root, env=environment)
    workers.append(worker)
    started = judged = ""
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return worker.wait(timeout=POLL_SECONDS)
        started = poll_branch(settings, started)
        judged = poll_traffic(settings, judged)


def poll_branch(settings: git_sync.Settings, started: str) -> str:
    """Start a run where the branch has a data.dvc for which none was started; returns its commit.

    The idempotency key is the commit: a second request, from here or elsewhere, gives the same run.
    """
    try:
        git_sync.fetch(settings)
        commit = git_sync.data_commit(settings)
        if commit and commit != started:
            run = asyncio.run(arun_deployment(NAME, timeout=0, idempotency_key=f"data {commit}", as_subflow=False))
            logger.info("data.dvc of %s: run %s", commit[:12], run.id)
        return commit
    except Exception as error:  # git or the server is away: the next look is soon
        logger.warning("looking for new photographs: %s", error)
        return started


def poll_traffic(settings: git_sync.Settings, started: str) -> str:
    """Start a run where a challenger that waits for live traffic has its answers; returns the challenger's digest."""
    try:
        if (found := gate.waiting(settings.root)) is None or found[0].model_digest == started:
            return started
        entry, verdict = found
        wanted = load_params(settings.root / "params.yaml").gate.live_answers
        if live.count(entry, verdict.over) < wanted:
            return started
        key = f"live {entry.model_digest} over {verdict.over}"
        run = asyncio.run(arun_deployment(NAME, timeout=0, idempotency_key=key, as_subflow=False))
        logger.info("version %s has its %s answers: run %s", entry.version, wanted, run.id)
        return entry.model_digest
    except Exception as error:  # the log or the server is away: the next look is soon
        logger.warning("looking at live traffic: %s", error)
        return started


if __name__ == "__main__":
    main()

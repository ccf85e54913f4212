"""The whole pipeline: photographs, `dvc repro`, push, and a table of results.

python -m flows.pipeline run                                  what `make run` does
python -m flows.pipeline run --photos train.zip --name pets   on your own photographs
python -m flows.pipeline repair                               package the version that the registry's alias points at
"""

import argparse
import os
import sys
import threading
import uuid
from contextlib import suppress
from typing import TYPE_CHECKING

# On the terminal DVC's and the stages' own lines suffice; the server has the whole log.
os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")

from flows import ROOT, live
from flows.tasks import explained, flow, is_local, run, step
from pawprint import dvc
from pawprint.config import load_params
from pawprint.data import ingest
from pawprint.errors import PawprintError, interrupt_once
from pawprint.evaluation import run_report, summary
from pawprint.files import read_json, recover, write_text
from pawprint.progress import as_json, relay, say

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient


@flow(name="pipeline", flow_run_name="pipeline")
def pipeline(photos: str | None = None, name: str | None = None) -> None:
    """From photographs to a packaged champion; up-to-date stages are not run again."""
    # 1. which photographs
    if photos is not None:
        import_photos(photos, name)
    pull_photos()

    # 2. preprocess, train, evaluate, register, package: whatever is stale, in DVC's order
    reproduce()

    # 3. a challenger that waits for live traffic is promoted when its answers are there
    live.follow()

    # 4. registry, champion.json and Bento name the same version, also after a rollback by hand
    repair()

    # 5. to the team's remote, where there is one
    push()


@step()
def import_photos(photos: str, name: str | None) -> None:
    """Replace data/ by a person's photographs and let DVC version them."""
    before = dvc.snapshot(ROOT)
    result = ingest.ingest(photos, ROOT / "data", name)
    say(result.summary())
    dvc.add(ROOT, "data")
    if result.changed and before:
        dvc.keep(ROOT, before)
        say("The photographs of before are kept: `pawprint photos undo` brings them back.")


@step(retries=2, delay=5)
def pull_photos() -> None:
    """The photographs that data.dvc names, where they are not in the workspace."""
    recover(ROOT / "data")
    if not (ROOT / "data").exists():
        dvc.pull(ROOT, "data.dvc")


@step()
def reproduce() -> None:
    """`dvc repro`, its stages as runs on this flow's server and a line each in this flow's log."""
    server, pipeline = (None, uuid.uuid4().hex) if is_local() else _prefect()
    tag = f"pipeline {pipeline}"
    environment = {"PAWPRINT_PIPELINE_RUN": tag, "PYTHONUNBUFFERED": "1"}
    if server:
        environment["PREFECT_API_URL"] = str(server.api_url)
    terminal = sys.stdout.isatty() and sys.stderr.isatty() and not as_json()
    verbose = os.environ.get("PAWPRINT_VERBOSE") == "1"
    _start_mlflow()  # else `_end_parent` would after Ctrl-C
    outcome = "KILLED"
    try:
        for line in dvc.repro(ROOT, environment=environment, terminal=terminal, verbose=verbose):
            relay(line)
        outcome = "FINISHED"
    except PawprintError:
        outcome = "FAILED"
        raise
    finally:
        _end_parent(pipeline, outcome)
    if server:
        _log_stages(server, tag)


def _prefect() -> "tuple[SyncPrefectClient, str]":
    """The server of this flow's run, and the run's id."""
    from prefect import runtime
    from prefect.client.orchestration import get_client

    return get_client(sync_client=True), runtime.flow_run.id or uuid.uuid4().hex


def _log_stages(server: "SyncPrefectClient", tag: str) -> None:
    """The stages and their seconds into this flow's log."""
    from prefect import get_run_logger
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
    from prefect.client.schemas.sorting import FlowRunSort

    ours = FlowRunFilter(tags=FlowRunFilterTags(all_=[tag]))
    for stage in server.read_flow_runs(flow_run_filter=ours, sort=FlowRunSort.START_TIME_ASC):
        get_run_logger().info("stage %s: %.1f s", stage.name, stage.total_run_time.total_seconds())


def _start_mlflow(prepare: bool = False) -> None:
    """MLflow takes seconds to import, and to create the tables of a new mlflow.db.

    Both happen beside what DVC and Prefect's server do in processes of their own.
    """

    def start() -> None:
        from pawprint.tracking import server, tracker

        _ = tracker
        if prepare:
            with suppress(Exception):  # the stages report a failure
                server.prepare(ROOT)

    threading.Thread(target=start, daemon=True).start()


def _end_parent(pipeline: str, outcome: str) -> None:
    """The MLflow run over the trainings of this pipeline has ended, however it did."""
    from pawprint.tracking.server import Unreachable
    from pawprint.tracking.tracker import Tracker

    with suppress(Unreachable):
        Tracker(ROOT).end_pipeline(pipeline, outcome)


def repair() -> None:
    """Package the version that the alias points at where champion.json or the Bento differ from it."""
    from pawprint.serving import bento
    from pawprint.tracking.tracker import Tracker

    packaged = read_json(ROOT / "bento.json")
    if packaged is None:
        return
    registry = Tracker(ROOT).registry
    champion = registry.current_champion(packaged["model"])
    if champion is None:  # a registry that was lost, or another server: register what there is
        from flows.register import register

        register.fn()
        champion = registry.current_champion(packaged["model"])
    if champion is None:
        return
    records = (ROOT / "champion.json", ROOT / "champion" / "champion.json", ROOT / "bento.json")
    same = all(champion.model_dump().items() <= (read_json(path) or {}).items() for path in records)
    if same and bento.exists(packaged["tag"]):
        return
    from flows.package import package

    registry.folder(champion)  # before anything is replaced
    say(f"The registry's champion is {champion.model} version {champion.version}: packaging it.")
    write_text(ROOT / "champion.json", champion.model_dump_json(indent=1) + "\n")
    package.fn()
    dvc.commit(ROOT, "register", "package")


@step(retries=2, delay=5)
def push() -> None:
    """Data, models and reports to the default remote; nothing where there is none."""
    if dvc.default_remote(ROOT):
        dvc.push(ROOT)


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    once = verbs.add_parser("run", help="run it now")
    once.add_argument("--photos", help="a zip, tar or folder, an http(s) or s3 URL, or a public set's name")
    once.add_argument("--name", help="name of the data set (default: from the photographs)")
    once.add_argument("--local", action="store_true", help="without Prefect: no server, no history of the run")
    once.add_argument("--json", action="store_true", help="what is reported as JSON, an object a line")
    once.add_argument("-v", "--verbose", action="store_true", help="DVC's own messages too")
    repairs = verbs.add_parser(
        "repair", help="package the registry's current champion, after a rollback or a move by hand"
    )
    repairs.set_defaults(**vars(once.parse_args([])))
    options = parser.parse_args()
    for name, given in (("LOCAL", options.local), ("VERBOSE", options.verbose)):
        if given:
            os.environ[f"PAWPRINT_{name}"] = "1"
    if options.json:
        os.environ["PAWPRINT_OUTPUT"] = "json"
    interrupt_once()
    with explained(), dvc.lock(ROOT):
        params = load_params(ROOT / "params.yaml")  # before DVC reads it, whose errors say less
        if options.photos is not None:
            ingest.check(options.photos, options.name)  # before Prefect's server starts
        if os.environ.get("MLFLOW_TRACKING_URI") or "?" in str(ROOT):  # what no run can be kept at, before the imports
            from pawprint.tracking import server

            server.uri(ROOT)
        _start_mlflow(prepare=True)
        if options.verb == "repair":
            repair()
            return
        here = options.photos is None and (ROOT / "data").exists()
        stale = dvc.status(ROOT) if here else {"preprocess": []}
        if not stale:
            live.follow()
            repair()  # nothing is stale: Prefect's server would take longer to start than there is to do
        else:
            if "preprocess" in stale:  # else a training is first, and checks
                from pawprint.models import registry

                registry.check(params)
            run(pipeline, options.photos, options.name, own_server=True)
        summary.show(ROOT)
        page = run_report.write(ROOT)
        say(f"\nReport of the run: {page}", report=str(page))


if __name__ == "__main__":
    main()

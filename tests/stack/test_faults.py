"""What may go wrong while a run is at work: it ends right or says so, nothing is lost, nothing doubled.

The tests share one team and run in the order they stand in; each brings a new version of the photographs.
"""

import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import psutil
import pytest

from service_process import free_port
from team import MISSING, Team, started

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
    pytest.mark.timeout(1200),
]
TRAINING = "     2/"  # of the worker's log: a training is under way


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    with started(tmp_path_factory.mktemp("team"), epochs=8) as team:
        team.start("worker")
        (run,) = team.until(team.runs, "worker")
        assert team.ended(run["id"], seconds=600) == "Completed", team.log("worker")[-4000:]
        yield team


def changed(team: Team) -> str:
    """Take one photograph of each class away, push that, and wait until a training on the rest is under way."""
    if "worker" not in team.processes:
        team.start("worker")
    known, seen = len(team.runs()), len(team.log("worker"))
    team.change_photographs(slice(0, 1))
    team.version("fewer photographs")
    run = team.until(lambda: team.runs()[known:], "worker")[0]["id"]
    team.until(lambda: TRAINING in team.log("worker")[seen:], "worker", seconds=300)
    return str(run)


def whole(team: Team, run: str) -> None:
    """The run is complete, and what it left is one of each: MLflow runs, versions, and one story."""
    assert team.ended(run, seconds=600) == "Completed", team.flow_log(run) + team.log("worker")[-4000:]
    data = (team.repository / "data.dvc").read_text().split("md5: ")[1].split()[0]
    asked = f"""select r.status from runs r join tags t using (run_uuid)
        where t.key = 'data_hash' and t.value = '{data}' and r.lifecycle_stage = 'active'"""
    assert team.query("mlflow", asked) == ["FINISHED"]
    versions = f"""select count(*) from model_version_tags where key = 'data_hash' and value = '{data}'"""
    assert team.query("mlflow", versions) == ["1"]
    parents = f"""select count(*) from tags where key = 'pipeline_run' and value = '{run}'
        and run_uuid in (select run_uuid from tags where key = 'kind' and value = 'pipeline')"""
    assert team.query("mlflow", parents) == ["1"]
    champion = team.champion()
    aliases = team.query("mlflow", "select version from registered_model_aliases where alias = 'champion'")
    assert aliases == [champion["version"]]
    assert team.served() == champion["model_digest"]


def stages(team: Team) -> list[psutil.Process]:
    """Processes at work in the worker's workspace but the worker."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            at_work = process.cwd() == str(team.workspace) and process.status() != psutil.STATUS_ZOMBIE
            if at_work and "worker" not in process.cmdline():
                found.append(process)
    return found


def test_somebody_s_work_in_the_clone_fails_the_run_with_a_sentence_and_people_hear_it(team: Team) -> None:
    readme = team.workspace / "README.md"
    mine = readme.read_text() + "mine\n"
    readme.write_text(mine)
    try:
        run = team.begin()
        assert team.ended(run) == "Failed"
        # the worker tells people after the run's state is set
        team.until(lambda: any("failed" in one["title"] for one in team.notifications), "worker")
        assert readme.read_text() == mine
    finally:  # the tests that follow need the workspace
        readme.write_text((team.repository / "README.md").read_text())
    assert team.ended(team.begin()) == "Completed"
    (told,) = [one for one in team.notifications if "failed" in one["title"]]  # not for each try
    assert told["message"].startswith("Somebody changed files in the worker's workspace")
    assert run in told["message"]


def test_a_run_that_is_cancelled_stops_all_it_started_and_the_next_one_goes_on(team: Team) -> None:
    run = changed(team)
    assert any("flows.train" in process.cmdline() for process in stages(team))
    team.api("POST", f"flow_runs/{run}/set_state", state={"type": "CANCELLING"})
    assert team.ended(run, seconds=90) == "Cancelled"
    team.until(lambda: not stages(team), seconds=10)
    assert team.query("mlflow", "select count(*) from runs where status = 'RUNNING'") == ["0"]
    again = team.begin()
    whole_after_cancel(team, again)


def whole_after_cancel(team: Team, run: str) -> None:
    assert team.ended(run, seconds=600) == "Completed", team.flow_log(run) + team.log("worker")[-4000:]
    data = (team.repository / "data.dvc").read_text().split("md5: ")[1].split()[0]
    asked = f"select status from runs join tags using (run_uuid) where key = 'data_hash' and value = '{data}'"
    assert team.query("mlflow", asked) == ["FINISHED"]  # the training that was cancelled went on in its own run


@pytest.mark.parametrize("how", ["frozen", "stopped"])
def test_postgresql_away_for_20_seconds(team: Team, how: str) -> None:
    run = changed(team)
    server = psutil.Process(team.processes["postgres"].pid)
    family = [server, *server.children(recursive=True)]
    if how == "frozen":
        for process in family:
            process.suspend()
        time.sleep(20)
        for process in family:
            with suppress(psutil.Error):
                process.resume()
    else:
        team.end("postgres", signal.SIGINT)  # PostgreSQL's "fast": connections are cut
        time.sleep(20)
        team.start("postgres")
    whole(team, run)


def test_mlflow_is_restarted(team: Team) -> None:
    run = changed(team)
    team.end("mlflow")
    time.sleep(10)
    team.start("mlflow")
    whole(team, run)


def test_s3_answers_errors_while_a_model_is_logged_and_for_a_while_after(team: Team) -> None:
    """What could not be kept then is kept later; a proxy stands where clients and MLflow look for S3."""
    team.end("s3")
    public = team.ports["s3"]
    team.ports["s3"] = free = free_port()
    try:
        with proxy(public, free) as broken:
            team.start("s3")
            run = changed(team)
            seen = len(team.log("worker"))
            broken.set()
            with suppress(AssertionError):  # where the training fails for it, that is one way to end right, too
                team.until(lambda: "train article_cnn: done in" in team.log("worker")[seen:], "worker", seconds=120)
            time.sleep(30)
            broken.clear()
            whole(team, run)
    finally:
        team.end("s3")
        team.ports["s3"] = public
        team.start("s3")


def test_the_worker_is_stopped_and_its_run_goes_on_when_it_is_back(team: Team) -> None:
    run = changed(team)
    team.end("worker")
    for process in stages(team):  # what outlives the first process of a container is killed
        with suppress(psutil.Error):
            process.kill()
    team.start("worker")
    whole(team, run)


def test_the_worker_is_killed_and_another_takes_the_run_up(team: Team) -> None:
    run = changed(team)
    worker = psutil.Process(team.processes["worker"].pid)
    family = [worker, *worker.children(recursive=True)]
    for process in [*family, *stages(team)]:
        with suppress(psutil.Error):
            process.kill()
    team.processes.pop("worker").wait()
    assert team.state(run) == "Running"  # nobody could say otherwise
    team.start("worker")
    whole(team, run)
    assert len([one for one in team.runs() if one["id"] == run]) == 1


def test_a_worker_that_is_killed_while_its_run_waits_for_its_next_try(team: Team) -> None:
    readme = team.workspace / "README.md"
    readme.write_text("mine\n")  # which makes the first try fail
    run = team.begin()
    team.until(lambda: team.state(run) == "AwaitingRetry", "worker")
    worker = psutil.Process(team.processes["worker"].pid)
    for process in [worker, *worker.children(recursive=True)]:
        with suppress(psutil.Error):
            process.kill()
    team.processes.pop("worker").wait()
    readme.write_text((team.repository / "README.md").read_text())
    team.start("worker")
    assert team.ended(run) == "Completed"


class proxy:
    """A door before S3: while the event is set everyone hears 500."""

    def __init__(self, port: int, behind: int) -> None:
        self.broken = threading.Event()
        self.behind = behind
        self.door = socket.create_server(("127.0.0.1", port))
        self.door.settimeout(0.2)
        self.closing = False

    def __enter__(self) -> threading.Event:
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()
        return self.broken

    def __exit__(self, *_: object) -> None:
        self.closing = True
        self.thread.join()
        self.door.close()

    def _serve(self) -> None:
        while not self.closing:
            with suppress(TimeoutError):
                client, _ = self.door.accept()
                threading.Thread(target=self._one, args=(client,), daemon=True).start()

    def _one(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            if self.broken.is_set():
                client.recv(65536)
                client.sendall(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                return
            with socket.create_connection(("127.0.0.1", self.behind)) as server:
                back = threading.Thread(target=self._copy, args=(server, client), daemon=True)
                back.start()
                self._copy(client, server)
                back.join()

    def _copy(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while not self.broken.is_set() and (data := source.recv(65536)):
                target.sendall(data)
        for one in (source, target):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

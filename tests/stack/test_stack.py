"""A team's servers, really started: from photographs in S3 to a champion that the running service has taken over."""

import subprocess
import sys
from collections.abc import Iterator

import pytest

from pawprint.inference.classifier import ModelInfo
from service_process import ROOT
from team import MISSING, Team, started

pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    with started(tmp_path_factory.mktemp("team")) as team:
        yield team


def test_the_worker_takes_new_photographs_from_s3_to_a_champion_that_is_served(team: Team) -> None:
    before = team.served()
    team.start("worker")
    (run,) = team.until(team.runs, "worker")  # nobody started it: data.dvc was new
    assert team.until(team.planned)[0]["next_scheduled_start_time"].endswith("T03:00:00Z")
    assert team.ended(run["id"]) == "Completed", team.flow_log(run["id"]) + team.log("worker")[-3000:]
    # one story: the registry, the workspace, the service
    champion = team.champion()
    served = team.served()
    assert served == champion["model_digest"] != before
    aliases = team.query("mlflow", "select name, version from registered_model_aliases where alias = 'champion'")
    assert aliases == [f"pawprint-toys|{champion['version']}"]
    # what DVC made is in the team's remote, MLflow's artifacts lie in S3 though no client has a key of it
    info = ModelInfo.read(team.workspace / "champion")
    artifacts = team.folder / "buckets" / "mlflow" / "artifacts"
    assert any(champion["run_id"] in str(path) for path in artifacts.rglob("model.onnx"))
    assert info.lineage.git_commit == team.shell("git", "rev-parse", "HEAD").strip()
    assert not info.lineage.git_dirty
    secret = (team.workspace / ".dvc" / "config.local").read_text()
    assert "s3://dvc/store" in secret
    assert not any(word in secret for word in ("secret", "key", "password"))
    assert list(team.folder.glob("buckets/dvc/store/files/md5/*/*"))
    reason = team.until(lambda: [one for one in team.notifications if "is champion" in one["title"]], "worker")
    assert len(reason) == 1
    assert "the first model of this data set" in reason[0]["message"]
    assert not any(word in team.log("worker") for word in ("mlflow-password", "prefect-password", "admin-token"))


def test_a_wrong_password_is_a_sentence_that_names_the_remedy(team: Team) -> None:
    code = "import pathlib; from flows.tasks import explained; from pawprint.tracking.tracker import Tracker\n"
    code += "with explained(): Tracker(pathlib.Path('.')).registry.current_champion('pawprint-toys')"
    wrong = team.client | {"MLFLOW_TRACKING_PASSWORD": "no-such-word"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=wrong, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in done.stderr
    assert "Traceback" not in done.stderr
    assert "no-such-word" not in done.stderr

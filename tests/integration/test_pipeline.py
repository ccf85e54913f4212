"""The whole road in a fresh clone under tmp, as the README tells a user to walk it; then what can go wrong.

What a reader is told to type is read from the README itself. The tests of this file share one workspace and run in
the order they stand in.
"""

import json
import os
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from flows import live
from pawprint.lineage import Champion, sha256
from pawprint.serving.traffic import Record, TrafficLog
from service_process import free_port
from workspace import PROJECT, Workspace, consistent_champion

# `make test` is what runs this; `make stack` needs an engine (tests/stack); the others have tests of their own below
ELSEWHERE = {"make run", "make run PHOTOS=train.zip", "make serve", "make stack", "make test"}
FIRST_RUN = "test_a_fresh_clone_goes_from_photographs_to_a_packaged_champion"
SERVED = ("curl ", "pawprint predict --url", "pawprint traffic")  # what wants the server
MINUTES = ("pawprint baselines",)  # tests/unit/evaluation/test_baselines.py has its rows


def commands() -> list[str]:
    """Every indented command of the README, without its comment."""
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    lines = re.findall(r"^    (?! )(.+)$", text, re.MULTILINE)
    return [line.split("  #")[0].strip() for line in lines]


@contextmanager
def started(workspace: Workspace, log: Path, url: str, *words: str, **environment: str) -> Iterator[None]:
    """A server that `words` start, ready when `url` answers; ended with all that it started."""
    with log.open("w") as output:
        server = subprocess.Popen(
            list(words),
            cwd=workspace.root,
            env=workspace.environment | environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        for _ in range(300):
            assert server.poll() is None, log.read_text()
            try:
                if httpx.get(url, timeout=5).status_code == 200:
                    break
            except httpx.HTTPError:
                time.sleep(0.2)
        yield
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


@pytest.fixture(autouse=True)
def first_run(request: pytest.FixtureRequest) -> None:
    """One failure of the first run is reported once: the tests that need its champion are skipped."""
    if "workspace" in request.fixturenames and request.node.name != FIRST_RUN:
        workspace: Workspace = request.getfixturevalue("workspace")
        if not (workspace.root / "champion.json").exists():
            pytest.skip(f"{FIRST_RUN} left no champion")


def test_the_readme_has_its_two_commands_first() -> None:
    assert commands()[:2] == ["make run", "make serve"]
    assert {*ELSEWHERE, "make help"} <= set(commands())


def test_a_fresh_clone_goes_from_photographs_to_a_packaged_champion(workspace: Workspace) -> None:
    assert not (workspace.root / "data").exists()
    printed = workspace("make", "run")
    assert "DRAWN" in printed
    for words in ("article_cnn", "219,801", "efficientnet_lite0", "champion", "make serve", "make ui", "PHOTOS="):
        assert words in printed
    assert consistent_champion(workspace) == workspace.json("champion.json")["version"]
    record = workspace.json("models/article_cnn/run.json")
    assert record["run_id"][:8] in printed
    lineage = workspace.json("models/article_cnn/model.json")["lineage"]
    assert lineage["git_commit"] == workspace("git", "rev-parse", "HEAD").strip()
    assert not lineage["git_dirty"]
    assert lineage["data_hash"] in (workspace.root / "data.dvc").read_text()
    assert lineage["run_id"] == record["run_id"]


def test_every_candidate_is_a_whole_run_in_mlflow(workspace: Workspace) -> None:
    runs = workspace.query("select run_uuid, name, status from runs where name not like 'pipeline %'")
    assert len(runs) == 2
    ((parent, printed),) = workspace.query(
        "select r.run_uuid, t.value from runs r join tags t using (run_uuid) "
        "where r.name like 'pipeline %' and t.key = 'mlflow.note.content'"
    )
    children = workspace.query(f"select run_uuid from tags where key = 'mlflow.parentRunId' and value = '{parent}'")
    assert {child for (child,) in children} == {run_id for run_id, _, _ in runs}
    assert all(run_id in printed for run_id, _, _ in runs)
    assert {status for _, _, status in runs} == {"FINISHED"}
    for run_id, name, _ in runs:
        metrics = dict(workspace.query(f"select key, value from latest_metrics where run_uuid = '{run_id}'"))
        assert {"train_loss", "validation_loss", "test_accuracy", "test_log_loss", "seconds"} <= set(metrics), name
        steps = workspace.query(f"select distinct step from metrics where key = 'train_loss' and run_uuid = '{run_id}'")
        assert len(steps) > 1
        given = dict(workspace.query(f"select key, value from params where run_uuid = '{run_id}'"))
        assert {"architecture", "epochs", "augment", "seed", "preprocess.fit", "training.device"} <= set(given)


def test_the_stages_are_runs_on_the_pipeline_s_own_prefect_server(workspace: Workspace) -> None:
    with sqlite3.connect(Path(workspace.environment["PREFECT_HOME"]) / "prefect.db") as db:
        runs = db.execute("select name, state_type, tags from flow_run").fetchall()
        logged = {message for (message,) in db.execute("select message from log")}
    stages = {"preprocess", "train article_cnn", "train efficientnet_lite0", "evaluate", "register", "package"}
    assert {name for name, _, _ in runs} == {"pipeline", *stages}
    assert {state for _, state, _ in runs} == {"COMPLETED"}
    assert all("pipeline " in tags for name, _, tags in runs if name in stages)
    assert any(message.startswith("stage train article_cnn: ") for message in logged)


def test_with_nothing_changed_nothing_runs_and_no_server_is_started(workspace: Workspace) -> None:
    before = workspace.query("select count(*) from runs")
    database = Path(workspace.environment["PREFECT_HOME"]) / "prefect.db"
    touched = database.stat().st_mtime_ns
    printed = workspace.run()
    assert "done in" not in printed  # the line at the end of a stage
    assert "champion" in printed
    assert workspace.query("select count(*) from runs") == before
    assert database.stat().st_mtime_ns == touched
    assert "up to date" in workspace("dvc", "status")
    assert "up to date" in workspace("dvc", "repro")


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(c, marks=pytest.mark.slow) if c in MINUTES else c
        for c in commands()
        if c not in ELSEWHERE and not c.startswith(SERVED)
    ],
)
def test_a_command_of_the_readme_works(workspace: Workspace, command: str) -> None:
    if not (workspace.root / "pictures").exists():  # the files that the README's examples speak of
        photos = sorted((workspace.root / "data").glob("*/*.jpg"))
        shutil.copy(photos[0], workspace.root / "cat.jpg")
        (workspace.root / "pictures").mkdir()
        for photo in photos[:3]:
            shutil.copy(photo, workspace.root / "pictures")
    printed = workspace("bash", "-c", command)
    assert printed


def test_make_serve_answers_the_readme_s_curl(workspace: Workspace, tmp_path: Path) -> None:
    port = free_port()
    make = ("make", "serve", f"PORT={port}")
    url = f"http://127.0.0.1:{port}/readyz"
    with started(workspace, tmp_path / "log", url, *make, PAWPRINT_TRAFFIC=str(tmp_path)):
        (curl,) = [c for c in commands() if c.startswith("curl")]
        printed = workspace(*shlex.split(curl.replace(":3000", f":{port}")), "-s", "-S", "--fail")
        assert '"probabilities"' in printed
        for command in (c for c in commands() if c.startswith(SERVED[1:])):
            assert workspace("bash", "-c", command.replace(":3000", f":{port}"), PAWPRINT_TRAFFIC=str(tmp_path))
        second = workspace(*make, fails=True)
        assert f"Port {port}" in second
        assert "Traceback" not in second


def test_make_ui_opens_the_runs(workspace: Workspace, tmp_path: Path) -> None:
    port = free_port()
    make = ("make", "ui", f"UI_PORT={port}")
    url, temporary = f"http://127.0.0.1:{port}", tmp_path / "tmp"
    temporary.mkdir()
    with started(workspace, tmp_path / "log", f"{url}/health", *make, TMPDIR=str(temporary)):
        # nothing lies there under a name that another user could take first
        assert {path.stat().st_mode & 0o777 for path in temporary.iterdir()} == {0o700}
        found = httpx.post(f"{url}/api/2.0/mlflow/experiments/search", json={"max_results": 10}, timeout=20)
        names = {experiment["name"] for experiment in found.json()["experiments"]}
        assert workspace.json("champion.json")["dataset"] in names
        second = workspace(*make, fails=True)
        assert f"Port {port} on 127.0.0.1 cannot be used" in second
        assert "Traceback" not in second


def test_a_training_that_is_killed_goes_on_in_its_run_and_ends_in_the_same_bytes(workspace: Workspace) -> None:
    model = workspace.root / "models" / "article_cnn"
    whole = workspace.json("models/article_cnn/model.json")
    kept = model.with_name("kept")
    shutil.copytree(model, kept)
    command = [sys.executable, "-m", "flows.train", "--candidate", "article_cnn"]
    environment = workspace.environment | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, cwd=workspace.root, env=environment, stdout=subprocess.PIPE, text=True) as training:
        assert training.stdout is not None
        for line in training.stdout:
            if line.split()[:1] == ["3/5"]:
                training.kill()
    assert training.returncode == -signal.SIGKILL
    ((killed,),) = workspace.query("select run_uuid from runs where status = 'RUNNING'")
    workspace(*command)
    assert workspace.json("models/article_cnn/run.json")["run_id"] == killed
    again = workspace.json("models/article_cnn/model.json")
    assert (again["weights_digest"], again["model_digest"]) == (whole["weights_digest"], whole["model_digest"])
    assert workspace.query(f"select status from runs where run_uuid = '{killed}'") == [("FINISHED",)]
    shutil.rmtree(model)
    kept.rename(model)


def test_ctrl_c_is_one_line_and_each_tool_knows_that_the_run_was_stopped(workspace: Workspace) -> None:
    before = (workspace.root / "dvc.lock").read_bytes()
    workspace.params(lambda p: p["candidates"]["article_cnn"].update(epochs=50))
    shown, seconds = workspace.typed("make", "run", at=" 2/50", keys="\x03")
    lines = [line for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown).splitlines() if line.strip()]
    assert lines[-1] == "Stopped. The same command resumes."
    assert "Traceback" not in shown
    assert len(lines[-1]) < 80
    print(f"{seconds:.1f} s from Ctrl-C to the prompt")
    trained, pipeline = workspace.query("select status, name from runs order by start_time desc limit 2")
    assert {trained[0], pipeline[0]} == {"KILLED"}, (trained, pipeline)
    with sqlite3.connect(Path(workspace.environment["PREFECT_HOME"]) / "prefect.db") as db:
        states = db.execute("select name, state_name from flow_run order by created desc limit 2").fetchall()
    assert dict(states) == {"train article_cnn": "Crashed", "pipeline": "Crashed"}
    assert (workspace.root / "dvc.lock").read_bytes() == before
    workspace("git", "checkout", "-q", "params.yaml")
    workspace("dvc", "checkout", "train@article_cnn")  # DVC removes what a stage makes before it runs


def test_one_candidate_s_parameter_retrains_that_one(workspace: Workspace) -> None:
    first = workspace.json("models/article_cnn/run.json")["run_id"]
    workspace.params(lambda p: p["candidates"]["article_cnn"].update(epochs=1))
    workspace.params(lambda p: p["evaluation"].update(corruptions=0, clutter=0))  # what is not asked for takes no time
    printed = workspace.run()
    assert "train article_cnn: done in" in printed
    assert "train efficientnet_lite0: done in" not in printed
    assert workspace.json("models/article_cnn/run.json")["run_id"] != first
    consistent_champion(workspace)


@pytest.mark.slow  # the next test brings a candidate back through the same road
def test_a_candidate_that_is_removed_leaves_the_comparison(workspace: Workspace) -> None:
    workspace.params(lambda p: p["candidates"].pop("article_cnn"))
    printed = workspace.run()
    assert "article_cnn" not in printed[printed.index("Next:") - 1500 :].split("why")[0]
    assert list(workspace.json("reports/metrics.json")) == ["efficientnet_lite0"]
    assert (workspace.root / "models" / "article_cnn").exists()


def test_turning_all_of_it_back_trains_nothing(workspace: Workspace) -> None:
    workspace("git", "checkout", "-q", "params.yaml")
    printed = workspace.run()
    assert not re.search(r"^train \w+: done in", printed, re.MULTILINE)
    assert list(workspace.json("reports/metrics.json")) == ["article_cnn", "efficientnet_lite0"]
    first = workspace.query("select run_uuid from runs where name like 'article_cnn%' order by start_time limit 1")
    assert [(workspace.json("models/article_cnn/run.json")["run_id"],)] == first
    assert workspace.json("models/article_cnn/model.json")["lineage"]["run_id"] == first[0][0]
    consistent_champion(workspace)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hardlink", "symlink"])
def test_outputs_that_are_links_into_dvc_s_cache_are_written_beside_it(workspace: Workspace, kind: str) -> None:
    def digests(names: set[Path]) -> dict[Path, str]:
        return {name: sha256(name) for name in names}

    workspace("dvc", "config", "--local", "cache.type", kind)
    workspace("dvc", "checkout", "--relink", "--force")
    metrics = workspace.root / "reports" / "metrics.json"
    assert metrics.is_symlink() if kind == "symlink" else metrics.stat().st_nlink > 1
    before = digests({path for path in (workspace.root / ".dvc" / "cache").rglob("*") if path.is_file()})
    workspace.params(lambda p: p["gate"].update(min_photographs=p["gate"]["min_photographs"] - 1))
    assert "register: done in" in workspace.run()
    assert digests(set(before)) == before
    consistent_champion(workspace)
    workspace("git", "checkout", "-q", "params.yaml")
    workspace("dvc", "config", "--local", "--unset", "cache.type")
    workspace.run()
    workspace("dvc", "checkout", "--relink", "--force")


def test_an_alias_moved_by_hand_is_packaged_by_the_next_run(workspace: Workspace) -> None:
    current = workspace.json("champion.json")
    (other,) = workspace.query(
        f"select version, run_id from model_versions where name = '{current['model']}' "
        f"and version != {current['version']} order by version limit 1"
    )
    code = (
        "import mlflow, sys; mlflow.set_tracking_uri('sqlite:///mlflow.db'); "
        "mlflow.MlflowClient().set_registered_model_alias(*sys.argv[1:])"
    )
    workspace(sys.executable, "-c", code, current["model"], "champion", str(other[0]))
    printed = workspace.run()
    assert f"version {other[0]}" in printed
    assert consistent_champion(workspace) == str(other[0])
    assert "up to date" in workspace("dvc", "status")
    workspace(sys.executable, "-m", "flows.pipeline", "repair")  # as `pawprint rollback` does


def test_a_challenger_waits_for_live_answers_and_is_promoted_when_they_are_there(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    champion = workspace.json("champion.json")

    def wait(params: Any) -> None:
        params["gate"]["live_answers"] = 4
        params["serving"]["challenger"]["mode"] = "shadow"

    def beside(numbers: Iterable[int]) -> None:
        """Answers of both to pictures, as the service logs them."""
        log = TrafficLog(tmp_path / f"{champion['model']}.db", rows=100)
        for number in numbers:
            both = [
                Record(
                    f"{who}{number}", time.time(), f"{number:064x}", "cat", '{"cat": 0.9, "dog": 0.1}', 0.9, b"",
                    digest, version, 5.0, f"champion{number}" if who == "challenger" else None,
                )
                for who, digest, version in (
                    ("champion", champion["model_digest"], champion["version"]),
                    ("challenger", challenger["model_digest"], challenger["version"]),
                )
            ]  # fmt: skip
            for record in both:
                log.add(record)
        log.close()

    workspace.params(wait)
    printed = workspace.run(PAWPRINT_TRAFFIC=str(tmp_path))
    challenger = workspace.json("challenger/champion.json")
    assert "waiting for live traffic" in printed and "4 are missing" in printed
    assert consistent_champion(workspace) == champion["version"] != challenger["version"]
    beside(range(3))
    monkeypatch.setenv("PAWPRINT_TRAFFIC", str(tmp_path))
    assert live.count(Champion.read(workspace.root / "challenger"), champion["model_digest"]) == 3
    assert "1 are missing" in workspace("pawprint", "traffic", "report", "--no-mlflow", PAWPRINT_TRAFFIC=str(tmp_path))
    beside(range(3, 5))
    printed = workspace.run(PAWPRINT_TRAFFIC=str(tmp_path))
    assert "live traffic (shadow): 5 answers, 100.0% of them as the champion's" in printed
    assert consistent_champion(workspace) == challenger["version"]
    assert "5 answers" in (workspace.root / "reports" / "gate.md").read_text()
    assert not (workspace.root / "challenger").exists()
    assert "up to date" in workspace("dvc", "status")
    workspace("git", "checkout", "-q", "params.yaml")


def test_a_bento_that_was_deleted_is_built_again(workspace: Workspace) -> None:
    shutil.rmtree(Path(workspace.environment["BENTOML_HOME"]) / "bentos")
    workspace.run()
    consistent_champion(workspace)


def test_predict_answers_without_a_server(workspace: Workspace) -> None:
    cats = sorted((workspace.root / "data" / "cat").iterdir())[:3]
    broken = workspace.root / "broken.jpg"
    broken.write_bytes(b"no photograph")
    printed = workspace("pawprint", "predict", "--json", *map(str, cats), str(broken), fails=True)
    answers = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    assert [answer["path"] for answer in answers] == [*map(str, cats), str(broken)]
    fields = {"path", "label", "refusal", "reason", "typicality", "probabilities", "model"}
    assert all(set(answer) == fields for answer in answers[:3])
    assert "not a photograph" in answers[3]["error"]
    broken.unlink()


@pytest.mark.slow
def test_an_experiment_in_dvc_s_temporary_copy_runs_its_own_code_and_keeps_its_run_here(workspace: Workspace) -> None:
    (workspace.root / "flows" / "evaluate.py").open("a").write('print("this is the copy")\n')
    before = workspace.query("select count(*) from runs")[0][0]
    registered = (
        "select count(*), (select group_concat(alias || version) from registered_model_aliases) from model_versions"
    )
    versions = workspace.query(registered)
    printed = workspace("dvc", "exp", "run", "--temp", "-S", "candidates.article_cnn.epochs=2", "-n", "shorter")
    assert "this is the copy" in printed
    assert workspace.query("select count(*) from runs")[0][0] == before + 1
    assert workspace.query(registered) == versions  # an experiment registers nothing and moves no alias
    (latest,) = workspace.query("select run_uuid from runs order by start_time desc limit 1")
    given = dict(workspace.query(f"select key, value from params where run_uuid = '{latest[0]}'"))
    assert given["epochs"] == "2"
    workspace("git", "checkout", "-q", "flows/evaluate.py")


@pytest.mark.parametrize(
    ("break_it", "printed"),
    [
        (lambda root: shutil.rmtree(root / "data" / "dog"), "two classes"),
        (lambda root: (root / "params.yaml").write_text("schema_version: 2\nseed: 1\nfoo: 2\n"), "`foo`: unknown key"),
        (
            lambda root: (root / "params.yaml").write_text(
                re.sub(
                    "architecture: article_cnn", "architecture: resnet50", (root / "params.yaml").read_text()
                ).replace("quality: 95", "quality: 90")
            ),
            "`candidates.article_cnn.architecture`: there is no architecture 'resnet50'",
        ),
    ],
    ids=["one class", "an unknown key", "an unknown architecture"],
)
def test_a_wrong_move_is_a_sentence_and_leaves_what_was_there(
    workspace: Workspace, break_it: Any, printed: str
) -> None:
    champion = workspace.json("champion.json")
    kept = (workspace.root / "params.yaml").read_bytes()
    break_it(workspace.root)
    reported = workspace.run(fails=True)
    assert printed in reported
    assert "Traceback" not in reported and "done in" not in reported
    assert workspace.json("champion.json") == champion
    (workspace.root / "params.yaml").write_bytes(kept)
    shutil.rmtree(workspace.root / "data")
    workspace("git", "checkout", "-q", "data.dvc")
    workspace("dvc", "checkout", "-f", "data.dvc")


@pytest.mark.parametrize("words", [("train", "article_cnn"), ("sweep",)], ids=["train", "sweep"])
def test_other_photographs_than_those_that_are_prepared_are_not_recorded(
    workspace: Workspace, words: tuple[str, ...]
) -> None:
    pointer = workspace.root / "data.dvc"
    kept = pointer.read_text()
    pointer.write_text(re.sub("md5: [0-9a-f]+", f"md5: {'0' * 32}", kept, count=1))
    reported = workspace("pawprint", *words, fails=True)
    assert "not made from the photographs of data.dvc" in reported and "Traceback" not in reported
    pointer.write_text(kept)


def test_make_run_with_photos_as_the_readme_says(workspace: Workspace) -> None:
    photos = [photo for kind in ("cat", "dog") for photo in sorted((workspace.root / "data" / kind).iterdir())[:60]]
    with zipfile.ZipFile(workspace.root / "train.zip", "w") as archive:
        for number, photo in enumerate(photos):
            archive.write(photo, f"train/{photo.parent.name}.{number}.jpg")
    workspace.params(lambda p: p["candidates"].pop("efficientnet_lite0"))  # the road is the same, and shorter
    workspace.params(lambda p: p["candidates"]["article_cnn"].update(epochs=1))
    workspace.params(lambda p: p["evaluation"].update(corruptions=0, clutter=0))
    printed = workspace("make", "run", "PHOTOS=train.zip")
    assert "pawprint-dogs-cats" in printed
    assert "the first model of this data set" in printed
    assert "DRAWN" not in printed
    consistent_champion(workspace)


@pytest.mark.slow  # the test above walks the same road with Kaggle's layout
def test_photographs_of_one_s_own_get_a_champion_of_their_own(workspace: Workspace, tmp_path: Path) -> None:
    before = workspace.json("champion.json")
    for number, kind in enumerate(("cat", "dog")):
        for name in ("tabby", "pup")[number : number + 1]:
            (tmp_path / "pets" / name).mkdir(parents=True)
            for photo in sorted((workspace.root / "data" / kind).iterdir())[:60]:
                shutil.copy(photo, tmp_path / "pets" / name)
    printed = workspace.run("--photos", str(tmp_path / "pets"), "--name", "my-pets")
    champion = workspace.json("champion.json")
    assert (before["model"], champion["model"]) == ("pawprint-dogs-cats", "pawprint-my-pets")
    assert "the first model of this data set" in printed
    assert "DRAWN" not in printed
    assert workspace.json("champion/model.json")["classes"] == ["pup", "tabby"]
    consistent_champion(workspace)
    reported = workspace.run("--photos", str(tmp_path / "nowhere.zip"), fails=True)
    assert re.search(r"error: .*nowhere\.zip.* does not exist", reported)
    assert workspace.json("champion.json") == champion

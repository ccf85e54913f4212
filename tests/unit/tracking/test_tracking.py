"""Runs and registry against a real MLflow: its own SQLite file under tmp, and no server where one is expected."""

import json
import os
import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import mlflow
import numpy as np
import pytest
from PIL import Image

from flows import register
from pawprint.config import Evaluation, Gate, Params, load_params
from pawprint.data import ingest
from pawprint.data.build import prepare
from pawprint.data.dataset import PreparedDataset
from pawprint.errors import PawprintError
from pawprint.evaluation.evaluator import EvaluationReport, Evaluator, load_serving
from pawprint.evaluation.gate import Contender, Verdict
from pawprint.inference.classifier import ModelInfo
from pawprint.lineage import Champion, sha256
from pawprint.tracking import server
from pawprint.tracking.journal import Journal
from pawprint.tracking.registry import LOOK
from pawprint.tracking.run import EVALUATED, FINISHED, Call, Evaluated, RunRecord, metric_key
from pawprint.tracking.tracker import VIEW, Tracker
from toy import build_toy_model

PROJECT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with what a run logs; mlflow.db is made here, once."""
    folder = tmp_path_factory.mktemp("workspace")
    for name in ("params.yaml", "requirements.lock"):
        shutil.copy(PROJECT / name, folder)
    return folder


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def params() -> Params:
    return load_params(PROJECT / "params.yaml")


@pytest.fixture(scope="module")
def tracker(root: Path) -> Tracker:
    return Tracker(root)


def trained(tracker: Tracker, params: Params, model: Path, out: Path, name: str = "article_cnn") -> Path:
    """A model folder and its run as flows/train.py makes them, with the toy model as the result."""
    info, folder = ModelInfo.read(model), out / "trained"
    shutil.copytree(model, folder)
    with tracker.start_training(name, params, info.lineage, f"{name} · toy", {"train": 7, "test": 3}) as run:
        for epoch in (1, 2):
            run.metrics({"train_loss": 1 / epoch}, step=epoch)
        run.model(folder)
        (folder / "run.json").write_text(run.record().model_dump_json())
    return folder


def another(model: Path, folder: Path) -> Path:
    """The toy model with one more byte of weights' name: another digest, another model."""
    import onnx

    from pawprint.lineage import sha256

    shutil.copytree(model, folder)
    graph = onnx.load(folder / "model.onnx")
    graph.doc_string = folder.name
    onnx.save(graph, folder / "model.onnx")
    info = ModelInfo.read(folder).model_copy(update={"onnx_digest": sha256(folder / "model.onnx")})
    (folder / "model.json").write_text(info.model_dump_json())
    return folder


def test_a_run_holds_what_it_was_given_and_gave(
    tracker: Tracker, params: Params, toy_model: Path, tmp_path: Path
) -> None:
    record = RunRecord.read(trained(tracker, params, toy_model, tmp_path))
    uri = tracker.run(record.run_id).model_uri
    run = mlflow.MlflowClient().get_run(record.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["epochs"] == "5"
    assert run.data.params["preprocess.fit"] == "squash"
    assert run.data.params["photographs.train"] == "7"
    assert run.data.tags["data_hash"] == "d" * 32 + ".dir"
    assert run.data.tags["git_commit"] == "c" * 40
    curve = mlflow.MlflowClient().get_metric_history(record.run_id, "train_loss")
    assert [(point.step, point.value) for point in curve] == [(1, 1.0), (2, 0.5)]
    assert run.inputs.dataset_inputs[0].dataset.name == "colours"
    assert run.inputs.dataset_inputs[0].dataset.digest == "d" * 32 + ".dir"
    model = mlflow.models.get_model_info(uri)
    assert model.signature is not None
    assert "uint8" in str(model.signature.inputs)
    answer = mlflow.pyfunc.load_model(uri).predict(np.zeros((2, 300, 300, 3), np.uint8))
    assert answer["probabilities"].sum(axis=1) == pytest.approx([1, 1])


def test_the_runs_are_their_owners(tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.prepare(tmp_path)
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.glob("mlflow.db*")} == {
        "mlflow.db": 0o600
    }
    (tmp_path / "mlflow.db").chmod(0o660)  # a team that shares a folder has chosen that
    server.prepare(tmp_path)
    assert stat.S_IMODE((tmp_path / "mlflow.db").stat().st_mode) == 0o660
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)  # MLflow sets it to the database before
    server.connect(tracker.root)  # where MLflow logs is the whole process's


def test_a_run_has_its_parent_as_soon_as_mlflow_has_it(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def killed(*_: object, **__: object) -> None:
        raise Killed

    parent = tracker.begin("sweep", "swept")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("pawprint.tracking.journal.Journal.append", killed)
        tracker.begin("trial", "swept", tags={"mlflow.parentRunId": parent.id})
    assert len(tracker.search_runs(f"tags.`mlflow.parentRunId` = '{parent.id}'")) == 1


def test_the_end_of_a_run_that_another_process_uploads_is_not_lost(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`sync` looked whether the last call is the end, and removed the journal with an end that came while it looked."""
    run, upload = tracker.begin("a trial", "sample"), Journal.upload
    run._stop.set()

    def another(journal: Journal, by: Tracker) -> None:
        upload(journal, by)
        if journal.folder.name == run.id and not any(call.method == "status" for call in journal.calls()):
            journal.append("status", status=FINISHED)  # its own process does this now

    monkeypatch.setattr(Journal, "upload", another)
    tracker.sync()
    monkeypatch.undo()
    run.flush()
    assert tracker.client.get_run(run.id).info.status == FINISHED


@pytest.mark.parametrize("name", ["mlflow.db", "named.db"])
def test_two_processes_make_one_database(tmp_path: Path, name: str) -> None:
    """As a run does, whose first stage may start while the tables are being made; and where one was killed before."""
    (tmp_path / f"{name}.partial").write_bytes(b"half")
    code = "import sys; from pathlib import Path; from pawprint.tracking.tracker import Tracker\n"
    code += "print('ready', flush=True); input(); print(len(Tracker(Path(sys.argv[1])).client.search_experiments()))"
    command, pipe = [sys.executable, "-c", code, str(tmp_path)], subprocess.PIPE
    env = os.environ | ({} if name == "mlflow.db" else {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / name}"})
    both = [subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=env) for _ in range(2)]
    for one in both:
        assert one.stdout is not None and one.stdin is not None
        assert one.stdout.readline() == "ready\n"
    for one in both:
        assert one.stdin is not None
        one.stdin.write("\n")
        one.stdin.flush()
    said = [one.communicate(timeout=300) for one in both]
    assert [(out.strip(), error) for out, error in said] == [("1", "")] * 2
    assert [path.name for path in tmp_path.glob("*.db*")] == [name]


def test_a_thousand_classes_are_logged_and_described(
    tracker: Tracker, params: Params, toy_model: Path, tmp_path: Path
) -> None:
    info = ModelInfo.read(trained(tracker, params, toy_model, tmp_path))
    run = tracker.run(RunRecord.read(tmp_path / "trained").run_id)
    figures = {f"class {number} recall": number / 3000 for number in range(3000)}
    report = "\n".join(f"class {number}: right" for number in range(1000))
    run.metrics(figures)
    run.tags({f"class {number}": number for number in range(250)})
    run.describe(report)
    found = run.client.get_run(run.id)
    assert {name: found.data.metrics[name] for name in figures} == figures
    assert found.data.tags["class 249"] == "249"
    assert found.data.tags["mlflow.note.content"].endswith("(shortened)")
    whole = run.client.download_artifacts(run.id, "description.md", str(tmp_path))
    assert Path(whole).read_text() == report
    # the registry of a server keeps 5,000 characters
    many = info.model_copy(update={"classes": tuple(f"class {number:04}" for number in range(1000))})
    version = tracker.registry.register("pawprint-many", run, many)
    tracker.registry.describe(version, report, {})
    model = run.client.get_registered_model("pawprint-many")
    described = run.client.get_model_version("pawprint-many", version.version).description
    assert (len(model.description), len(described)) == (5000, 5000)


def test_a_training_that_fails_is_a_failed_run(
    tracker: Tracker, params: Params, toy_model: Path, tmp_path: Path
) -> None:
    info = ModelInfo.read(toy_model)
    with (
        pytest.raises(RuntimeError, match="boom"),
        tracker.start_training("article_cnn", params, info.lineage, "fails", {}) as run,
    ):
        raise RuntimeError("boom")
    assert mlflow.MlflowClient().get_run(run.id).info.status == "FAILED"


def test_evaluation_adds_to_the_same_run_and_leaves_it_finished(
    tracker: Tracker, params: Params, toy_model: Path, tmp_path: Path
) -> None:
    folder = trained(tracker, params, toy_model, tmp_path)
    record = RunRecord.read(folder)
    run = tracker.restore_run(folder)
    run.metrics({"test_accuracy": 0.5})
    assert run.id == record.run_id
    after = mlflow.MlflowClient().get_run(record.run_id)
    assert after.data.metrics["test_accuracy"] == 0.5
    assert after.info.status == "FINISHED"


def test_a_model_from_elsewhere_is_restored_once_and_says_where_it_came_from(
    tracker: Tracker, toy_model: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(toy_model, tmp_path / "model")
    begin = Call(method="begin", arguments={"dataset": "colours", "run_name": "toy", "started": 0})
    tags = Call(method="tags", arguments={"values": {"git_commit": "c" * 40}})
    away = RunRecord(run_id="f" * 32, seconds=1.0, calls=(begin, tags))
    (folder / "run.json").write_text(away.model_dump_json())
    first, second = tracker.restore_run(folder).id, tracker.restore_run(folder).id
    assert first == second
    restored = mlflow.MlflowClient().get_run(first)
    assert restored.data.tags["restored_from"] == "f" * 32
    assert restored.data.tags["git_commit"] == "c" * 40


def test_what_is_restored_has_its_parameters_curves_and_evaluation(
    tracker: Tracker, params: Params, toy_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, info = trained(tracker, params, toy_model, tmp_path), ModelInfo.read(toy_model)
    record = RunRecord.read(folder)
    evaluated = Evaluated(
        model_digest=info.model_digest, name="toy · 98.1 %", description="good", drawn=True,
        metrics={"test_accuracy": 0.981},
    )  # fmt: skip
    elsewhere = tmp_path / "elsewhere"
    kept = elsewhere / "reports" / "evaluation" / info.candidate
    kept.mkdir(parents=True)
    (kept / EVALUATED).write_text(evaluated.model_dump_json())
    (kept / "test.csv").write_text("hash,class\n")
    lost = record.model_copy(update={"run_id": "e" * 32})  # MLflow has no such run
    (folder / "run.json").write_text(lost.model_dump_json())
    other = Tracker(elsewhere)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri(tracker.root))
    run = other.restore_run(folder)
    client = mlflow.MlflowClient()
    restored = client.get_run(run.id)
    assert restored.info.run_name == "toy · 98.1 %"
    assert restored.data.params == record.params
    assert restored.data.metrics["test_accuracy"] == 0.981
    assert restored.data.metrics["seconds"] == record.seconds
    curve = client.get_metric_history(run.id, "train_loss")
    assert [p.timestamp for p in curve] == [p.timestamp for p in client.get_metric_history(record.run_id, "train_loss")]
    assert [(p.step, p.value) for p in curve] == [(1, 1.0), (2, 0.5)]
    assert [file.path for file in client.list_artifacts(run.id, "evaluation")] == [
        "evaluation/evaluated.json",
        "evaluation/test.csv",
    ]
    (kept / EVALUATED).write_text(evaluated.model_copy(update={"model_digest": "0" * 64}).model_dump_json())
    before = restored.data.metrics
    other.log_evaluation(run, info)  # figures of another model are not this one's
    assert client.get_run(run.id).data.metrics == before


def test_trainings_of_one_pipeline_run_stand_under_one_run(
    tracker: Tracker, params: Params, toy_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lineage = ModelInfo.read(toy_model).lineage
    assert tracker.pipeline_run("colours") is None
    monkeypatch.setenv("PAWPRINT_PIPELINE_RUN", "pipeline 123-abc")
    children = []
    for name in ("article_cnn", "efficientnet_lite0"):
        with tracker.start_training(name, params, lineage, name, {}) as run:
            children.append(run.id)
    parent = tracker.pipeline_run("colours")
    assert parent is not None
    client = mlflow.MlflowClient()
    tags = [client.get_run(child).data.tags for child in children]
    assert {tag["mlflow.parentRunId"] for tag in tags} == {parent.id}
    assert {tag["pipeline_run"] for tag in tags} == {"123-abc"}
    assert client.get_run(parent.id).info.status == "RUNNING"
    tracker.end_pipeline("123-abc", "FINISHED")
    assert client.get_run(parent.id).info.status == "FINISHED"
    monkeypatch.setenv("PAWPRINT_PIPELINE_RUN", "pipeline another")
    other = tracker.pipeline_run("colours")
    assert other is not None
    assert other.id != parent.id
    # that pipeline is killed and cannot say so: the next one does
    monkeypatch.setenv("PAWPRINT_PIPELINE_RUN", "pipeline third")
    tracker.pipeline_run("colours")
    states = [client.get_run(run.id).info.status for run in (parent, other)]
    assert states == ["FINISHED", "KILLED"]


def test_figures_stand_with_the_logged_model_and_the_data_set(
    tracker: Tracker, params: Params, toy_model: Path, tmp_path: Path
) -> None:
    info = ModelInfo.read(toy_model)
    folder = trained(tracker, params, toy_model, tmp_path)
    record = RunRecord.read(folder)
    run = tracker.restore_run(folder)
    run.metrics({"test_accuracy": 0.75}, dataset=(info.lineage.dataset, info.lineage.data_hash))
    model = mlflow.get_logged_model(tracker.run(record.run_id).model_uri.removeprefix("models:/"))
    (figure,) = [metric for metric in model.metrics if metric.key == "test_accuracy"]
    assert (figure.value, figure.dataset_name, figure.dataset_digest) == (0.75, "colours", "d" * 32 + ".dir")
    assert model.source_run_id == record.run_id
    assert model.tags["model_digest"] == info.model_digest


def test_the_same_model_is_one_version_and_another_is_the_next(
    tracker: Tracker, params: Params, toy_model: Path, tmp_path: Path
) -> None:
    name = "pawprint-versions"
    other = another(toy_model, tmp_path / "other")
    found = []
    registry = tracker.registry
    for number, model in enumerate((toy_model, other, toy_model)):
        folder = trained(tracker, params, model, tmp_path / str(number))
        found.append(registry.register(name, tracker.restore_run(folder), ModelInfo.read(folder)))
    assert [entry.version for entry in found] == ["1", "2", "1"]
    assert registry.current_champion(name) is None
    assert registry.promote(found[0], "the first", over=None)
    assert registry.promote(found[1], "better", over=found[0])
    assert registry.current_champion(name) == found[1]
    version = mlflow.MlflowClient().get_model_version(name, "2")
    assert version.tags["promoted_because"] == "better"


def test_a_champion_s_folder_comes_back_byte_for_byte_and_tampering_is_loud(
    tracker: Tracker, params: Params, toy_model: Path, tmp_path: Path
) -> None:
    other = another(toy_model, tmp_path / "sealed")
    trained_folder, registry = trained(tracker, params, other, tmp_path), tracker.registry
    entry = registry.register("pawprint-sealed", tracker.restore_run(trained_folder), ModelInfo.read(other))
    folder = registry.folder(entry)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == {p.name: p.read_bytes() for p in other.iterdir()}
    lie = entry.model_copy(update={"model_digest": "0" * 64})
    with pytest.raises(PawprintError, match="names model 000000000000 but its run"):
        registry.folder(lie)
    assert not (tracker.root / "cache" / "registry" / ("0" * 64)).exists()


def with_green(graph: Path) -> str:
    """The toy model's graph with a third class between its two; its digest."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(graph)
    for one in model.graph.initializer:
        if one.name in ("weights", "filters"):
            wider = np.insert(numpy_helper.to_array(one), 1, 0, axis=one.name == "weights")
            one.CopyFrom(numpy_helper.from_array(wider, one.name))
    for place in (0, 2):
        model.graph.output[place].type.tensor_type.shape.dim[1].dim_value = 3
    onnx.save(model, graph)
    return sha256(graph)


@dataclass(frozen=True)
class Before:
    """A champion of before, whose evaluation has other figures than today's, and today's photographs."""

    tracker: Tracker
    params: Params
    data: PreparedDataset
    root: Path
    name: str  # of the registered model

    def registered(self, name: str, scale: float, champion: bool = False, **changes: Any) -> Champion:
        folder = build_toy_model(self.root / name, scale=scale, size=changes.get("size", 300))
        known = sorted({*self.data.split("train").hashes, *self.data.split("validation").hashes})
        (folder / "photographs.txt").write_text("".join(f"{one}\n" for one in known))
        info = ModelInfo.read(folder)
        lineage = info.lineage.model_copy(update={"manifest_digest": self.data.digest})
        if len(changes.get("classes", ())) == 3:
            changes["onnx_digest"] = with_green(folder / "model.onnx")
        info = info.model_copy(update={"lineage": lineage, **changes})
        (folder / "model.json").write_text(info.model_dump_json())
        with self.tracker.start_training("article_cnn", self.params, lineage, name, {"train": 7, "test": 3}) as run:
            run.model(folder)
            (folder / "run.json").write_text(run.record().model_dump_json())
        entry = self.tracker.registry.register(self.name, self.tracker.restore_run(folder), info)
        if champion:
            self.tracker.run(entry.run_id).text('{"model_digest": "x", "test": {}}', "release/evaluation.json")
            assert self.tracker.registry.promote(entry, "the first", over=None)
        return entry

    def compare(self, new: Champion, old: Champion, data: PreparedDataset | None = None) -> tuple[Verdict, Contender]:
        """The verdict, and the challenger's own evaluation; its folder has its candidate's name."""
        data = data or self.data
        evaluator = Evaluator.of(data.split("test"), self.root / "data", self.params)
        ours = Contender(*evaluator.evaluate(load_serving(self.tracker.registry.folder(new), self.params)))
        return register.compare(self.tracker, self.params, data, new, old, {new.model_digest: ours}), ours

    def kept(self, old: Champion) -> EvaluationReport:
        return EvaluationReport.model_validate_json(
            self.tracker.artifact(old.run_id, "release/evaluation.json").read_bytes()
        )

    def looks(self) -> list[str]:
        """The test sides that were looked at, once for each model."""
        tags = self.tracker.client.get_registered_model(self.name).tags
        return sorted(tag.split(".")[1] for tag in tags if tag.startswith(LOOK))


@pytest.fixture
def before(tracker: Tracker, params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Before:
    photographs, rng = tmp_path / "data", np.random.default_rng(3)
    for number in range(120):
        colour = (200, 40, 40) if number % 2 else (40, 40, 200)
        path = photographs / ("red" if number % 2 else "blue") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        spots = rng.integers(-90, 90, (8, 12, 3)).repeat(20, axis=0).repeat(20, axis=1)
        pixels = np.clip(np.array(colour) + spots, 0, 255)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    small = params.model_copy(update={"evaluation": Evaluation(min_slice=3, corruptions=4, clutter=4)})
    prepare(ingest.dataset(photographs), photographs, tmp_path / "prepared", small)
    monkeypatch.setattr(register, "ROOT", tmp_path)
    return Before(tracker, small, PreparedDataset.open(tmp_path / "prepared"), tmp_path, f"pawprint-{tmp_path.name}")


AGAIN = "the champion was evaluated again by today's rules"


def test_a_champion_of_before_is_scored_again_by_the_rules_of_today_and_stays(before: Before) -> None:
    """Its bank is an older one, its folder holds no folds, and its evaluation has other figures than today's."""
    old, new = before.registered("old", 5000, champion=True), before.registered("new", 50)
    verdict, _ = before.compare(new, old)
    assert verdict.reason.endswith(AGAIN)
    assert any(rule.rule.startswith("log loss better") for rule in verdict.rules)
    assert before.kept(old).model_digest == old.model_digest
    assert before.tracker.registry.current_champion(before.name) == old
    fewer = replace(before.data, rows=[row for row in before.data.rows if row.hash != max(
        before.data.split("test").hashes)])  # fmt: skip
    again, _ = before.compare(new, old, fewer)
    assert "evaluated again" not in again.reason
    assert len(before.looks()) == 1  # another photograph makes no fresh side, and the same model is no second look


@pytest.mark.parametrize("how", ["other refusals", "other classes", "rolled back"])
def test_a_champion_of_before_is_scored_again_whatever_it_is_kept_for(before: Before, how: str) -> None:
    old = before.registered("old", 50, champion=True)
    changes = {"other refusals": {"ood_threshold": 1.0}, "other classes": {"classes": ("blue", "green", "red")}}
    new = before.registered("new", -60 if how == "other classes" else 50, candidate=how, **changes.get(how, {}))
    if how == "rolled back":
        assert before.tracker.registry.promote(new, "better", over=old)
        assert before.tracker.registry.roll_back(before.name, "it is wrong")[1] == old
    verdict, _ = before.compare(new, old)
    assert verdict.outcome == "kept" and verdict.reason.endswith(AGAIN)
    assert before.kept(old).model_digest == old.model_digest
    assert len(before.looks()) == (how in changes)  # and what was compared was a look at the test side


def test_without_two_shared_classes_the_limits_that_are_missed_are_named(before: Before) -> None:
    old, new = before.registered("old", 50, champion=True, classes=("cat", "red")), before.registered("new", 50)
    small = Gate(max_size_mb=1e-6)
    verdict, _ = replace(before, params=before.params.model_copy(update={"gate": small})).compare(new, old)
    assert verdict.outcome == "promoted"
    assert "nothing to compare on; outside its limits: " in verdict.reason
    assert verdict.reason.endswith("model at most 1e-06 MB")


def test_a_champion_of_another_size_is_compared_on_the_same_slices(before: Before) -> None:
    """Both are wrong on every photograph, so the mistakes of a slice are what is in it."""
    old = before.registered("old", -50, champion=True, size=240, fit="crop")
    _, ours = before.compare(before.registered("new", -60), old)
    theirs = {part.name: part.mistakes for part in before.kept(old).slices}
    assert {part.name: part.mistakes for part in ours.report.slices} == theirs
    assert any(name.startswith("sharpness") for name in theirs)


def test_experiments_of_dvc_keep_their_runs_in_the_main_workspace(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = root / ".dvc" / "tmp" / "exps" / "tmpabc"
    assert server.uri(copy) == server.uri(root) == f"sqlite:///{root}/mlflow.db"
    standalone = root / ".dvc" / "tmp" / "exps" / "standalone" / "tmpabc"
    assert server.uri(standalone) == server.uri(root)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere")
    assert server.uri(copy) == "http://elsewhere"
    assert server.artifact_root(copy) is None


def test_a_server_that_does_not_answer_is_one_sentence_without_its_password(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    with pytest.raises(PawprintError, match=r"MLflow server at http://127\.0\.0\.1:9 does not answer") as caught:
        server.connect(root)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["moved", "with 50% of #1's _ é"])
def test_a_project_that_is_moved_or_copied_keeps_its_runs_to_itself(
    root: Path, params: Params, toy_model: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Tracker(root).start_training("article_cnn", params, ModelInfo.read(toy_model).lineage, "one", {}) as run:
        run.artifact(root / "params.yaml", "kept")
        run.model(toy_model)
    model = Tracker(root).run(run.id).model_uri.removeprefix("models:/")
    folder = root
    for number in range(2):  # a copy, and a copy of the copy
        folder = Path(shutil.copytree(folder, tmp_path / f"{name} {number}"))
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)  # MLflow sets it to the database before
        client = Tracker(folder).client
        addresses = (client.get_run(run.id).info.artifact_uri, client.get_logged_model(model).artifact_location)
        for address in addresses:
            assert Path(unquote(urlsplit(address).path)).is_relative_to(folder / "mlartifacts")
            assert Path(unquote(urlsplit(address).path)).is_dir()
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert str(root) in Tracker(root).client.get_run(run.id).info.artifact_uri


def test_a_run_that_was_deleted_in_mlflow_is_taken_back_where_it_is_needed(
    tracker: Tracker, params: Params, toy_model: Path, tmp_path: Path
) -> None:
    folder = trained(tracker, params, toy_model, tmp_path)
    run_id = RunRecord.read(folder).run_id
    tracker.client.delete_run(run_id)
    assert tracker.restore_run(folder).id == run_id
    tracker.client.delete_run(run_id)
    tracker.run(run_id).tags({"gate": "kept"})
    assert tracker.client.get_run(run_id).info.lifecycle_stage == "active"
    with pytest.raises(PawprintError, match="was deleted for good"):
        tracker.run("0" * 32)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("mlruns", "`mlflow migrate-filestore`"),
        ("./runs/here", "is a folder"),
        ("file:///tmp/mlruns", "is a folder"),
        ("ftp://me:hunter2@x/y", "=ftp://x names no server"),
        ("postgresql+nodriver://me:hunter2@127.0.0.1:1/x", "database postgresql[+]nodriver://127.0.0.1:1 of MLFLOW"),
    ],
)
def test_a_folder_of_runs_is_refused_in_one_sentence(
    root: Path, monkeypatch: pytest.MonkeyPatch, address: str, message: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    with pytest.raises(PawprintError, match=message):
        server.connect(root)


def test_a_database_named_by_a_relative_path_is_the_project_s(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    assert server.uri(root) == f"sqlite:///{root.resolve()}/mlflow.db"
    assert server.artifact_root(root) == (root.resolve() / "mlartifacts").as_uri()


def test_a_path_that_no_address_can_hold_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(PawprintError, match=r"cannot hold the `\?` of .*what\?\. Rename the folder"):
        server.connect(tmp_path / "what?")


ODD = [
    "Corn_(maize)___Common_rust_", "Pepper,_bell___healthy", "50 % $x$", "#<b>'\"", "-1", "9", "..a..", "猫 と 犬",
    "é" * 100,    "?", "*", "a?", "a*", "A", "a", "x" * 255, "x" * 254 + "y",
]  # fmt: skip


def test_figures_of_classes_of_any_name_are_logged_and_kept_apart(tracker: Tracker) -> None:
    run = tracker.run(tracker.client.create_run(tracker.experiment("odd")).info.run_id)
    values = {f"{before}{name}": float(n) for before in ("f1_", "slice/class/") for n, name in enumerate(ODD)}
    run.metrics(values)
    found = tracker.params_and_metrics(run.id)[1]
    assert sorted(found.values()) == sorted(values.values())
    assert {found[metric_key(name)] == value for name, value in values.items()} == {True}
    assert metric_key("f1_cat") == "f1_cat" and metric_key("f1_猫 と 犬") == "f1_猫 と 犬"  # as people write them


def test_the_candidates_page_opens_as_model_training_with_their_figures(
    tracker: Tracker, params: Params, toy_model: Path, tmp_path: Path
) -> None:
    dataset = ModelInfo.read(trained(tracker, params, toy_model, tmp_path)).lineage.dataset
    page = tracker.comparison_page(dataset)
    assert "workflowType=machine_learning" in page
    experiment = tracker.client.get_experiment_by_name(dataset)
    view = json.loads(experiment.tags[f"mlflow.sharedViewState.{VIEW}"])
    assert {"metrics.`test_accuracy`", "metrics.`test_log_loss`"} <= set(view["selectedColumns"])
    assert view["compareRunCharts"][0]["selectedMetricKeys"] == ["train_loss", "validation_loss"]
    assert tracker.comparison_page("no such data set") == "/"


def test_a_training_says_where_its_run_is_shown(
    tracker: Tracker, params: Params, toy_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with tracker.start_training("article_cnn", params, ModelInfo.read(toy_model).lineage, "one", {}) as run:
        assert f"/runs/{run.id}" in capsys.readouterr().out

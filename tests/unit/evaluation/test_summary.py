"""The summary: whose commit, data and run it names."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from pawprint.evaluation import summary

FIGURE = {"value": 0.9, "low": 0.8, "high": 0.95}


@pytest.fixture
def root(tmp_path: Path, toy_model: Path) -> Path:
    """A project whose champion was trained by an earlier commit than its candidates, on other photographs."""
    params = yaml.safe_load((Path(__file__).parents[3] / "params.yaml").read_text(encoding="utf-8"))
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    for place, commit in (("models/article_cnn", "b"), ("models/efficientnet_lite0", "c"), ("champion", "a")):
        shutil.copytree(toy_model, tmp_path / place)
        info = json.loads((tmp_path / place / "model.json").read_bytes())
        info["lineage"] |= {
            "git_commit": commit * 40,
            "git_dirty": False,
            "data_hash": f"{commit}.dir",
            "dataset": "pets",
        }
        (tmp_path / place / "model.json").write_text(json.dumps(info))
        (tmp_path / place / "run.json").write_text(json.dumps({"run_id": commit * 32, "seconds": 3.0, "calls": []}))
    test = {"photographs": 60, "accuracy": FIGURE, "served_accuracy": FIGURE, "log_loss": FIGURE}
    files = {
        "reports/metrics.json": {name: {"test": test} for name in params["candidates"]},
        "reports/gate.json": {"outcome": "kept", "reason": "worse"},
        "bento.json": {
            "tag": "pawprint:x", "candidate": "article_cnn", "model": "pawprint-pets", "version": "1",
            "run_id": "a" * 32, "dataset": "pets",
        },
        "prepared/report.json": {"drawn": False},
    }  # fmt: skip
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content))
    return tmp_path


def test_it_names_the_champion_s_own_commit_data_and_run(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary.show(root)
    shown = capsys.readouterr().out
    assert "a" * 12 in shown
    assert "pets a.dir" in shown
    assert "a" * 32 in shown
    for other in "bc":
        assert other * 12 not in shown
    summary.write_results(root, root / "RESULTS.md")
    facts = (root / "RESULTS.md").read_text(encoding="utf-8").split("- champion")[1]
    assert "a" * 12 in facts
    assert "c" * 12 not in facts


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_no_line_is_wider_than_the_window(
    root: Path, columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    summary.show(root)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= columns
    assert "article_cnn" in "".join(lines)
    assert lines.index(next(line for line in lines if "accuracy" in line)) < lines.index("Next:")


def test_next_is_what_can_be_typed_there(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary.show(root)
    assert "make run PHOTOS=FILE" in capsys.readouterr().out
    (root / ".pawprint.json").write_text("{}")  # a project of `pawprint init`, where make may be missing
    summary.show(root)
    shown = capsys.readouterr().out
    assert "pawprint run --photos FILE" in shown
    assert "make" not in shown


def test_for_a_program_it_is_an_object(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAWPRINT_OUTPUT", "json")
    summary.show(root)
    found = json.loads(capsys.readouterr().out)
    assert [model["candidate"] for model in found["models"]] == ["article_cnn", "efficientnet_lite0"]
    assert found["MLflow run"] == "a" * 32

"""`make report` and the workflow around it: a real git and DVC repository with two commits, and the workflow's text."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

PROJECT = Path(__file__).parents[2]

DVC_YAML = """
stages:
  evaluate:
    cmd: python measure.py
    deps: [measure.py]
    params: [loss]
    plots: [reports/plots]
    outs: [reports/metrics.json]
"""
MEASURE = """
import json, pathlib, yaml
loss = yaml.safe_load(open("params.yaml"))["loss"]
pathlib.Path("reports/plots").mkdir(parents=True, exist_ok=True)
test = {"log_loss": {"value": loss, "low": loss - 0.1, "high": loss + 0.1}, "accuracy": {"value": 0.98}}
test["auroc"] = {"value": 1 - loss, "low": 0.2, "high": 1.0}
json.dump({"mlp": {"test": test}}, open("reports/metrics.json", "w"))
from PIL import Image
Image.new("L", (120, 120), int(100 * loss)).save("reports/plots/confusion.png")
"""


def run(folder: Path, *words: str) -> str:
    who = {"GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@t", "GIT_COMMITTER_NAME": "t", "GIT_COMMITTER_EMAIL": "t@t"}
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    environment = {"PATH": path, "HOME": str(folder.parent), **who}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def report(folder: Path, *words: str) -> str:
    run(folder, sys.executable, str(PROJECT / "scripts" / "report.py"), *words)
    return (folder / "report" / "report.md").read_text()


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository whose main has a log loss of 0.5 and whose workspace has 0.25."""
    root = tmp_path_factory.mktemp("report") / "project"
    root.mkdir()
    dvc = (sys.executable, "-m", "dvc")
    run(root, "git", "init", "-q", "-b", "main")
    run(root, *dvc, "init", "-q")
    for name, text in (("dvc.yaml", DVC_YAML), ("measure.py", MEASURE), ("params.yaml", "loss: 0.5\n")):
        (root / name).write_text(text)
    (root / ".gitignore").write_text("/reports\n/report\n")
    run(root, *dvc, "repro")
    run(root, "git", "add", "-A")
    run(root, "git", "commit", "-qm", "main")
    run(root, "git", "switch", "-qc", "topic")
    (root / "params.yaml").write_text("loss: 0.25\n")
    run(root, *dvc, "repro")
    (root / "reports" / "gate.md").write_text("# Gate: promoted\n\nbetter\n")
    return root


def test_a_report_has_both_figures_their_change_the_gate_and_the_plots(changed: Path) -> None:
    output = report(changed)
    assert "| mlp | log loss | 0.5000 | 0.2500 | **-0.2500** |" in output
    assert "| mlp | accuracy | 0.9800 | 0.9800 | = |" in output
    assert "| mlp | AUROC | 0.5000 | 0.7500 | +0.2500 |" in output  # within its interval: not in bold
    assert "## Gate: promoted" in output
    page = (changed / "report" / "plots" / "index.html").read_text()
    assert page.count("<img") == 2  # there and here
    assert "<script" not in page


@pytest.mark.slow  # pipelines in worktrees
def test_figures_that_nobody_kept_are_made_again(changed: Path) -> None:
    (cache,) = (changed / ".dvc").glob("cache")
    before = run(changed, "git", "status", "--porcelain")
    for path in sorted(cache.rglob("*"), reverse=True):
        path.chmod(0o700)
        path.rmdir() if path.is_dir() else path.unlink()
    output = report(changed)
    assert "| mlp | log loss | - | 0.2500 | new |" in output
    assert "`--build` reproduces it here" in output
    assert "| mlp | log loss | 0.5000 | 0.2500 | **-0.2500** |" in report(changed, "--build")
    assert run(changed, "git", "status", "--porcelain") == before
    run(changed, "git", "rm", "-q", "--cached", "dvc.lock")
    run(changed, "git", "commit", "-qm", "a revision without a run")
    assert "| mlp | log loss | 0.5000 | 0.2500 | **-0.2500** |" in report(changed, "--build", "--against", "HEAD")
    assert run(changed, "git", "worktree", "list").count("\n") == 1


def test_a_revision_that_is_not_here_is_a_sentence(changed: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(PROJECT / "scripts" / "report.py"), "--against", "nowhere"],
        cwd=changed, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "there is no revision 'nowhere' here" in done.stderr
    assert "Traceback" not in done.stderr


WORKFLOWS: dict[str, Any] = {
    path.name: yaml.safe_load(path.read_text()) for path in sorted((PROJECT / ".github" / "workflows").glob("*.yml"))
}


@pytest.mark.parametrize("name", WORKFLOWS)
def test_actions_are_pinned_by_commit_and_rights_are_the_least(name: str) -> None:
    """No tag that can be moved; and what runs code of a pull request may write nothing and keeps no credentials."""
    workflow = WORKFLOWS[name]
    assert workflow["permissions"] == {"contents": "read"}
    assert "pull_request_target" not in workflow[True]  # YAML reads `on` as true
    for job in workflow["jobs"].values():
        uses = [step["uses"] for step in job["steps"] if "uses" in step]
        assert all(re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", one) for one in uses)
        writes = "write" in job.get("permissions", {}).values()
        fetches = [step for step in job["steps"] if "actions/checkout@" in step.get("uses", "")]
        assert not (writes and fetches), "a job that may write runs none of the pull request's code"
        assert all(step["with"]["persist-credentials"] is False for step in fetches)

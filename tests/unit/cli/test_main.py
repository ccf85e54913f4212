"""The command line: a table of contents, an example for each command, errors in one sentence."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from pawprint import __version__
from pawprint.cli.main import app

RUNNER = CliRunner()
GROUP = get_command(app)


def commands(group, words: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for name, command in group.commands.items():
        below = hasattr(command, "commands")
        found += commands(command, (*words, name)) if below else [(*words, name)]
    return found


def test_the_help_lists_every_group_of_commands() -> None:
    shown = RUNNER.invoke(app, ["-h"]).output
    for panel in ("Make", "Predict", "Compare and choose", "Provenance", "Machine"):
        assert panel in shown
    for name in GROUP.commands:
        assert name in shown


@pytest.mark.parametrize("words", commands(GROUP), ids=" ".join)
def test_every_command_has_help_with_an_example(words: tuple[str, ...]) -> None:
    result = RUNNER.invoke(app, [*words, "--help"])
    assert result.exit_code == 0
    assert "Example" in result.output
    assert f"pawprint {' '.join(words)}".split(" ")[0] in result.output


def test_the_version_is_printed() -> None:
    assert RUNNER.invoke(app, ["--version"]).output.strip() == __version__


def test_help_loads_no_heavy_library() -> None:
    code = (
        "import sys; import pawprint.cli.main; "
        "print([n for n in ('torch', 'mlflow', 'bentoml', 'cv2', 'openvino', 'pydantic', 'yaml') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_outside_of_a_project_a_flow_is_refused_in_one_sentence(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from pawprint.cli.main import main; main()", "run"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and "no pawprint project" in done.stderr
    assert "Traceback" not in done.stderr

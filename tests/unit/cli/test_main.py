"""The command line: a table of contents, an example for each command, errors in one sentence."""

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from typer.main import get_command
from typer.testing import CliRunner

from pawprint import __version__
from pawprint.cli import main
from pawprint.cli.main import app

PROJECT = Path(__file__).parents[3]
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


def test_a_command_that_a_text_names_exists() -> None:
    """In docs, docstrings, messages and examples: `pawprint GROUP COMMAND --option`."""
    listed = subprocess.run(["git", "ls-files", ":!tests"], cwd=PROJECT, capture_output=True, text=True, check=True)
    looked_up = 0
    for name in listed.stdout.splitlines():
        if not name.endswith((".md", ".py", ".sh", ".mk", ".js", ".html", ".yaml", ".yml", "Makefile")):
            continue
        text = (PROJECT / name).read_text(encoding="utf-8")
        text = re.sub(r'" *\n *f?"', "", text)  # a sentence over two lines of code
        typed = r"(?:`|^ +|^\$ |Examples?: | \| |&& |uv run )(?:[A-Z_]+=\S+ )*pawprint ([^`\n|#;&<]+)"
        for line in re.findall(typed, text, re.MULTILINE):
            command, words = GROUP, re.findall(r"[^\s\[\]\"'(),.:]+", line)
            while words and hasattr(command, "commands") and not words[0].startswith("-"):
                assert words[0] in command.commands, f"{name}: pawprint {line}"
                command = command.commands[words.pop(0)]
            known = {option for one in command.params for option in one.opts} | {"--help", "-h"}
            unknown = {word.partition("=")[0] for word in words if re.match("--?[a-z]", word)} - known
            assert not unknown, f"{name}: pawprint {line}"
            looked_up += 1
    assert looked_up > 200


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


def pawprint(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from pawprint.cli.main import main; main()", *words]
    return subprocess.run(
        command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """What marks a project, with a photograph a class and a flow that says what it was given."""
    root = tmp_path / "project"
    for label in ("cat", "dog"):
        (root / "data" / label).mkdir(parents=True)
        (root / "data" / label / "1.jpg").write_bytes(label.encode())
    (root / "flows").mkdir()
    (root / "flows" / "__init__.py").touch()
    words = "print(os.getcwd(), sys.argv[1:], [os.environ.get(name) for name in ('PREFECT_API_URL', 'BENTOML_HOME')])"
    (root / "flows" / "pipeline.py").write_text(f"import os, sys\n{words}\n")
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(PROJECT / name, root)
    (root / "notes" / "deep").mkdir(parents=True)
    return root


def test_a_command_in_a_folder_below_finds_the_project(project: Path) -> None:
    below = project / "notes" / "deep"
    (below / "photos").mkdir()
    done = pawprint("run", "--photos", "photos", cwd=below, PREFECT_HOME=str(below), BENTOML_HOME=str(below))
    assert done.stdout.startswith(f"{project} ['run', '--photos', '{below / 'photos'}']")
    pawprint("photos", "decide", "../../data/cat/1.jpg", "--drop", cwd=below)
    assert ",drop,," in (project / "labels.csv").read_text()
    assert "../../champion" in pawprint("predict", "x.jpg", cwd=below).stderr
    assert sorted(path.name for path in below.iterdir()) == ["photos"]


def test_predict_and_batch_follow_the_projects_limit_of_pixels(project: Path, toy_model: Path) -> None:
    Image.new("RGB", (400, 400), "grey").save(project / "grey.png")
    assert pawprint("predict", "grey.png", "--model", str(toy_model), cwd=project).returncode == 0
    params = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(re.sub(r"max_pixels: 100_000_000", "max_pixels: 90_000", params))
    done = pawprint("predict", "grey.png", "--model", str(toy_model), cwd=project)
    assert done.returncode == 1 and "at most 90,000 pixels" in done.stderr
    (project / "one").mkdir()
    (project / "grey.png").rename(project / "one" / "grey.png")
    done = pawprint("batch", "one", "out", "--model", str(toy_model), cwd=project)
    assert done.returncode == 0 and re.search(r"error +1 +100.0%", done.stdout)
    (project / "params.yaml").write_text(params)
    done = pawprint("batch", "one", "out", "--model", str(toy_model), cwd=project)
    assert done.returncode == 1 and "predictions of another max_pixels" in done.stderr


def test_predict_and_batch_outside_of_a_project_say_what_to_name(tmp_path: Path) -> None:
    done = pawprint("predict", "x.jpg", cwd=tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "--model" in done.stderr and "--url" in done.stderr
    done = pawprint("batch", ".", "out", cwd=tmp_path)
    assert done.returncode == 1 and "no model folder" in done.stderr and "--model" in done.stderr


@pytest.mark.parametrize("variable", ["PREFECT_HOME", "BENTOML_HOME", "HOME"])
def test_a_store_that_cannot_be_written_is_one_sentence_with_a_way_on(project: Path, variable: str) -> None:
    elsewhere = {"PREFECT_HOME": str(project / "p"), "BENTOML_HOME": str(project / "b")}
    bad = {"PREFECT_HOME": "", "BENTOML_HOME": "", "HOME": "/proc/nowhere"} if variable == "HOME" else {
        **elsewhere, variable: "/proc/nowhere",
    }  # fmt: skip
    done = pawprint("run", cwd=project, **bad)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "cannot be written" in done.stderr and "--local" in done.stderr
    local = pawprint("run", "--local", cwd=project, **bad, PREFECT_API_URL="http://127.0.0.1:9/api")
    assert local.returncode == 0, local.stderr
    assert f"[None, '{project / 'cache' / 'local' / 'bentoml'}']" in local.stdout


def test_a_proxy_is_not_used_for_servers_on_this_machine(tmp_path: Path) -> None:
    code = "import pawprint, httpx, os; print(os.environ['NO_PROXY'], httpx.get('http://127.0.0.1:9/'))"
    for given in ("", "example.org,localhost"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"HTTP_PROXY": "http://192.0.2.1:3128", "NO_PROXY": given, "no_proxy": given},
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert "Connection refused" in done.stderr  # by the machine itself, not a wait for the proxy


def test_what_the_disk_refuses_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "photos.zip")

    monkeypatch.setattr(main, "app", refuse)
    monkeypatch.setattr(main, "interrupt_once", lambda: None)
    with pytest.raises(SystemExit):
        main.main()
    assert capsys.readouterr().err.startswith("error: photos.zip cannot be read or written (Permission denied). ")


def test_every_architecture_says_what_it_is() -> None:
    lines = RUNNER.invoke(app, ["models", "list"], env={"COLUMNS": "160"}).output.splitlines()
    assert len(lines) >= 6
    for line in lines:
        assert "See the module" not in line
        assert "from scratch" in line or "retrained" in line


def test_ctrl_c_typed_twice_is_one_line_and_what_ends_the_command_is_not_interrupted() -> None:
    code = (
        "import time\nfrom pawprint.cli import main\n"
        "def wait():\n    try:\n        print('waits', flush=True)\n        time.sleep(60)\n"
        "    finally:\n        print('ends', flush=True)\n        time.sleep(1)\n        print('ended', flush=True)\n"
        "main.app.command()(wait)\nmain.main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, "wait"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout
    assert process.stdout.readline() == "waits\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "ends\n"
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=60)[0] == "ended\nStopped.\n"
    assert process.returncode == 130

"""A project without a checkout: `pawprint init` from the code of a wheel, then what a person does there."""

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from pawprint import project
from workspace import PROJECT

PAWPRINT = "import sys; from pawprint.cli.main import main; sys.argv[0] = 'pawprint'; main()"
STALE = "from pathlib import Path; from pawprint import dvc; print('code' in dvc.status(Path()))"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the working tree, built in a copy, which setuptools fills with files of its own."""
    copy, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=PROJECT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.split("\0")):
        if (PROJECT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((PROJECT / name).read_bytes())
    code = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, out], cwd=copy, capture_output=True, check=True)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment variables under which Python takes pawprint from the wheel and knows nothing of the checkout."""
    home = tmp_path_factory.mktemp("home")
    site = home / "site"
    with zipfile.ZipFile(wheel) as packed:  # the packages that it needs are those of this environment
        packed.extractall(site)
    finder = "import sys; sys.meta_path[:] = [one for one in sys.meta_path if 'editable' not in repr(one)]\n"
    (site / "sitecustomize.py").write_text(
        finder
        + f"sys.path[:] = [one for one in sys.path if not one.startswith({str(PROJECT)!r}) or 'site-packages' in one]\n"
    )
    for key, value in (("user.name", "t"), ("user.email", "t@example.org")):
        subprocess.run(["git", "config", "--file", home / ".gitconfig", key, value], check=True)
    return os.environ | {
        "HOME": str(home),
        "PYTHONPATH": str(site),
        "BENTOML_HOME": str(home / "bentoml"),
        "PREFECT_HOME": str(home / "prefect"),
        "PATH": f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}",
        "SITE": str(site),
    }


def python(installed: dict[str, str], folder: Path, code: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *words]
    return subprocess.run(command, cwd=folder, env=installed, capture_output=True, text=True, check=False)


def pawprint(installed: dict[str, str], folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return python(installed, folder, PAWPRINT, *words)


@pytest.fixture(scope="module")
def made(installed: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    done = pawprint(installed, folder, "init", "pets")
    assert done.returncode == 0, done.stderr
    assert "cd pets && pawprint run" in done.stdout
    return folder / "pets"


def test_a_project_holds_the_files_of_the_repository(made: Path) -> None:
    held = {name: path.read_bytes() for name, path in project.files((*project.PARTS, *project.SAMPLE), PROJECT)}
    assert len(held) > 400
    assert not [name for name, content in held.items() if (made / name).read_bytes() != content]
    for name in ("params.yaml", "dvc.yaml", "bentofile.yaml", "docker-compose.yml", "Makefile", "README.md", "flows"):
        assert (made / name).exists()
    git = ["git", "-C", str(made)]
    assert not subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    assert "src/" not in subprocess.run([*git, "ls-files"], capture_output=True, text=True, check=True).stdout


def test_the_stages_depend_on_the_installed_code(made: Path, installed: dict[str, str]) -> None:
    assert (made / "src" / "pawprint").resolve() == Path(installed["SITE"]) / "pawprint"
    stage = {"stages": {"code": {"cmd": "echo 1 > out", "deps": ["src/pawprint/config.py"], "outs": ["out"]}}}
    other = made.parent / "staleness"
    assert pawprint(installed, made.parent, "init", "staleness").returncode == 0
    (other / "dvc.yaml").write_text(json.dumps(stage))
    done = python(
        installed,
        other,
        f"from pathlib import Path; from pawprint import dvc; list(dvc.repro(Path(), 'code')); {STALE}",
    )
    assert done.stdout.splitlines()[-1:] == ["False"], done.stderr
    config = Path(installed["SITE"], "pawprint", "config.py")
    before = config.read_bytes()
    try:
        config.write_bytes(before + b"# another version\n")  # as an upgrade changes it
        assert python(installed, other, STALE).stdout.splitlines()[-1:] == ["True"]
    finally:
        config.write_bytes(before)


def test_a_folder_that_holds_files_is_left_alone(made: Path, installed: dict[str, str]) -> None:
    done = pawprint(installed, made.parent, "init", "pets")
    assert done.returncode == 1
    assert done.stderr == "error: pets is not empty. Name a new or empty folder.\n"


def test_photographs_that_cannot_be_read_leave_no_half_project(installed: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = pawprint(installed, tmp_path, "init", "here", "--photos", "empty")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert not (tmp_path / "here").exists()


def test_upgrade_shows_what_a_newer_version_changes_and_git_applies_it(
    installed: dict[str, str], tmp_path: Path
) -> None:
    assert pawprint(installed, tmp_path, "init", "old").returncode == 0
    root = tmp_path / "old"
    assert pawprint(installed, root, "upgrade").stdout == ""
    (root / "params.yaml").write_text((root / "params.yaml").read_text() + "# mine\n")
    (root / "bentofile.yaml").write_text("# mine too\n")
    carried = Path(installed["SITE"], "pawprint", "project")
    kept = {name: (carried / name).read_bytes() for name in ("flows/quantize.py", "bentofile.yaml")}
    try:
        for name, content in kept.items():
            (carried / name).write_bytes(content + b"# newer\n")
        done = pawprint(installed, root, "upgrade")
        assert done.returncode == 0
        assert "a/params.yaml" not in done.stdout
        assert "bentofile.yaml: changed by you and by pawprint" in done.stderr
        subprocess.run(["git", "apply"], cwd=root, input=done.stdout, text=True, check=True)
        assert (root / "flows" / "quantize.py").read_text().endswith("# newer\n")
        assert (root / "bentofile.yaml").read_text() == "# mine too\n"
        assert pawprint(installed, root, "upgrade").stdout == ""
    finally:
        for name, content in kept.items():
            (carried / name).write_bytes(content)


@pytest.mark.slow
def test_run_there_does_what_make_run_does_here(made: Path, installed: dict[str, str]) -> None:
    params = (made / "params.yaml").read_text()
    (made / "params.yaml").write_text(params.replace("epochs: 5 ", "epochs: 1 "))
    done = pawprint(installed, made, "run")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert json.loads((made / "champion.json").read_text())["dataset"] == "sample"
    answer = pawprint(installed, made, "predict", "--json", "data/cat/000.jpg")
    assert json.loads(answer.stdout.splitlines()[0])["label"] in ("cat", "unknown"), answer.stderr
    again = python(installed, made, "import runpy; runpy.run_module('dvc', run_name='__main__')", "status")
    assert "up to date" in again.stdout, again.stdout

"""scripts/setup.sh: what it says where it cannot go on, and an installation from nothing but a folder of wheels."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from workspace import PROJECT


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What the set-up reads, and nothing else."""
    for name in ("scripts/setup.sh", "scripts/checkout.mk", "Makefile", "pyproject.toml", "setup.py", "README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(PROJECT / name, tmp_path / name)
    for name in ("requirements.lock", "locks", "src", ".dvc/config"):
        target, ignored = tmp_path / name, shutil.ignore_patterns("__pycache__", "*.egg-info")
        target.parent.mkdir(exist_ok=True)
        shutil.copytree(PROJECT / name, target, ignore=ignored) if (PROJECT / name).is_dir() else shutil.copy(
            PROJECT / name, target
        )
    return tmp_path


def bare(checkout: Path) -> dict[str, str]:
    """An environment with the shell's tools, this Python as python3.11, and neither uv nor an index."""
    tools = checkout / "tools"
    tools.mkdir()
    for name in ("bash", "awk", "cat", "df", "dirname", "env", "head", "make", "rm", "sed", "touch", "uname"):
        (tools / name).symlink_to(str(shutil.which(name)))
    (tools / "python3.11").symlink_to(
        Path(sys.base_prefix) / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
    )
    return {
        "PATH": str(tools),
        "HOME": str(checkout),
        "PIP_CONFIG_FILE": os.devnull,
        "UV_CACHE_DIR": f"{checkout}/cache",
    }


def setup(checkout: Path, environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "setup", *words], cwd=checkout, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("TORCH=rocm",), "error: TORCH=rocm is neither cpu nor cuda"),
        (("PYTHON=python9",), "error: python9 is not installed. Name a Python 3.11, 3.12 or 3.13"),
        (("PYTHON=./old",), "error: ./old is Python 3.10.1, the locks are for Python 3.11 to 3.13."),
    ],
)
def test_what_is_wrong_is_one_sentence(checkout: Path, words: tuple[str, ...], sentence: str) -> None:
    (checkout / "old").write_text('#!/bin/sh\n[ "$1" = -V ] && echo Python 3.10.1\nexit 1\n')
    (checkout / "old").chmod(0o755)
    done = setup(checkout, bare(checkout), *words)
    assert done.returncode != 0
    assert done.stderr.startswith(sentence), done.stderr
    assert not (checkout / ".venv").exists()


def test_where_there_is_no_python_and_no_uv_it_says_what_to_install(checkout: Path) -> None:
    environment = bare(checkout)
    (checkout / "tools" / "python3.11").unlink()
    done = setup(checkout, environment)
    assert done.stderr.startswith("error: no Python 3.11 to 3.13 here. Install one, or uv, which brings its own.")


def test_the_environment_of_a_project_that_was_moved_is_made_anew(checkout: Path) -> None:
    installed = checkout / ".venv" / ".installed"
    installed.parent.mkdir()
    installed.write_text(f"{installed.parent.resolve()}\n")
    environment = bare(checkout)
    assert setup(checkout, environment).returncode == 0  # nothing to do
    moved = checkout.rename(checkout.with_name("moved"))
    done = setup(moved, environment | {"PATH": str(moved / "tools")}, "PYTHON=python9")
    assert "was moved or copied" in done.stdout
    assert "python9 is not installed" in done.stderr
    assert not (moved / ".venv").exists()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_folder_of_wheels_is_enough(checkout: Path) -> None:
    wheels, pip = checkout / "wheels", [str(Path(sys.base_prefix) / "bin" / "python3"), "-m", "pip", "download", "-q"]
    locks = [word for name in ("requirements", "locks/torch-cpu", "locks/uv") for word in ("-r", f"{name}.lock")]
    subprocess.run([*pip, "--no-deps", "--require-hashes", "-d", wheels, *locks], cwd=checkout, check=True)
    offline = {"UV_OFFLINE": "1", "UV_NO_INDEX": "1", "UV_FIND_LINKS": str(wheels)}
    offline |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels)}
    done = setup(checkout, bare(checkout) | offline)
    assert done.returncode == 0, done.stderr
    assert "uv from PyPI" in done.stdout  # there is none on this machine's PATH
    code = "import torch, mlflow, prefect, bentoml, pawprint; print(torch.__version__)"
    output = subprocess.run([checkout / ".venv/bin/python", "-c", code], capture_output=True, text=True, check=True)
    assert output.stdout.strip().endswith("+cpu")

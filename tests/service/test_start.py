"""What a person sees who serves too early, or serves something broken."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from service_process import ROOT, free_port


def refused(cwd: Path, **env: str) -> str:
    """The last words of a `bentoml serve` that must not start."""
    done = subprocess.run(
        [sys.executable, "-m", "bentoml", "serve", "--port", str(free_port())],
        cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "Traceback" not in done.stdout + done.stderr
    return done.stderr


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A clone in which nothing was run yet."""
    for name in ("bentofile.yaml", "params.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "src/pawprint", tmp_path / "src/pawprint", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_without_a_champion_it_says_what_to_run(checkout: Path) -> None:
    assert "Run `make run` first" in refused(checkout, PYTHONPATH=str(checkout / "src"))


def test_a_wrong_folder_is_named(tmp_path: Path) -> None:
    assert "PAWPRINT_MODEL" in refused(ROOT, PAWPRINT_MODEL=str(tmp_path / "gone"))


def test_a_changed_model_is_refused(toy_model: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(toy_model, tmp_path / "model"))
    with (copy / "model.onnx").open("ab") as file:
        file.write(b"\0")
    assert "is not the file that model.json describes" in refused(ROOT, PAWPRINT_MODEL=str(copy))


def test_a_wrong_key_in_params_is_named(checkout: Path, toy_model: Path) -> None:
    text = (checkout / "params.yaml").read_text().replace("max_body_mb:", "max_bodymb:")
    (checkout / "params.yaml").write_text(text)
    words = refused(checkout, PYTHONPATH=str(checkout / "src"), PAWPRINT_MODEL=str(toy_model))
    assert "max_bodymb" in words and "unknown key" in words

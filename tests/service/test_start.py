"""What a person sees who serves too early, or serves something broken."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from service_process import ROOT, checkout, free_port


def refused(cwd: Path, **env: str) -> str:
    """The last words of a `bentoml serve` that must not start."""
    done = subprocess.run(
        [sys.executable, "-m", "bentoml", "serve", "--port", str(free_port())],
        cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "Traceback" not in done.stdout + done.stderr
    return done.stderr


def test_without_a_champion_it_says_what_to_run(tmp_path: Path) -> None:
    assert "Run `make run` first" in refused(tmp_path, **checkout(tmp_path))


def test_a_wrong_folder_is_named(tmp_path: Path) -> None:
    assert "PAWPRINT_MODEL" in refused(ROOT, PAWPRINT_MODEL=str(tmp_path / "gone"))


def test_a_changed_model_is_refused(toy_model: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(toy_model, tmp_path / "model"))
    with (copy / "model.onnx").open("ab") as file:
        file.write(b"\0")
    assert "is not the file that model.json describes" in refused(ROOT, PAWPRINT_MODEL=str(copy))


def test_a_wrong_key_in_params_is_named(toy_model: Path, tmp_path: Path) -> None:
    env = checkout(tmp_path, max_bodymb=20)
    words = refused(tmp_path, **env, PAWPRINT_MODEL=str(toy_model))
    assert "max_bodymb" in words and "unknown key" in words

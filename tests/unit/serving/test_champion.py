"""What a service takes from its environment: where the model lies, and which tokens open it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pawprint.errors import PawprintError
from pawprint.serving.champion import challenger_folder, model_folder, serving_params

ROOT = Path(__file__).parents[3]


def test_the_first_model_folder_that_exists_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    delivered, own = tmp_path / "delivered", tmp_path / "own"
    own.mkdir()
    monkeypatch.setenv("PAWPRINT_MODEL", f"{delivered}{os.pathsep}{own}")
    assert model_folder() == own
    delivered.mkdir()  # a champion has arrived
    assert model_folder() == delivered
    monkeypatch.setenv("PAWPRINT_MODEL", str(tmp_path / "nowhere"))
    with pytest.raises(PawprintError, match="is not a folder"):
        model_folder()


def test_a_gateway_switches_the_challenger_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "challenger").mkdir()
    monkeypatch.setenv("PAWPRINT_CHALLENGER", str(tmp_path / "challenger"))
    assert challenger_folder() == tmp_path / "challenger"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "off").mkdir()
    monkeypatch.setenv("PAWPRINT_CHALLENGER", "off")
    assert challenger_folder() is None


def test_the_environment_adds_tokens_and_a_token_itself_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert serving_params().tokens.admin == ()
    monkeypatch.setenv("PAWPRINT_ADMIN_SHA256", f"{'a' * 64},{'b' * 64}")
    assert serving_params().tokens.admin == ("a" * 64, "b" * 64)
    assert serving_params().tokens.read == ()
    monkeypatch.setenv("PAWPRINT_READ_SHA256", "the token, not its digest")
    with pytest.raises(PawprintError, match="PAWPRINT_READ_SHA256 is not a SHA-256"):
        serving_params()


def test_a_project_is_served_as_its_own_params_say_wherever_the_code_lies(tmp_path: Path) -> None:
    """Not as the checkout says from which the code was installed."""
    (tmp_path / "champion").mkdir()
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text().replace("keep_days: 30", "keep_days: 7"))
    code = "from pawprint.serving import champion as c; print(c.serving_params().keep_days, c.model_folder())"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["7.0", str(tmp_path / "champion")]

"""The Bento: built from a model folder, served where neither pawprint nor torch is installed."""

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import httpx
import pytest
import yaml

from pawprint.errors import PawprintError
from pawprint.inference.classifier import ModelInfo
from pawprint.serving import bento
from service_process import checkout, free_port, serving
from toy import build_toy_model

CHAMPION = {
    "model": "pawprint-colours", "version": "3", "run_id": "a" * 32, "candidate": "toy", "model_digest": "b" * 64,
    "dataset": "colours",
}  # fmt: skip


def run_python(code: str, *arguments: str, env: dict[str, str]) -> list[str]:
    """What the last line printed, as JSON, by a process of its own: BentoML reads BENTOML_HOME once."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env={**os.environ, **env}, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


BUILD = """
import json, sys
import bentoml
from pathlib import Path
from pawprint.serving import bento
seen = []
for version in sys.argv[3:]:
    tag = bento.build(Path(sys.argv[1]), {**json.loads(sys.argv[2]), "version": version})
    assert bento.exists(tag) and str(bentoml.get("pawprint:latest").tag) == tag
    seen.append(tag)
print(json.dumps(seen))
"""


NO_UV = """
import importlib.metadata, shutil
found, version_of = shutil.which, importlib.metadata.version
shutil.which = lambda name, *rest, **more: None if name == "uv" else found(name, *rest, **more)
importlib.metadata.version = lambda name: version_of("no-such-package" if name == "uv" else name)
sys.executable = "/no/python"  # which would install it
"""


@pytest.fixture(scope="module")
def home(toy_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """(BENTOML_HOME, tags built there): version 3, then 4, then 3 again."""
    folder = tmp_path_factory.mktemp("bentoml")
    return folder, run_python(
        BUILD, str(toy_model), json.dumps(CHAMPION), "3", "4", "3", env={"BENTOML_HOME": str(folder)}
    )


def test_the_store_is_listed_also_where_nothing_was_ever_built(home: tuple[Path, list[str]], tmp_path: Path) -> None:
    code = "import json; from pawprint.serving import bento; print(json.dumps(sorted(bento.folders())))"
    assert run_python(code, env={"BENTOML_HOME": str(tmp_path)}) == []
    assert run_python(code, env={"BENTOML_HOME": str(home[0])}) == sorted({*home[1]})


def requirements(home: Path, tag: str) -> list[str]:
    """What the Bento's image installs, a package a line."""
    listed = home / "bentos" / tag.replace(":", "/") / "env/python/requirements.txt"
    return [line for line in listed.read_text().replace("\\\n", " ").splitlines() if line.strip()]


def test_the_same_again_is_the_same_bento_and_latest_again(home: tuple[Path, list[str]]) -> None:
    folder, (third, fourth, again) = home
    assert third == again != fourth
    assert third.startswith("pawprint:colours-v3-")
    assert (folder / "bentos/pawprint/latest").read_text() == third.partition(":")[2]


def test_uv_is_not_installed_for_a_build_that_does_without(toy_model: Path, tmp_path: Path) -> None:
    environment = {"BENTOML_HOME": str(tmp_path)}
    assert run_python(f"import sys{NO_UV}{BUILD}", str(toy_model), json.dumps(CHAMPION), "3", env=environment)


def test_a_half_written_bento_is_built_again(home: tuple[Path, list[str]], toy_model: Path, tmp_path: Path) -> None:
    folder, tags = home
    copy = Path(shutil.copytree(folder, tmp_path / "bentoml"))
    kept = copy / "bentos" / tags[0].replace(":", "/")
    (kept / "src/champion/model.onnx").unlink()
    (copy / "bentos" / tags[1].replace(":", "/") / "bento.yaml").unlink()
    built = run_python(BUILD, str(toy_model), json.dumps(CHAMPION), "4", "3", env={"BENTOML_HOME": str(copy)})
    assert built == [tags[1], tags[0]]
    assert (kept / "src/champion/model.onnx").exists()


def test_it_holds_only_what_answering_needs(home: tuple[Path, list[str]]) -> None:
    folder, tags = home
    kept = folder / "bentos" / tags[0].replace(":", "/") / "src"
    assert not (kept / "pawprint/training").exists()
    assert not (kept / "champion/model.safetensors").exists()
    assert list(yaml.safe_load((kept / "params.yaml").read_text())) == ["serving"]
    packages = requirements(folder, tags[0])
    assert not {"torch", "mlflow", "dvc", "prefect"} & {line.partition("==")[0] for line in packages}
    own = f"bentoml=={distribution('bentoml').version}"  # BentoML adds itself once more; uv checks the first one's hash
    assert all("==" in line and "--hash=sha256:" in line for line in packages if line != own)


def test_a_damaged_model_is_refused(toy_model: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(toy_model, tmp_path / "model"))
    (copy / "model.onnx").write_bytes(b"onnx")
    with pytest.raises(PawprintError, match="half written"):
        bento.build(copy, CHAMPION)


@pytest.fixture(scope="module")
def bare_python(home: tuple[Path, list[str]], tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter with nothing but what the Bento's requirements.txt names (linked, not installed again)."""
    folder, tags = home
    venv = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    site = next(venv.glob("lib/python*/site-packages"))
    for name in {line.partition("==")[0] for line in requirements(folder, tags[0])}:
        package = distribution(name)
        for top in {file.parts[0] for file in package.files or () if file.parts[0] != ".."}:
            if not (site / top).exists():
                (site / top).symlink_to(package.locate_file(top))
    return str(venv / "bin/python")


def test_it_answers_where_pawprint_is_not_installed(
    home: tuple[Path, list[str]], bare_python: str, pictures: dict[str, bytes], tmp_path: Path
) -> None:
    bare = {"PYTHONPATH": ""}
    for name in ("pawprint", "torch"):
        command, env = [bare_python, "-c", f"import {name}"], {**os.environ, **bare}
        alone = subprocess.run(command, env=env, capture_output=True, cwd=tmp_path, check=False)
        assert b"ModuleNotFoundError" in alone.stderr
    folder, tags = home
    env = {
        **bare,
        "BENTOML_HOME": str(folder),
        "BENTOML_DO_NOT_TRACK": "True",
        "PAWPRINT_TRAFFIC": str(tmp_path / "traffic"),
    }
    with serving(tmp_path / "log", env, "pawprint:latest", bare_python, tmp_path) as (url, _):
        response = httpx.post(f"{url}/predict", content=pictures["blue"])
        assert response.status_code == 200, response.text
        assert response.json()["label"] == "blue"
        assert response.json()["model"]["bento"] == tags[0]
        assert response.headers["X-Pawprint-Bento"] == tags[0]


@pytest.fixture
def checkout_with_another_champion(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """(a checkout, the environment of an editable installation of it); its champion is not the Bento's."""
    root = tmp_path / "checkout"
    root.mkdir()
    env = checkout(root)
    build_toy_model(root / "champion", version="9", scale=40)
    return root, env


@pytest.mark.parametrize("inside", [False, True])
def test_a_tag_serves_what_it_holds_where_pawprint_is_installed_editable(
    home: tuple[Path, list[str]],
    checkout_with_another_champion: tuple[Path, dict[str, str]],
    toy_model: Path,
    tmp_path: Path,
    inside: bool,
) -> None:
    folder, tags = home
    root, env = checkout_with_another_champion
    env = {**env, "BENTOML_HOME": str(folder)}
    with serving(tmp_path / "log", env, tags[1], cwd=root if inside else tmp_path) as (url, _):
        model = httpx.get(f"{url}/model").json()["model"]
        assert (model["digest"], model["version"]) == (ModelInfo.read(toy_model).model_digest, "4")
        assert model["bento"] == tags[1]


def test_a_bento_with_another_model_in_it_does_not_start(
    home: tuple[Path, list[str]], checkout_with_another_champion: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    folder, tags = home
    root, env = checkout_with_another_champion
    copy = Path(shutil.copytree(folder, tmp_path / "bentoml"))
    champion = copy / "bentos" / tags[0].replace(":", "/") / "src/champion"
    shutil.rmtree(champion)
    shutil.copytree(root / "champion", champion)
    done = subprocess.run(
        [sys.executable, "-m", "bentoml", "serve", tags[0], "--port", str(free_port())],
        env={**os.environ, **env, "BENTOML_HOME": str(copy)}, cwd=tmp_path, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert f"{tags[0]} was built with the model" in done.stderr

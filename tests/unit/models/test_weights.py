"""Weights of networks by name: from a hub and from a file, pinned by digest, and nothing else read."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save, save_file
from typer.testing import CliRunner

from hub_server import REVISION, Hub, serve
from pawprint.cli import main, models
from pawprint.errors import PawprintError
from pawprint.models import registry, timm_backbone, weights

Add = Callable[[], subprocess.CompletedProcess[str]]
NAME = "timm/test_resnet.r160_in1k"  # 0.5 million parameters, made by timm's authors for tests


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    network = timm_backbone._timm().create_model(NAME.removeprefix("timm/"))
    return {name: value.contiguous() for name, value in network.state_dict().items()}


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PAWPRINT_CACHE", raising=False)


@pytest.fixture
def file(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    save_file(tensors, tmp_path / "mine.safetensors")
    return tmp_path / "mine.safetensors"


@pytest.fixture
def hub(tensors: dict[str, torch.Tensor]) -> Iterator[Hub]:
    with serve(Hub({NAME: save(tensors)})) as running:
        yield running


def add(hub: Hub | None, *words: str) -> subprocess.CompletedProcess[str]:
    """`pawprint models add`: a process of its own, for the hub's address is read once."""
    command = [sys.executable, "-c", "from pawprint.cli.main import main; main()", "models", "add", NAME, *words]
    where = {"HF_ENDPOINT": hub.url if hub else "http://127.0.0.1:9", "HF_HUB_DOWNLOAD_TIMEOUT": "2"}
    return subprocess.run(command, env=os.environ | where, capture_output=True, text=True, check=False)


@pytest.fixture
def add_here(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Add]:
    """`add` without the seconds in which a process imports torch and timm: what it reads once is set for the test."""
    monkeypatch.setattr(models, "ROOT", tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 2)
    monkeypatch.setattr(main, "interrupt_once", lambda: None)  # Ctrl-C stays pytest's
    monkeypatch.setattr(sys, "argv", ["pawprint", "models", "add", NAME])

    def add() -> subprocess.CompletedProcess[str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main.main()
        return subprocess.CompletedProcess(sys.argv, int(ended.value.code or 0), *capsys.readouterr())

    yield add
    huggingface_hub.close_session()  # the next test's hub may have this one's port


def stored() -> list[str]:
    return sorted(path.name for path in Path("cache/weights").glob("*.safetensors"))


def test_a_file_is_pinned_and_read_and_removed(file: Path, tensors: dict[str, torch.Tensor]) -> None:
    record = weights.add(NAME, file)
    assert weights.read(NAME) == record and weights.known() == [record]
    assert (record.size, record.classes, record.source) == (160, 1000, "file mine.safetensors")
    assert stored() == [f"{record.sha256}.safetensors"]
    network = registry.create_model(NAME)
    network.load_pretrained()
    for name, value in network.backbone.state_dict().items():  # type: ignore[union-attr]
        assert torch.equal(value, tensors[name])
    scores = network.class_scores()
    assert scores is not None and torch.equal(scores[0], tensors["fc.weight"])
    weights.remove(NAME)
    assert stored() == [] and weights.known() == []
    with pytest.raises(PawprintError, match=r"has not been added.*pawprint models add timm/test_resnet"):
        registry.create_model(NAME)


def test_another_digest_is_refused_when_it_is_added_and_when_it_is_read(
    file: Path, tensors: dict[str, torch.Tensor]
) -> None:
    record = weights.add(NAME, file)
    save_file(tensors | {"fc.bias": tensors["fc.bias"] + 1}, file)
    with pytest.raises(PawprintError, match=r"pins .* the file is not taken.*models remove"):
        weights.add(NAME, file)
    assert weights.read(NAME) == record
    record.path.write_bytes(file.read_bytes())
    with pytest.raises(PawprintError, match=r"not the file that weights/timm/test_resnet\.r160_in1k\.lock pins"):
        registry.create_model(NAME).load_pretrained()
    record.path.unlink()
    with pytest.raises(PawprintError, match=r"not on this machine.*models add"):
        record.check()


def test_what_is_no_safetensors_or_of_another_network_is_refused(
    file: Path, tmp_path: Path, tensors: dict[str, torch.Tensor]
) -> None:
    torch.save(tensors, tmp_path / "model.bin")
    with pytest.raises(PawprintError, match=r"is no safetensors file.*nothing else is read"):
        weights.add(NAME, tmp_path / "model.bin")
    save_file({name: value for name, value in tensors.items() if name != "bn1.weight"}, file)
    with pytest.raises(PawprintError, match=r"other weights than those of.*bn1.weight"):
        weights.add(NAME, file)
    with pytest.raises(PawprintError, match="is no file"):
        weights.add(NAME, tmp_path / "missing.safetensors")
    for name in ("timm/../../etc/passwd", "resnet18", "timm/"):
        with pytest.raises(PawprintError, match="names no network"):
            weights.read(name)
    with pytest.raises(PawprintError, match=r"no network 'test_resnot'.*Near are"):
        weights.add("timm/test_resnot", file)
    network = timm_backbone._timm().create_model("crossvit_tiny_240")
    save_file({name: value.clone() for name, value in network.state_dict().items()}, file)
    with pytest.raises(PawprintError, match="no single feature map"):
        weights.add("timm/crossvit_tiny_240.in1k", file)
    assert stored() == [] and weights.known() == []


def test_a_classifier_of_other_classes_or_none(file: Path, tensors: dict[str, torch.Tensor]) -> None:
    ours = {name: value for name, value in tensors.items() if not name.startswith("fc.")}
    save_file(ours, file)
    assert weights.add(NAME, file).classes == 0
    assert registry.create_model(NAME).class_scores() is None
    weights.remove(NAME)
    save_file(ours | {"fc.weight": torch.zeros(37, tensors["fc.weight"].shape[1]), "fc.bias": torch.zeros(37)}, file)
    assert weights.add(NAME, file).classes == 37


def test_the_hub_is_asked_once(hub: Hub, add_here: Add) -> None:
    done = add(hub)
    assert done.returncode == 0, done.stderr
    record = weights.read(NAME)
    assert (record.revision, record.source, record.licence) == (REVISION, f"{hub.url}/{NAME}", "apache-2.0")
    assert record.sha256 in done.stdout and not list(Path("cache/weights/incoming").glob("*"))
    asked = len(hub.asked)
    registry.create_model(NAME).load_pretrained()
    assert len(hub.asked) == asked
    record.path.unlink()  # another machine with this repository: the pinned revision, the pinned file
    assert add_here().returncode == 0
    assert f"GET /api/models/{NAME}/revision/{REVISION}" in hub.asked
    assert weights.read(NAME) == record


@pytest.mark.parametrize("licence", ["cc-by-nc-4.0", "fair-noncommercial-research-license", "other"])
def test_a_licence_that_needs_a_look_is_a_warning(hub: Hub, licence: str, add_here: Add) -> None:
    hub.licence = licence
    done = add_here()
    assert done.returncode == 0 and "Warning: the licence of timm/test_resnet" in done.stdout
    (pretrained,) = registry.pretrained(NAME)
    assert pretrained.licence == licence and pretrained.concern


def test_a_digest_that_the_hub_does_not_vouch_for(hub: Hub, add_here: Add) -> None:
    hub.said_digest = "0" * 64
    done = add_here()
    assert done.returncode == 1 and "does not have the SHA-256 that the hub says" in done.stderr
    assert stored() == [] and weights.known() == []


def test_a_file_that_has_changed_at_the_hub(hub: Hub, add_here: Add, tensors: dict[str, torch.Tensor]) -> None:
    assert add_here().returncode == 0
    record = weights.read(NAME)
    hub.files[NAME] = save(tensors | {"fc.bias": tensors["fc.bias"] + 1})
    done = add_here()
    assert done.returncode == 1 and f"pins {record.sha256}, so the file is not taken" in done.stderr
    assert weights.read(NAME) == record and stored() == [f"{record.sha256}.safetensors"]


def test_a_connection_that_is_cut_leaves_nothing(hub: Hub, add_here: Add) -> None:
    hub.cut_after = 1
    done = add_here()
    assert done.returncode == 1 and "could not be fetched" in done.stderr and "Traceback" not in done.stderr
    assert stored() == [] and weights.known() == []
    hub.cut_after = 0
    assert add_here().returncode == 0


def test_without_a_network_the_sentence_says_what_to_do() -> None:
    done = add(None)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "could not be fetched from http://127.0.0.1:9" in done.stderr and "--file" in done.stderr


def test_names_that_are_found_can_be_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = CliRunner().invoke(models.app, ["search", "vit_tiny"]).output.splitlines()
    assert "timm/vit_tiny_patch16_dinov3_qkvb.eupe_lvd1689m" in [line.split()[0] for line in lines]

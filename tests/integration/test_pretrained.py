"""A transformer and a CNN of timm, added from files, through the whole pipeline to a served answer with a heat map."""

import base64
import io
import json
import os
import sys
from pathlib import Path

import httpx
import make_sample
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from pawprint.models import timm_backbone
from service_process import serving
from workspace import Workspace, clone, consistent_champion

NETWORKS = {"vit": "test_vit.r160_in1k", "cnn": "test_resnet.r160_in1k"}
COMMAND = "from pawprint.cli.main import main; main()"


@pytest.mark.slow
def test_a_transformer_and_a_cnn_go_the_whole_way(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "project", tmp_path / "home")
    clone(workspace.root)
    for name in NETWORKS.values():
        torch.manual_seed(1)
        network = timm_backbone._timm().create_model(name)
        save_file({key: value.contiguous() for key, value in network.state_dict().items()}, tmp_path / "a.safetensors")
        given = ("--file", str(tmp_path / "a.safetensors"), "--licence", "cc-by-nc-4.0")
        workspace(sys.executable, "-c", COMMAND, "models", "add", f"timm/{name}", *given)

    def two(values: dict[str, dict[str, object]]) -> None:
        head = values["candidates"]["efficientnet_lite0"]
        values["candidates"] = {key: head | {"architecture": f"timm/{name}"} for key, name in NETWORKS.items()}  # type: ignore[operator]
        values["training"]["folds"] = 0
        values["evaluation"] |= {"corruptions": 20, "clutter": 20}
        values["serving"] |= {"examples": 0}

    workspace.params(two)
    output = workspace.run()
    assert output.count("does not allow commercial use") >= 2  # before each training
    consistent_champion(workspace)
    (bento,) = (workspace.root / "reports" / "releases").rglob("sbom.cdx.json")
    named = {part["name"]: part for part in json.loads(bento.read_text())["components"]}
    champion = workspace.json("champion/model.json")
    (weights,) = champion["lineage"]["pretrained"]
    assert named[weights["name"]]["hashes"][0]["content"] == weights["sha256"]
    assert "does not allow commercial use" in (bento.parent / "MODEL_CARD.md").read_text()

    picture = tmp_path / "cat.png"
    picture.write_bytes(next(data for _, data in make_sample.sample()))
    for name in NETWORKS:  # the one that is not served answers too
        found = workspace(sys.executable, "-c", COMMAND, "predict", "--model", f"models/{name}", str(picture))
        assert any(label in found for label in ("cat", "dog", "unknown"))
    environment = {"PYTHONPATH": str(workspace.root / "src"), "PATH": os.environ["PATH"]}
    with serving(tmp_path / "service.log", environment, cwd=workspace.root) as (url, _):
        explanation = httpx.post(f"{url}/explain", content=picture.read_bytes(), timeout=60).json()
        assert set(explanation["prediction"]["probabilities"]) >= {"cat", "dog"}
        with Image.open(io.BytesIO(base64.b64decode(explanation["overlay"].partition(",")[2]))) as overlay:
            assert overlay.size == (300, 300)

"""`preprocess.size: 224` through the whole pipeline, after a champion that was trained on 300 pixels."""

import base64
import io
import os
import sys
from pathlib import Path

import httpx
import make_sample
import onnx
import pytest
from PIL import Image

from pawprint.data.dataset import PreparedDataset
from service_process import serving
from workspace import Workspace, clone, consistent_champion

COMMAND = "from pawprint.cli.main import main; main()"


@pytest.mark.slow
def test_another_size_goes_the_whole_way(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "project", tmp_path / "home")
    clone(workspace.root)

    def short(values: dict[str, dict[str, object]]) -> None:
        del values["candidates"]["article_cnn"]
        values["training"]["folds"] = 0
        values["evaluation"] |= {"corruptions": 20, "clutter": 20}
        values["serving"] |= {"examples": 0}

    workspace.params(short)
    workspace.run()
    first = workspace.json("champion/model.json")
    assert first["size"] == 300

    workspace.params(lambda values: values["preprocess"].update(size=224))
    workspace.run()
    consistent_champion(workspace)
    assert PreparedDataset.open(workspace.root / "prepared").split("test").images([0]).shape == (1, 224, 224, 3)
    now = workspace.root / "models" / "efficientnet_lite0"
    dims = onnx.load(now / "model.onnx").graph.input[0].type.tensor_type.shape.dim
    assert [one.dim_value for one in dims][1:] == [224, 224, 3]
    gate = (workspace.root / "reports" / "gate.md").read_text()
    assert "log loss" in gate  # the two were compared, each on photographs as it was trained

    picture = tmp_path / "cat.png"
    picture.write_bytes(next(data for _, data in make_sample.sample()))
    for model in ("champion", str(now)):
        assert "cat" in workspace(sys.executable, "-c", COMMAND, "predict", "--model", model, str(picture))
    assert "0 with another label" in workspace(sys.executable, "-c", COMMAND, "export", str(now), str(tmp_path / "out"))
    environment = {"PYTHONPATH": str(workspace.root / "src"), "PATH": os.environ["PATH"], "PAWPRINT_MODEL": str(now)}
    with serving(tmp_path / "service.log", environment, cwd=workspace.root) as (url, _):
        for data in (picture.read_bytes(), next((workspace.root / "data" / "cat").iterdir()).read_bytes()):
            explanation = httpx.post(f"{url}/explain", content=data, timeout=60).json()
            with Image.open(io.BytesIO(base64.b64decode(explanation["overlay"].partition(",")[2]))) as overlay:
                assert overlay.size == (224, 224)

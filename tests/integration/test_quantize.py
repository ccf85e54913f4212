"""A quantized INT8 model, from params.yaml to the champion."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from flows import register
from prepared_set import drawings, params
from workspace import PROJECT, Workspace


@pytest.mark.parametrize("quantized", [{}, {"small_int8": "article_cnn", "lite_int8": "efficientnet_lite0"}])
def test_each_entry_under_quantized_is_a_stage_of_dvc(quantized: dict[str, str], tmp_path: Path) -> None:
    params = yaml.safe_load((PROJECT / "params.yaml").read_text()) | {"quantized": quantized}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    shutil.copy(PROJECT / "dvc.yaml", tmp_path)

    def dvc(*words: str) -> str:
        command = [sys.executable, "-m", "dvc", *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    dvc("init", "--no-scm", "--quiet")
    stages = dvc("stage", "list", "--name-only").split()
    assert {name for name in stages if name.startswith("quantize")} == {f"quantize@{name}" for name in quantized}
    graph = dvc("dag", "--dot")
    for name, source in quantized.items():
        assert f'"train@{source}" -> "quantize@{name}"' in graph


def test_the_speed_of_a_quantized_model_is_measured_where_the_gate_runs(
    toy_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """reports/metrics.json may come from DVC's cache, and from a machine with other instructions."""
    monkeypatch.setattr(register, "ROOT", tmp_path)
    figures = {}
    for name, speed in (("article_cnn", 1.0), ("small", 1e9)):
        shutil.copytree(toy_model, tmp_path / "models" / name)
        right = {"accuracy": {"value": 0.9}, "log_loss": {"value": 0.3}}
        figures[name] = {"validation": right, "speed": {"throughput_per_second": speed}}
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "metrics.json").write_text(json.dumps(figures))
    given = params("article_cnn").model_copy(update={"quantized": {"small": "article_cnn"}})
    test = drawings(tmp_path, per_class=10).split("test")
    name, why = register.choose_challenger(given, test)
    assert name == ("small" if why else "article_cnn")  # the same model twice: which is quicker is chance
    assert not why or float(re.findall(r"([\d.]+) times", why)[0]) < 1000


@pytest.mark.slow
def test_a_quantized_model_is_made_of_the_trained_weights_and_chosen_for_its_speed(workspace: Workspace) -> None:
    def few(values: dict[str, dict[str, object]]) -> None:
        del values["candidates"]["article_cnn"]
        values["evaluation"].update(corruptions=0, clutter=0)

    workspace.params(few)
    workspace.run()
    floats = workspace.json("champion.json")
    trained = workspace.json("models/efficientnet_lite0/model.json")

    workspace.params(lambda values: values.update(quantized={"efficientnet_lite0_int8": "efficientnet_lite0"}))
    # On a busy machine, or one without such instructions, integers may be no faster.
    workspace.params(lambda values: values["gate"].update(max_int8_accuracy_loss=1.0))
    printed = workspace.run()
    assert "flows.train" not in printed  # no candidate is trained again
    quantized = workspace.json("models/efficientnet_lite0_int8/model.json")
    assert quantized["quantized_from"] == "efficientnet_lite0"
    assert quantized["weights_digest"] == trained["weights_digest"]
    figures = workspace.json("reports/metrics.json")
    speeds = [
        figures[name]["speed"]["throughput_per_second"] for name in ("efficientnet_lite0_int8", floats["candidate"])
    ]
    verdict = workspace.json("reports/gate.json")
    if speeds[0] > speeds[1] and verdict["outcome"] == "promoted":
        assert workspace.json("champion.json")["candidate"] == "efficientnet_lite0_int8"
        assert "as many predictions a second" in verdict["reason"]
        assert workspace.json("bento.json")["candidate"] == "efficientnet_lite0_int8"
    else:
        assert workspace.json("champion.json") == floats

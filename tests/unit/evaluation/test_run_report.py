"""The page on a run: everything inside, nothing fetched."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pawprint.errors import PawprintError
from pawprint.evaluation import run_report
from prepared_set import ROOT, drawings

INTERVAL = {"value": 0.9, "low": 0.8, "high": 0.95}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """What a run of one candidate leaves, as far as the page reads it."""
    drawings(tmp_path, per_class=8)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    part = {"name": "class: <cat>", "photographs": 9, "accuracy": INTERVAL, "log_loss": 0.1}
    names = ("accuracy", "log_loss", "calibration_error", "served_accuracy", "coverage")
    figures = {"test": dict.fromkeys(names, INTERVAL), "slices": [part], "speed": {"latency_p50_ms": 5}}
    gate = {"outcome": "promoted", "reason": "the first", "rules": []}
    bento = {"candidate": "article_cnn", "model": "pawprint-x", "version": "1", "tag": "pawprint:x", "dataset": "x"}
    plots = tmp_path / "reports" / "plots" / "article_cnn"
    plots.mkdir(parents=True)
    drawn = ("confusion", "risk_coverage", "photographs_curve")
    for path in (*(plots / f"{name}.png" for name in drawn), plots.parent / "learning_curves.png"):
        Image.fromarray(np.zeros((9, 9), np.uint8)).save(path)
    for name, values in (("reports/metrics.json", {"article_cnn": figures}), ("reports/gate.json", gate)):
        (tmp_path / name).write_text(json.dumps(values))
    (tmp_path / "bento.json").write_text(json.dumps(bento))
    return tmp_path


def test_the_report_has_samples_figures_and_pictures_inside(run: Path) -> None:
    page = run_report.write(run).read_text()
    assert page.count("data:image/jpeg") == 2  # a strip of samples a class
    assert page.count("data:image/png") == 4
    assert "would more photographs help?" in page and "where only the surest are given" in page
    assert not re.search(r'(src|href)="(https?:)?//', page)
    assert "90.0 % [80.0, 95.0]" in page and "class: &lt;cat&gt;" in page


def test_a_run_that_is_not_complete_is_one_sentence(run: Path) -> None:
    (run / "reports" / "gate.json").unlink()
    with pytest.raises(PawprintError, match="Run `make run` first"):
        run_report.write(run)

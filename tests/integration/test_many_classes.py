"""37 classes of drawn shapes, one fifty times as frequent as another, through the whole pipeline."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from workspace import Workspace, clone, consistent_champion

CLASSES = tuple(f"shape {sides} {colour:02}" for sides in (3, 4, 6, 9) for colour in range(10))[:37]


def shape(number: int, rng: np.random.Generator) -> np.ndarray:
    """A polygon on a noisy ground; its sides and its colour are the class."""
    sides, colour = (3, 4, 6, 9)[number // 10], number % 10
    hue = np.uint8([[[colour * 18, 200, 230]]])
    canvas = rng.integers(10, 60, (120, 120, 3), np.uint8)
    turn, size = rng.uniform(0, np.pi), rng.uniform(25, 45)
    angles = turn + 2 * np.pi * np.arange(sides) / sides
    points = rng.uniform(50, 70, 2) + size * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    fill = tuple(int(level) for level in cv2.cvtColor(hue, cv2.COLOR_HSV2BGR)[0, 0])
    cv2.fillPoly(canvas, [points.astype(np.int32)], fill)
    return canvas


def write(folder: Path) -> Path:
    rng = np.random.default_rng(7)
    for number, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for index in range({0: 600, 1: 12}.get(number, 24)):
            cv2.imwrite(str(folder / name / f"{index}.png"), shape(number, rng))
    return folder


@pytest.mark.slow
def test_thirty_seven_classes_go_the_whole_way(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "project", tmp_path / "home")
    clone(workspace.root)

    def fewer(values: dict[str, dict[str, object]]) -> None:
        head = values["candidates"]["efficientnet_lite0"] | {"epochs": 30}  # type: ignore[operator]
        values["candidates"] = {"efficientnet_lite0": head}
        values["split"] = {"train": 0.5, "validation": 0.2, "test": 0.3}
        values["training"]["folds"] = 2
        values["evaluation"] |= {"corruptions": 20, "clutter": 20}

    workspace.params(fewer)
    workspace.run("--photos", str(write(tmp_path / "shapes")), "--name", "shapes")
    consistent_champion(workspace)
    figures = workspace.json("reports/metrics.json")["efficientnet_lite0"]
    test = figures["test"]
    assert len(test["confusion"]) == 37
    assert test["top5"]["value"] >= test["accuracy"]["value"] > 0.3
    assert test["auroc"]["high"] <= 1
    assert figures["folds"]["photographs"] > test["photographs"]
    assert sum(part["name"].startswith("class: ") for part in figures["slices"]) == 37  # small ones are judged too
    (card,) = (workspace.root / "reports" / "releases").rglob("MODEL_CARD.md")
    text = card.read_text()
    assert text.count("| shape ") >= 37
    assert "right class among the five most probable" in text
    assert workspace.query("select status from runs where name like 'efficientnet%'") == [("FINISHED",)]
    plots = {path.name for path in (workspace.root / "reports" / "plots" / "efficientnet_lite0").iterdir()}
    assert {"confusion.png", "risk_coverage.png", "photographs_curve.png"} <= plots
    report = (workspace.root / "reports" / "report.html").read_text()
    assert "Most confused" in report
    assert "would more photographs help?" in report
    assert "Right class among the five most probable" in report
    assert all(report.count(name) >= 2 for name in CLASSES)  # a strip of samples, a slice

    for file in sorted((tmp_path / "shapes" / CLASSES[5]).iterdir())[3:]:
        file.unlink()
    output = workspace.run("--photos", str(tmp_path / "shapes"), "--name", "shapes", fails=True)
    assert re.search(f"The class `{CLASSES[5]}` has [1-3] usable photographs; 10 are the least", output)
    assert "Traceback" not in output

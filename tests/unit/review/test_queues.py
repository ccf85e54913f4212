"""Queues that ask a model: its mistakes on validation, and what two models differ on."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from pawprint import image
from pawprint.config import load_params
from pawprint.data import ingest, origins
from pawprint.data.build import prepare
from pawprint.data.inbox import Inbox, Incoming
from pawprint.data.splits import split_of
from pawprint.errors import PawprintError
from pawprint.evaluation import label_audit
from pawprint.evaluation.label_audit import LabelIssue
from pawprint.review import queues
from prepared_set import ROOT
from toy import build_toy_model


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Red and blue photographs, some under the wrong class, and two models that contradict each other."""
    root = tmp_path_factory.mktemp("project")
    shutil.copy(ROOT / "params.yaml", root)
    rng = np.random.default_rng(2017)
    for number in range(120):
        label = ("blue", "red")[number % 2]
        colour = {"red": (220, 40, 40), "blue": (40, 40, 220)}[
            label if number % 12 else "red"
        ]  # every twelfth is wrong
        pixels = (np.array(colour) + rng.integers(-60, 30, (60, 80, 1))).clip(0, 255).astype(np.uint8)
        (root / "data" / label).mkdir(parents=True, exist_ok=True)
        (root / "data" / label / f"{number:03}.jpg").write_bytes(image.encode(pixels))
    params = load_params(ROOT / "params.yaml")
    loose = params.preprocess.model_copy(update={"near_copy_bits": 0})
    prepare(
        ingest.dataset(root / "data"), root / "data", root / "prepared", params.model_copy(update={"preprocess": loose})
    )
    build_toy_model(root / "models" / "good")
    build_toy_model(root / "models" / "bad", version="4", scale=-50)
    return root


def test_mistakes_are_the_validation_photographs_of_another_class(root: Path) -> None:
    queue = queues.mistakes(root, "good")
    everything = {item.hash: item for item in queues.everything(root).items}
    wrong = {one for one, item in everything.items() if item.split == "validation" and int(item.file[-7:-4]) % 12 == 0}
    assert wrong and {item.hash for item in queue.items} == wrong
    assert {(item.reason, queue.says[item.hash].label) for item in queue.items} == {("another class", "red")}
    # a second time from what is kept, also without the graph
    (root / "models" / "good" / "model.onnx").rename(root / "aside")
    assert queues.mistakes(root, "good").items == queue.items
    (root / "aside").rename(root / "models" / "good" / "model.onnx")


def test_a_waiting_picture_of_a_test_animal_is_a_test_photograph(root: Path, tmp_path: Path) -> None:
    """Its own hash draws it into training, its group into the test split."""
    shutil.copytree(root / "data", tmp_path / "data")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    params, digest = load_params(ROOT / "params.yaml"), "1" * 64
    names = [f"animal {number}" for number in range(99)]
    group = next(one for one in names if split_of(digest, params.seed, params.split, group=one) == "test")
    assert split_of(digest, params.seed, params.split) != "test"
    row = origins.Origin("", "red", digest, "here", "1.jpg", group=group)
    origins.write(origins.Origins([row]), tmp_path / "data")
    Inbox(tmp_path / "inbox").add([Incoming(digest, "1.jpg", "here", "1.jpg")])
    assert [item.split for item in queues.waiting(tmp_path).items] == ["test"]


def test_changed_is_where_two_models_differ(root: Path) -> None:
    queue = queues.changed(root, "good", "bad")
    validation = [item for item in queues.everything(root).items if item.split == "validation"]
    assert {item.hash for item in queue.items} == {item.hash for item in validation}
    assert {item.reason for item in queue.items} == {"red by good, blue by bad", "blue by good, red by bad"}
    assert queues.changed(root, "good", "good").items == []
    page, figures = queues.changed_page(root, "good", "bad")
    labels = [queue.before[item.hash].label == item.label for item in queue.items]
    assert figures == {
        "validation": len(validation), "changed": len(validation), "right_first_only": sum(labels),
        "right_second_only": labels.count(False), "neither_right": 0,
    }  # fmt: skip
    assert page.count("data:image/jpeg;base64,") == len(validation) and all(item.file in page for item in validation)


def test_the_audit_s_list_in_its_order(root: Path) -> None:
    with pytest.raises(PawprintError, match="pawprint photos audit"):
        queues.audit(root)
    listed = queues.everything(root).items[5:2:-1]
    issues = [
        LabelIssue(one.file, one.label, one.split, "", f"reason {number}", 0.9, 0.1, one.hash)
        for number, one in enumerate(listed)
    ]
    label_audit.write(issues, root / "reports" / "audit")
    assert [(item.hash, item.reason) for item in queues.audit(root).items] == [(one.hash, one.reason) for one in issues]


def test_a_model_that_is_not_there_is_named(root: Path) -> None:
    with pytest.raises(PawprintError, match="There is no model 'nowhere' here"):
        queues.mistakes(root, "nowhere")

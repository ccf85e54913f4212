"""Photographs of 224 pixels from the prepared set to answers, heat map, evaluation and export."""

import io
from pathlib import Path

import make_sample
import numpy as np
import pytest
from PIL import Image

from pawprint.data import ingest
from pawprint.data.build import prepare
from pawprint.data.dataset import PreparedDataset
from pawprint.data.originals import prepared_as
from pawprint.evaluation.evaluator import Evaluator
from pawprint.inference import cam, portable, selftest
from pawprint.inference.classifier import Classifier
from pawprint.lineage import Lineage
from pawprint.training.export import export
from pawprint.training.train import fit
from prepared_set import Memory, params

LINEAGE = Lineage(
    git_commit="c" * 40, git_dirty=False, dataset="sample", data_hash="d.dir", manifest_digest="", params_digest="",
    lock_digest="", seed=2017, device="cpu bfloat16", run_id="r",
)  # fmt: skip


def test_another_size_goes_the_whole_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAWPRINT_CACHE", str(tmp_path / "cache"))
    given, folder = params("efficientnet_lite0"), tmp_path / "data"
    given = given.model_copy(
        update={
            "preprocess": given.preprocess.model_copy(update={"size": 224}),
            "evaluation": given.evaluation.model_copy(update={"corruptions": 2, "clutter": 2}),
        }
    )
    make_sample.write(folder, per_class=20)
    prepare(ingest.dataset(folder), folder, tmp_path / "prepared", given)
    data = PreparedDataset.open(tmp_path / "prepared")
    trained = fit("efficientnet_lite0", given, data, Memory())
    info = export(trained, data, LINEAGE, tmp_path / "model", Memory())
    assert info.size == 224

    classifier, test = Classifier(tmp_path / "model"), data.split("test")
    selftest.check(classifier)
    outputs = classifier.predict(test.images([0]))
    with Image.open(io.BytesIO(cam.overlay(test.images([0])[0], outputs.activation[0], 0))) as overlay:
        assert overlay.size == (224, 224)
    photograph = (folder / test.origins[0]).read_bytes()
    found = np.array(list(classifier.classify(photograph).probabilities.values()))
    np.testing.assert_allclose(found, outputs.probabilities[0], atol=1e-6)  # from a shard or from a request
    with pytest.raises(ValueError, match="224"):
        classifier.predict(np.zeros((1, 300, 300, 3), np.uint8))
    scores = Evaluator.of(test, folder, given).evaluate(classifier)[1]
    again = prepared_as(test, given.preprocess, folder)  # as the gate asks a champion of another size
    np.testing.assert_array_equal(again.images([0, 1]), test.images([0, 1]))
    assert scores.probabilities.shape == (len(test), 2)

    report = portable.export(tmp_path / "model", "openvino", tmp_path / "out", {"a.png": photograph})
    assert report is not None and not report.different and report.difference < 1e-3

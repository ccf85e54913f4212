"""The release dossier: what stands in it, and that it is whole or not there at all."""

import json
from pathlib import Path
from typing import NamedTuple

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from contenders import contender
from pawprint import lineage
from pawprint.config import Gate
from pawprint.errors import PawprintError
from pawprint.evaluation import gate, model_card, release
from pawprint.inference.classifier import ModelInfo
from pawprint.lineage import Release
from pawprint.serving.sbom import sbom

REQUIREMENTS = "numpy==9.9.9\ntyping-extensions==4.0\n# a comment\nzope.interface==7.0 ; python_version > '3'\n"


class Made(NamedTuple):
    """The input of a release."""

    info: ModelInfo
    evidence: dict[str, Path]
    drawn: bool
    release: Release
    sbom: str


@pytest.fixture
def made(tmp_path: Path, toy_model: Path) -> Made:
    """The input of a release of the toy model."""
    report = contender(0.97, 4).report
    verdict = gate.first(contender(0.97, 4), Gate())
    kept = {name: tmp_path / name for name in (release.EVALUATION, release.GATE, release.TABLE)}
    kept[release.EVALUATION].write_text(report.model_dump_json())
    kept[release.GATE].write_text(verdict.model_dump_json())
    kept[release.TABLE].write_text(verdict.markdown("toy", "none"))
    info = ModelInfo.read(toy_model)
    lineage_record = Release(
        **info.lineage.model_dump(), model="pawprint-colours", version="3", model_digest=info.model_digest,
        bento="pawprint:colours-v3-12345678", bento_digest="b" * 64,
    )  # fmt: skip
    return Made(info, kept, True, lineage_record, "{}\n")


def test_a_release_holds_card_evaluation_gate_lineage_and_sbom(made: Made, tmp_path: Path) -> None:
    folder = tmp_path / "releases" / "colours-v3"
    release.write(folder, *made)
    assert {path.name for path in folder.iterdir()} == {
        "MODEL_CARD.md", "evaluation.json", "gate.md", "gate.json", "lineage.json", "sbom.cdx.json",
    }  # fmt: skip
    output = (folder / "MODEL_CARD.md").read_text()
    for words in (
        "# pawprint-colours version 3: toy",
        "Promoted because: the first model of this data set.",
        "drawings",
        "## Intended use",
        "blue, red",
        "| accuracy | 99.00 % [97.5, 99.6] |",
        "| half: first | 200 | 98.00 %",
        "| blur | 90.0 % |",
        "## Limits",
        made.info.model_digest,
    ):
        assert words in output, words
    printed = json.loads((folder / "lineage.json").read_text())
    assert (printed["bento_digest"], printed["run_id"], printed["version"]) == ("b" * 64, "a" * 32, "3")


def test_writing_again_replaces_it_whole(made: Made, tmp_path: Path) -> None:
    folder = tmp_path / "releases" / "colours-v3"
    release.write(folder, *made)
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / "stray").write_text("left over")
    release.write(folder, *made)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first
    assert [path.name for path in folder.parent.iterdir()] == ["colours-v3"]


def test_a_version_that_the_gate_never_judged_says_so(made: Made, tmp_path: Path) -> None:
    del made.evidence[release.GATE], made.evidence[release.TABLE]
    release.write(tmp_path / "out", *made)
    assert "the gate never compared it" in (tmp_path / "out" / "MODEL_CARD.md").read_text()
    assert not (tmp_path / "out" / "gate.md").exists()


@pytest.mark.parametrize("content", [None, "{", '{"test": 1}'])
def test_without_an_evaluation_nothing_is_released(made: Made, tmp_path: Path, content: str | None) -> None:
    path = made.evidence[release.EVALUATION]
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(PawprintError, match="pawprint-colours version 3 keeps no evaluation"):
        release.write(tmp_path / "out", *made)
    assert not (tmp_path / "out").exists()


def test_figures_that_cannot_be_given_are_said_in_words(made: Made) -> None:
    report = contender(0.97, 4).report
    test = report.test.model_copy(update={"auroc": None, "average_precision": None})
    none = report.corruptions.model_copy(update={"photographs": 0, "accuracy": 0.0, "under": {}, "lost": {}})
    nothing = report.model_copy(update={"test": test, "slices": [], "corruptions": none})
    output = model_card.model_card(made.info, nothing, False, "v", "")
    assert output.count("a class is missing") == 2
    assert "worst slice" not in output
    assert "orruption" not in output
    assert "drawings" not in output


@pytest.fixture
def bento_folder(tmp_path: Path, toy_model: Path) -> Path:
    """What BentoML's store keeps of a Bento, as far as a list of parts needs it."""
    import shutil

    folder = tmp_path / "stored"
    shutil.copytree(toy_model, folder / "src" / "champion")
    (folder / "env" / "python").mkdir(parents=True)
    (folder / "env" / "python" / "requirements.txt").write_text(REQUIREMENTS)
    (folder / "bento.yaml").write_text("creation_time: '2026-01-02T03:04:05+00:00'\n")
    return folder


def test_the_sbom_names_every_package_and_the_model_by_its_digest(bento_folder: Path, toy_model: Path) -> None:
    text = sbom("pawprint:colours-v3-12345678", bento_folder)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    output = json.loads(text)
    parts = {part["name"]: part for part in output["components"]}
    assert set(parts) == {"toy", "numpy", "typing-extensions", "zope.interface"}
    assert parts["zope.interface"]["purl"] == "pkg:pypi/zope-interface@7.0"
    assert "licenses" not in parts["numpy"]  # this environment has another numpy, whose licence may differ
    assert parts["toy"]["type"] == "machine-learning-model"
    assert parts["toy"]["hashes"] == [{"alg": "SHA-256", "content": ModelInfo.read(toy_model).onnx_digest}]
    assert output["metadata"]["component"]["version"] == "colours-v3-12345678"
    (depends,) = [entry for entry in output["dependencies"] if entry["ref"] == "pawprint:colours-v3-12345678"]
    assert len(depends["dependsOn"]) == 4
    assert text == sbom("pawprint:colours-v3-12345678", bento_folder)


def test_a_bento_s_digest_sees_every_file_but_the_time_of_the_build(bento_folder: Path) -> None:
    before = lineage.bento_digest(bento_folder)
    (bento_folder / "bento.yaml").write_text("creation_time: later\n")
    (bento_folder / "src" / "__pycache__").mkdir()
    (bento_folder / "src" / "__pycache__" / "x.pyc").write_text("compiled when it was served")
    assert lineage.bento_digest(bento_folder) == before
    (bento_folder / "src" / "extra.py").write_text("")
    assert lineage.bento_digest(bento_folder) != before


def test_a_bento_that_is_not_whole_is_a_sentence(bento_folder: Path) -> None:
    (bento_folder / "bento.yaml").unlink()
    with pytest.raises(PawprintError, match=r"The Bento pawprint:x is damaged. Delete it"):
        sbom("pawprint:x", bento_folder)

"""params.yaml is typed, frozen and closed: a wrong move is one sentence that names the key."""

from pathlib import Path

import pytest

from pawprint.config import digest, flatten, load_params
from pawprint.errors import PawprintError

ROOT = Path(__file__).parents[2]


def edited(tmp_path: Path, old: str, new: str) -> Path:
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "params.yaml"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    return path


def test_the_project_s_own_params_are_valid_and_frozen() -> None:
    params = load_params(ROOT / "params.yaml")
    assert {"article_cnn", "efficientnet_lite0"} <= set(params.candidates)
    with pytest.raises(ValueError, match="frozen"):
        params.seed = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("batch_size: 128", "batchsize: 128", "candidates.article_cnn.batchsize`: unknown key"),
        ("epochs: 5", "epochs: five", "candidates.article_cnn.epochs"),
        ("epochs: 5", "epochs: 0", "candidates.article_cnn.epochs"),
        ("seed: 2017", "sed: 2017", "`sed`: unknown key"),
        ("seed: 2017", "", "`seed`: missing"),
        ("train: 0.70", "train: 0.80", "must sum to 1"),
        ("fit: squash", "fit: stretch", "preprocess.fit"),
        ("int8: []", "int8: [resnet]", "resnet is none"),
    ],
)
def test_a_wrong_move_names_the_key(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(PawprintError) as caught:
        load_params(edited(tmp_path, old, new))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_twin_in_8_bit_integers_is_a_candidate(tmp_path: Path) -> None:
    params = load_params(edited(tmp_path, "int8: []", "int8: [article_cnn]"))
    twin, floats = params.candidate("article_cnn_int8"), params.candidate("article_cnn")
    assert twin == floats.model_copy(update={"int8": True})


def test_a_missing_or_broken_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(PawprintError, match="is missing"):
        load_params(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("seed: [", encoding="utf-8")
    with pytest.raises(PawprintError, match="not valid YAML"):
        load_params(tmp_path / "params.yaml")


def test_an_unknown_candidate_is_told_which_there_are() -> None:
    with pytest.raises(PawprintError, match=r"no candidate 'resnet'.*article_cnn"):
        load_params(ROOT / "params.yaml").candidate("resnet")


def test_digest_follows_the_values_not_the_layout(tmp_path: Path) -> None:
    params = load_params(ROOT / "params.yaml")
    assert digest(load_params(edited(tmp_path, "seed: 2017  ", "seed:    2017 # again "))) == digest(params)
    assert digest(load_params(edited(tmp_path, "seed: 2017", "seed: 2018"))) != digest(params)
    assert flatten(params)["candidates.article_cnn.epochs"] == 5

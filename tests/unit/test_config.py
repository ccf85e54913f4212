"""params.yaml is typed, frozen and closed: a wrong move is one sentence that names the key."""

from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from pawprint.config import Candidate, Params, digest, flatten, load_params
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
        ("quantized: {}", "quantized: {small: resnet}", "'resnet', which is no candidate"),
        ("quantized: {}", "quantized: {article_cnn: article_cnn}", "has the name of a candidate"),
        ("schema_version: 2", "int8: []", "has schema_version 1; this version of pawprint reads 2"),
    ],
)
def test_a_wrong_move_names_the_key(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(PawprintError) as caught:
        load_params(edited(tmp_path, old, new))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_quantized_model_has_the_parameters_of_its_source(tmp_path: Path) -> None:
    params = load_params(edited(tmp_path, "quantized: {}", "quantized: {small: article_cnn}"))
    assert params.candidate("small") == params.candidate("article_cnn")
    assert params.models == ("article_cnn", "efficientnet_lite0", "small")


def test_the_file_shows_every_parameter_with_its_default() -> None:
    """params.yaml says what can be set; a default that config.py has and the file does not show would be hidden."""

    def names(model: type[BaseModel], prefix: str = "") -> set[str]:
        found = set()
        for name, field in model.model_fields.items():
            nested = field.annotation if isinstance(field.annotation, type) else None
            is_section = nested is not None and issubclass(nested, BaseModel)
            found |= names(nested, f"{prefix}{name}.") if is_section else {f"{prefix}{name}"}
        return found

    raw = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    assert set(raw["candidates"]["article_cnn"]) == set(Candidate.model_fields)
    shown = {f"{name}.{key}" for name, section in raw.items() if isinstance(section, dict) for key in section}
    shown |= {f"serving.tokens.{key}" for key in raw["serving"]["tokens"]} | set(raw)
    assert {name for name in names(Params) if name not in shown} == set()


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

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
    ("old", "new", "output"),
    [
        ("batch_size: 128", "batchsize: 128", "candidates.article_cnn.batchsize`: unknown key"),
        ("epochs: 5", "epochs: five", "candidates.article_cnn.epochs"),
        ("epochs: 5", "epochs: 0", "candidates.article_cnn.epochs"),
        ("train_sizes: []", "train_sizes: [0.8, 0.4]", "the smaller first, e.g. [0.35, 0.8]"),
        ("train_sizes: []", "train_sizes: 0.5", "candidates.article_cnn.train_sizes"),
        ("    augment: none\n\n", "    train_sizes: [0.4, 0.8]\n\n", "train_sizes needs train: all"),
        ("seed: 2017", "sed: 2017", "`sed`: unknown key"),
        ("seed: 2017", "", "`seed`: missing"),
        ("train: 0.70", "train: 0.80", "must sum to 1"),
        ("fit: squash", "fit: stretch", "preprocess.fit"),
        ("  article_cnn:", "  my net:", "a candidate is called 'my net'"),
        ("quantized: {}", "quantized: {a/b: article_cnn}", "a candidate is called 'a/b'"),
        ("quantized: {}", "quantized: {small: resnet}", "'resnet', which is no candidate"),
        ("quantized: {}", "quantized: {article_cnn: article_cnn}", "has the name of a candidate"),
        ("live_answers: 0", "live_answers: 9", "waits for a challenger: `serving.challenger.mode` is shadow or canary"),
        ("schema_version: 2", "int8: []", "has schema_version 1; this version of pawprint reads 2"),
    ],
)
def test_a_wrong_move_names_the_key(tmp_path: Path, old: str, new: str, output: str) -> None:
    with pytest.raises(PawprintError) as caught:
        load_params(edited(tmp_path, old, new))
    assert output in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "Value error" not in str(caught.value)
    assert "schema_version': 2" not in str(caught.value)  # the whole file


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("3e-4", 0.0003),
        ("3E-4", 0.0003),
        ("+1e-3", 0.001),
        (".5e-2", 0.005),
        ("1.e-2", 0.01),
        ("1e0", 1.0),
        ("0.001", 0.001),
    ],
)
def test_numbers_are_read_as_people_write_them(tmp_path: Path, written: str, read: float) -> None:
    params = load_params(edited(tmp_path, "learning_rate: 0.001", f"learning_rate: {written}"))
    assert params.candidates["article_cnn"].learning_rate == read
    assert type(params.candidates["article_cnn"].learning_rate) is float


@pytest.mark.parametrize(("written", "read"), [("1e8", 10**8), ("2.5e+7", 25_000_000), ("100_000", 100_000)])
def test_a_whole_number_may_have_an_exponent(tmp_path: Path, written: str, read: int) -> None:
    params = load_params(edited(tmp_path, "max_pixels: 100_000_000", f"max_pixels: {written}"))
    assert params.preprocess.max_pixels == read


def test_a_word_that_dvc_writes_without_quotes_stays_a_word(tmp_path: Path) -> None:
    """`dvc exp run -S` writes the whole file as YAML 1.2; in YAML 1.1 `off` is false, and 010 is eight."""
    params = load_params(edited(tmp_path, 'mode: "off"', "mode: off"))
    assert params.serving.challenger.mode == "off"
    assert load_params(edited(tmp_path, "seed: 2017", "seed: 010")).seed == 10
    assert load_params(edited(tmp_path, "quantized: {}", "quantized: {on: article_cnn}")).models[-1] == "on"


@pytest.mark.parametrize("written", ["0,001", "'3e-4'", "3e-", "1e-3x", "a lot"])
def test_what_is_no_number_is_refused_with_an_example(tmp_path: Path, written: str) -> None:
    with pytest.raises(PawprintError, match="learning_rate`: a number is expected, such as"):
        load_params(edited(tmp_path, "learning_rate: 0.001", f"learning_rate: {written}"))
    with pytest.raises(PawprintError, match=r"lite0.weight_decay`: (a number|Input should be 'auto')"):
        load_params(edited(tmp_path, "weight_decay: auto", f"weight_decay: {written}"))


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
    shown |= {f"serving.{part}.{key}" for part in ("tokens", "challenger") for key in raw["serving"][part]} | set(raw)
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


def test_a_cost_of_strangers_needs_a_folder_of_them(tmp_path: Path) -> None:
    with pytest.raises(PawprintError, match=r"`refusal`: .*`stranger_costs` needs a folder in `strangers`"):
        load_params(edited(tmp_path, "stranger_costs: 0.0", "stranger_costs: 3.0"))

"""`pawprint traffic report` over the requests that a real service received."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import mlflow
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pawprint import image
from pawprint.errors import PawprintError
from pawprint.inference.classifier import Classifier, ModelInfo
from pawprint.lineage import sha256
from pawprint.serving import report, traffic
from pawprint.serving.report import summarize, verdict
from service_process import serving
from toy import prediction

RNG = np.random.default_rng(11)


def photograph(rng: np.random.Generator, green: float = 0) -> bytes:
    """A reddish or bluish picture, never the same twice; `green` is what drifts."""
    colour = np.array([200, 40, 40]) if rng.random() < 0.5 else np.array([40, 40, 200])
    colour = colour + rng.normal(0, 25, 3) + np.array([0, green, 0])
    noise = rng.integers(-30, 30, (60, 80, 1))
    return image.encode(np.clip(colour + noise, 0, 255).astype(np.uint8))


@dataclass(frozen=True)
class Place:
    """Where a person who asks for reports stands, and the service that is reported on."""

    root: Path
    model: Path
    log: Path
    url: str

    def report(self, *words: str, fails: bool = False) -> str:
        """What the command says."""
        command = [sys.executable, "-c", "from pawprint.cli.main import main; main()", "traffic", "report"]
        env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
        env.pop("MLFLOW_TRACKING_URI", None)
        done = subprocess.run(
            [*command, "--model", str(self.model), *words], cwd=self.root, env=env, capture_output=True, text=True,
            timeout=120, check=False,
        )  # fmt: skip
        assert (done.returncode != 0) == fails, done.stderr
        return done.stderr if fails else done.stdout

    def ask(self, pictures: list[bytes], right: int = 0, wrong: int = 1) -> None:
        """Send them; people agree with the last but `wrong`, then disagree. All is on disk when it returns."""
        with httpx.Client(base_url=self.url) as client:
            answers = [client.post("/predict", content=data).json() for data in pictures]
            for number, answer in enumerate(answers[-right - wrong :]):
                other = "blue" if answer["label"] == "red" else "red"
                label = answer["label"] if number < right else other
                assert client.post("/feedback", json={"id": answer["id"], "label": label}).status_code == 200


@pytest.fixture(scope="module")
def place(toy_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A model that was trained on 200 photographs of ours, so to say, in service."""
    root = tmp_path_factory.mktemp("traffic")
    model = Path(shutil.copytree(toy_model, root / "model"))
    classifier = Classifier(toy_model)
    seen = np.stack([classifier.read(photograph(RNG)) for _ in range(200)])
    predicted = classifier.predict(seen)
    embeddings = predicted.embedding
    bank = load_file(model / "ood.safetensors")
    bank["embeddings"] = (embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)).astype(np.float16)
    bank["held_out"] = bank["embeddings"][:150]  # traffic is compared with these, not with what was learned
    bank["held_out_predicted"] = np.bincount(predicted.probabilities.argmax(axis=1), minlength=2)
    save_file(bank, model / "ood.safetensors")
    info = ModelInfo.read(model).model_copy(update={"ood_digest": sha256(model / "ood.safetensors")})
    (model / "model.json").write_text(info.model_dump_json())
    env = {"PAWPRINT_MODEL": str(model), "PAWPRINT_TRAFFIC": str(root / "log")}
    with serving(root / "service.log", env) as (url, _):
        yield Place(root, model, root / "log/pawprint-colours.db", url)


def test_reports_while_the_service_runs(place: Place) -> None:
    log = "--log", str(place.log)
    place.ask([photograph(RNG) for _ in range(5)])
    assert "too few to test" in place.report(*log, "--no-mlflow")

    pictures = [photograph(RNG) for _ in range(55)]
    place.ask([*pictures[:10], *pictures], right=6)
    output = place.report(*log)
    assert "pawprint-colours/3: 70 predictions. No drift was found (60 photographs against 150 held-out" in output
    assert re.search(r"told apart in \d+% of all pairs.* No other shares of classes were found \(\d+% of the", output)
    page = (place.root / "traffic.html").read_text()
    assert "Feedback on 8 predictions, 6 of them right" in page
    assert re.findall(r"(?:src|href)=\W?(http|//)", page) == []  # nothing fetched
    mlflow.set_tracking_uri(f"sqlite:///{place.root / 'mlflow.db'}")
    run = mlflow.get_run(re.search(r"MLflow run (\w{32})", output)[1])
    assert run.data.metrics["answers"] == 70 and run.data.metrics["pictures"] == 60
    assert {"drift_separation", "label_shift", "label_shift_p"} <= set(run.data.metrics)
    assert run.data.metrics["feedback_accuracy"] == pytest.approx(0.75)
    shares = [value for name, value in run.data.metrics.items() if name.startswith("share/")]
    assert sum(shares) == pytest.approx(1)
    assert run.data.params["model_digest"] == ModelInfo.read(place.model).model_digest
    assert Path(mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path="traffic.html")).exists()

    place.ask([photograph(RNG, green=90) for _ in range(60)])
    output = place.report(*log, "--no-mlflow", "--days", "1")
    assert "Drift: the photographs differ from the held-out photographs (120 photographs" in output
    assert 'class="alarm"' in (place.root / "traffic.html").read_text()


def test_a_model_of_before_is_said_to_be_compared_with_training_photographs(toy_model: Path, tmp_path: Path) -> None:
    """It kept no held-out embeddings."""
    digest, rng = ModelInfo.read(toy_model).model_digest, np.random.default_rng(5)
    log = traffic.TrafficLog(tmp_path / "log.db", rows=100)
    for number in range(30):
        one = prediction(f"{number:032x}", "red", digest)
        log.add(traffic.Record.of(one, number, f"{number:064x}", rng.normal(size=3).astype(np.float32)))
    log.close()
    found = summarize(tmp_path / "log.db", toy_model, 0, 1)
    assert found.drift is not None and "30 photographs against 2 training photographs" in verdict(found)
    assert "held-out" not in verdict(found)


def test_no_log_is_one_sentence(toy_model: Path, tmp_path: Path) -> None:
    with pytest.raises(PawprintError, match="There is no traffic log at"):
        summarize(tmp_path / "gone.db", toy_model, 0, 1)
    (tmp_path / "other.db").write_text("no database" * 100)
    with pytest.raises(PawprintError, match="cannot be read as a traffic log"):
        summarize(tmp_path / "other.db", toy_model, 0, 1)


def test_the_plots_take_any_class_s_name(recwarn: pytest.WarningsRecorder) -> None:
    value = np.array([0.1, 0.5, 0.9])
    labels = ["$a_$", "50 % {x", "\U00012000"]
    drawn = SimpleNamespace(labels=labels, times=value, confidence=value, typicality=value, threshold=0.2)
    assert report._plots(cast(Any, drawn)).startswith("data:image/png;base64,")
    assert not [one for one in recwarn if "Glyph" in str(one.message)]

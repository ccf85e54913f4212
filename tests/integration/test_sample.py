"""What must be true of the embedded sample: drawn, reproducible, complete, small, and not too easy."""

import hashlib
import json
import subprocess
from pathlib import Path

import cv2
import make_sample
import numpy as np
import pytest
import yaml
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pawprint import image
from pawprint.lineage import RECORDS

ROOT = Path(__file__).parents[2]
STORE = ROOT / "sample" / "files" / "md5"


def committed(name: str) -> str:
    """A file as HEAD has it: the working tree's own may name a person's photographs."""
    shown = subprocess.run(["git", "show", f"HEAD:{name}"], cwd=ROOT, capture_output=True, text=True, check=False)
    if shown.returncode != 0:
        pytest.skip("not a git checkout")
    return shown.stdout


def stored(md5: str) -> Path:
    return STORE / md5[:2] / md5[2:]


@pytest.fixture(scope="module")
def directory() -> str:
    """The hash under which HEAD's data.dvc knows the sample."""
    (out,) = yaml.safe_load(committed("data.dvc"))["outs"]
    assert out["path"] == "data"
    return str(out["md5"])


@pytest.fixture(scope="module")
def listing(directory: str) -> dict[str, str]:
    """path below data/ -> MD5 of its bytes."""
    return {entry["relpath"]: entry["md5"] for entry in json.loads(stored(directory).read_bytes())}


def test_the_committed_data_is_the_sample_and_no_run_is_committed(listing: dict[str, str]) -> None:
    listed = subprocess.run(["git", "ls-files", *RECORDS], cwd=ROOT, capture_output=True, text=True, check=False)
    assert listed.stdout == ""  # docs/decisions/what-is-committed.md
    described = json.loads(stored(listing["dataset.json"]).read_bytes())
    assert described == make_sample.DATASET
    assert described["drawn"] is True


def test_the_remote_holds_exactly_the_sample_and_at_most_6_mb(directory: str, listing: dict[str, str]) -> None:
    files = [file for file in (ROOT / "sample").rglob("*") if file.is_file()]
    assert set(files) == {stored(md5) for md5 in (*listing.values(), directory)}
    assert sum(file.stat().st_size for file in files) <= 6_000_000
    for file in files:
        wanted = (file.parent.name + file.name).removesuffix(".dir")
        assert hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest() == wanted


def test_the_generator_draws_the_committed_sample(listing: dict[str, str]) -> None:
    """The same pictures, on this machine too: the JPEG encoder's build may differ, so pixels are compared."""
    drawings = dict(make_sample.sample())
    assert set(listing) == {*drawings, "dataset.json"}
    for path, jpeg in drawings.items():
        kept = stored(listing[path]).read_bytes()
        if jpeg != kept:
            difference = cv2.absdiff(image.decode(jpeg), image.decode(kept))
            assert difference.mean() < 1, path


def test_200_of_each_in_many_sizes_and_no_two_alike(listing: dict[str, str]) -> None:
    photographs = {path: md5 for path, md5 in listing.items() if path != "dataset.json"}
    assert [sum(path.startswith(kind) for path in photographs) for kind in ("cat/", "dog/")] == [200, 200]
    assert len(set(photographs.values())) == 400
    headers = [image.inspect(stored(md5).read_bytes()) for md5 in photographs.values()]
    ratios = [header.width / header.height for header in headers]
    assert min(ratios) < 0.7
    assert max(ratios) > 1.4


def test_a_linear_model_on_raw_pixels_does_not_reach_95_percent() -> None:
    """Cross-validated accuracy of logistic regression on 20x20 pixels, the best of three penalties."""
    drawings = list(make_sample.sample())
    labels = np.array([path.startswith("dog") for path, _ in drawings])
    pixels = np.stack(
        [cv2.resize(image.load(jpeg), (20, 20), interpolation=cv2.INTER_AREA).ravel() for _, jpeg in drawings]
    )
    scores = []
    for penalty in (1e-4, 1e-3, 1e-1):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=penalty, max_iter=100))
        scores.append(cross_val_score(model, pixels.astype(np.float32), labels, cv=3).mean())
    print(f"a linear model on raw pixels: {max(scores):.1%}")
    assert max(scores) < 0.95

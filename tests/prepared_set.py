"""A small prepared set of drawings, and a logger that remembers: what the tests of training share."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pawprint.config import Candidate, Params, load_params
from pawprint.data import ingest
from pawprint.data.build import prepare
from pawprint.data.dataset import PreparedDataset

torch.set_num_threads(1)  # xdist's workers share the cores; threads that spin for them would be slower

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "scripts"))  # make_sample, also in a process that a test starts


def drawings(folder: Path, per_class: int = 30) -> PreparedDataset:
    """`per_class` drawn cats and as many dogs, prepared under `folder`."""
    import make_sample

    data = folder / "data"
    make_sample.write(data, per_class=per_class)
    prepare(ingest.dataset(data), data, folder / "prepared", load_params(ROOT / "params.yaml"))
    return PreparedDataset.open(folder / "prepared")


def params(name: str, **changes: Any) -> Params:
    """The project's params on the CPU, with the candidate `name` changed."""
    loaded = load_params(ROOT / "params.yaml")
    candidate = loaded.candidates[name].model_dump() if name in loaded.candidates else {"architecture": name}
    return loaded.model_copy(
        update={
            "training": loaded.training.model_copy(update={"device": "cpu"}),
            "candidates": {name: Candidate.model_validate(candidate | changes)},
        }
    )


# of a head, for `params`
ADAM = {"optimizer": "adam", "weight_decay": 0.0001, "learning_rate": 0.003, "batch_size": 512}


class Memory:
    """A RunLogger that keeps what it is told."""

    def __init__(self) -> None:
        self.steps: list[tuple[int | None, dict[str, float]]] = []
        self.given: dict[str, Any] = {}

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        self.steps.append((step, dict(values)))

    def params(self, values: Mapping[str, Any]) -> None:
        self.given.update(values)

    def artifact(self, path: Path, folder: str = "") -> None:
        assert path.exists()

    def curve(self, name: str) -> list[float]:
        """The values of a metric by epoch."""
        return [values[name] for step, values in self.steps if step is not None and name in values]

    def final(self, name: str) -> float:
        """A metric of the whole run."""
        return next(values[name] for step, values in self.steps if step is None and name in values)

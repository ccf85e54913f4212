"""A training's state on disk, so that a killed one goes on where it was.

    checkpoints = CheckpointManager(Path("cache/checkpoints"), "deep_cnn", params, data)
    checkpoints.run_id                  # of the run that was killed; "" where none was
    checkpoints.run_id = run.id         # kept with the next checkpoint
    fit(name, params, data, run, checkpoints)
    checkpoints.discard()               # when all that follows is done as well

A checkpoint is one safetensors file with JSON in its header, written beside its place and moved into it. It is
for one candidate, its parameters and these photographs; of others it is refused, and the fields are named.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from pawprint.config import Params, flatten
from pawprint.data.dataset import PreparedDataset
from pawprint.lineage import sha256


@dataclass(frozen=True)
class Checkpoint:
    """What `fit` saves and takes up again."""

    tensors: dict[str, Tensor]
    values: dict[str, Any]  # plain JSON


class CheckpointManager:
    """Reads and writes the checkpoint of one candidate's training; see the module."""

    def __init__(self, folder: Path, name: str, params: Params, data: PreparedDataset) -> None:
        self.path = folder / f"{name}.safetensors"
        self.made_for = _made_for(name, params, data)
        self.run_id = ""
        if self.path.exists() and not self._differences():
            self.run_id = self._header()["run_id"]

    def load(self) -> Checkpoint | None:
        """The checkpoint to go on from; None where there is none, or where it was made for something else."""
        if not self.path.exists():
            return None
        if differences := self._differences():
            print(f"{self.path} is not used: it was made with {differences}. Training starts anew.", flush=True)
            return None
        with safe_open(self.path, "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  not a dict
        return Checkpoint(tensors, self._header()["values"])

    def save(self, checkpoint: Checkpoint) -> None:
        """Replace the checkpoint by this one, whole or not at all."""
        header = {"made_for": self.made_for, "run_id": self.run_id, "values": checkpoint.values}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        try:
            save_file(checkpoint.tensors, partial, {"pawprint": json.dumps(header)})
            partial.replace(self.path)
        finally:
            partial.unlink(missing_ok=True)

    def discard(self) -> None:
        """The training is over and kept elsewhere."""
        self.path.unlink(missing_ok=True)

    def _header(self) -> dict[str, Any]:
        with safe_open(self.path, "pt") as file:
            header: dict[str, Any] = json.loads(file.metadata()["pawprint"])
        return header

    def _differences(self) -> str:
        theirs = self._header()["made_for"]
        different = [key for key in {**theirs, **self.made_for} if theirs.get(key) != self.made_for.get(key)]
        return ", ".join(f"{key} {theirs.get(key)} (now {self.made_for.get(key)})" for key in different)


def _made_for(name: str, params: Params, data: PreparedDataset) -> dict[str, Any]:
    """What the weights depend on, but the code."""
    shared: dict[str, Any] = {
        "seed": params.seed,
        **flatten(params.preprocess, "preprocess"),
        **flatten(params.training, "training"),
    }
    del shared["training.checkpoint_seconds"]
    return shared | flatten(params.candidate(name), f"candidates.{name}") | {"photographs": sha256(data.manifest)}

"""A training's state on disk, so that a killed one resumes.

    checkpoints = CheckpointManager(Path("cache/checkpoints"), "deep_cnn", params, data)
    checkpoints.run_id                  # of the run that was killed; "" where there is none
    checkpoints.run_id = run.id         # kept with the next checkpoint
    fit(name, params, data, run, checkpoints)
    checkpoints.discard()               # when the model is exported and logged

A checkpoint is one safetensors file with JSON in its header, replaced atomically. It belongs to one candidate, its
parameters and these photographs; a checkpoint of others is not used, and the fields that differ are named.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from pawprint import files
from pawprint.config import Params, flatten
from pawprint.data.dataset import PreparedDataset
from pawprint.lineage import sha256


@dataclass(frozen=True)
class Checkpoint:
    """The state of a training."""

    tensors: dict[str, Tensor]
    values: dict[str, Any]  # plain JSON


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`{"weight": t}` -> `{"network.weight": t}`."""
    return {f"{prefix}.{key}": value for key, value in tensors.items()}


def without_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that `prefixed` gave this prefix, under their own names."""
    return {key.removeprefix(f"{prefix}."): value for key, value in tensors.items() if key.startswith(f"{prefix}.")}


class CheckpointManager:
    """Reads and writes the checkpoint of one candidate's training; see the module."""

    def __init__(self, folder: Path, name: str, params: Params, data: PreparedDataset) -> None:
        self.path = folder / f"{name}.safetensors"
        shared = {
            "seed": params.seed,
            **flatten(params.preprocess, "preprocess"),
            **flatten(params.training, "training"),
        }
        del shared["training.checkpoint_seconds"]
        own = flatten(params.candidate(name), f"candidates.{name}")
        self.made_for: dict[str, Any] = shared | own | {"photographs": sha256(data.manifest)}
        self.run_id = self._header()["run_id"] if self.path.exists() and not self._differences() else ""

    def load(self) -> Checkpoint | None:
        """The checkpoint to resume from; None where there is none, or where it was made for something else."""
        if not self.path.exists():
            return None
        if differences := self._differences():
            print(f"{self.path} is not used: it was made with {differences}. Training starts anew.", flush=True)
            return None
        with safe_open(self.path, "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  not a dict
        return Checkpoint(tensors, self._header()["values"])

    def save(self, checkpoint: Checkpoint) -> None:
        """Replace the checkpoint atomically."""
        header = {"made_for": self.made_for, "run_id": self.run_id, "values": checkpoint.values}
        with files.new_file(self.path) as partial:
            save_file(checkpoint.tensors, partial, {"pawprint": json.dumps(header)})

    def discard(self) -> None:
        """Remove the checkpoint."""
        self.path.unlink(missing_ok=True)

    def _header(self) -> dict[str, Any]:
        with safe_open(self.path, "pt") as file:
            header: dict[str, Any] = json.loads(file.metadata()["pawprint"])
        return header

    def _differences(self) -> str:
        theirs = self._header()["made_for"]
        different = [key for key in {**theirs, **self.made_for} if theirs.get(key) != self.made_for.get(key)]
        return ", ".join(f"{key} {theirs.get(key)} (now {self.made_for.get(key)})" for key in different)

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
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from pawprint import files
from pawprint.config import Params, flatten
from pawprint.data.dataset import PreparedDataset

FORMAT = 5  # of the file
State = dict[str, Any]  # dicts and lists of tensors and of what JSON holds; JSON's keys are strings


class CheckpointManager:
    """Reads and writes the checkpoint of one candidate's training; see the module."""

    def __init__(self, folder: Path, name: str, params: Params, data: PreparedDataset) -> None:
        self.path = folder / f"{name}.safetensors"
        self.made_for: dict[str, Any] = {
            "format": FORMAT,
            "seed": params.seed,
            **flatten(params.preprocess, "preprocess"),
            **flatten(params.training, "training"),
            **flatten(params.candidate(name), f"candidates.{name}"),
            "photographs": data.digest,
        }
        del self.made_for["training.checkpoint_seconds"]
        self.run_id = self._header()["run_id"] if self.path.exists() and not self._differences() else ""

    def load(self) -> State | None:
        """The state to resume from; None where there is none, or where it was made for something else."""
        if not self.path.exists():
            return None
        if differences := self._differences():
            print(f"{self.path} is not used: it was made with {differences}. Training starts anew.", flush=True)
            return None
        with safe_open(self.path, "pt") as file:

            def restore(value: dict[str, Any]) -> Any:
                return file.get_tensor(value["tensor"]) if value.keys() == {"tensor"} else value

            state: State = json.loads(file.metadata()["state"], object_hook=restore)
        return state

    def save(self, state: State) -> None:
        """Replace the checkpoint atomically."""
        tensors: dict[str, Tensor] = {}

        def replace(value: Any) -> dict[str, str]:
            if not isinstance(value, Tensor):
                raise TypeError(f"a checkpoint cannot hold {value!r}")
            name = str(len(tensors))
            tensors[name] = value.detach().contiguous()
            return {"tensor": name}

        header = {"pawprint": json.dumps({"made_for": self.made_for, "run_id": self.run_id})}
        header["state"] = json.dumps(state, default=replace)
        with files.new_file(self.path) as partial:
            save_file(tensors, partial, header)

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

"""A frozen backbone's features, computed once a photograph and kept.

    cached = Features(network, "efficientnet_lite0", params)
    cached.of(data.side("train"))       # float32 [n, d]

The cache's key is what the numbers depend on: photograph, backbone, transform, precision. So a second run or a
sweep over heads computes nothing, and new photographs cost only themselves. A folder under cache/features/ is
one (backbone, transform, precision); the files in it are blocks of photographs, each written whole or not at
all.

On the CPU the backbone runs in OpenVINO, which is twice as fast here as torch with bfloat16
(benchmarks/train_features.py), one photograph a request, so that no neighbour can change its bits.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn

from pawprint import image
from pawprint.lineage import sha256
from pawprint.models.network import PooledNetwork
from pawprint.params import Params
from pawprint.prepared.read import Side
from pawprint.progress import Progress
from pawprint.training import devices

BLOCK = 1024  # photographs a file: what a kill can cost at most
CHUNK = 128  # photographs in memory at a time
Vectors = NDArray[np.float32]


class Features:
    """The pooled features of a frozen backbone; see the module."""

    def __init__(self, network: PooledNetwork, architecture: str, params: Params) -> None:
        self.architecture = architecture
        self._engine = _Engine(network, params)
        self.folder = _folder(network, architecture, self._engine.name, params)

    def of(self, side: Side) -> Vectors:
        """float32 [n, d] of all photographs of `side`, in its order; only missing ones are computed."""
        known = _read(self.folder)
        missing = [index for index, name in enumerate(side.hashes) if name not in known]
        if missing:
            with Progress(f"{self.architecture} features, {side.name}", len(missing)) as progress:
                for start in range(0, len(missing), BLOCK):
                    block = missing[start : start + BLOCK]
                    values = np.concatenate(list(self._engine.run(side, block, progress)))
                    names = [side.hashes[index] for index in block]
                    _write(self.folder, names, values)
                    known.update(zip(names, values, strict=True))
        if not len(side):
            return np.empty((0, self._engine.width), np.float32)
        return np.stack([known[name] for name in side.hashes])


def backbone_digest(network: PooledNetwork) -> str:
    """SHA-256 of all weights but the head's."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        if not name.startswith("head."):
            digest.update(name.encode())
            digest.update(value.detach().cpu().numpy().tobytes())
    return digest.hexdigest()


def cache_root() -> Path:
    """PAWPRINT_CACHE, or cache/ in the folder where the stage runs."""
    return Path(os.environ.get("PAWPRINT_CACHE", "cache")) / "features"


class _Backbone(nn.Module):
    def __init__(self, network: PooledNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        return self.network.embed(self.network.maps(self.network.normalise(pixels)))


class _Engine:
    """Pixels to features by the fastest road whose bits repeat: OpenVINO on the CPU, torch elsewhere."""

    def __init__(self, network: PooledNetwork, params: Params) -> None:
        self.training = params.training
        self.device = devices.resolve(params.training)
        self.backbone = _Backbone(network).eval()
        self.width = network.head.in_features
        if self.device.type == "cpu":
            import openvino

            self.hint = "bf16" if params.training.precision == "bfloat16" else "f32"
            self.name = f"openvino {openvino.__version__} {self.hint}"
        else:
            self.name = f"torch {torch.__version__} {self.device.type} {params.training.precision}"

    def run(self, side: Side, indices: Sequence[int], progress: Progress) -> Iterator[Vectors]:
        compute = self._by_openvino if self.device.type == "cpu" else self._by_torch
        for start in range(0, len(indices), CHUNK):
            chunk = indices[start : start + CHUNK]
            yield compute(side.images(chunk))
            progress.advance(len(chunk))

    def _by_torch(self, pixels: NDArray[np.uint8]) -> Vectors:
        # Always a full batch: kernels are chosen by shape, and with them the last bits.
        padded = np.zeros((CHUNK, *pixels.shape[1:]), np.uint8)
        padded[: len(pixels)] = pixels
        backbone = self.backbone.to(self.device)
        with torch.inference_mode(), devices.autocast(self.device, self.training):
            values = backbone(torch.from_numpy(padded).to(self.device)).float().cpu().numpy()
        features: Vectors = values[: len(pixels)]
        return features

    def _by_openvino(self, pixels: NDArray[np.uint8]) -> Vectors:
        features = np.empty((len(pixels), self.width), np.float32)

        def keep(request: Any, index: int) -> None:
            features[index] = request.get_output_tensor(0).data[0]

        self._requests.set_callback(keep)
        for index in range(len(pixels)):
            self._requests.start_async({0: pixels[index : index + 1]}, index)
        self._requests.wait_all()
        return features

    @cached_property
    def _requests(self) -> Any:
        """OpenVINO's queue of requests, one a core; made when something is missing, for it takes seconds."""
        import openvino

        shape = [1, image.SIZE, image.SIZE, 3]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tracing: the padding of a fixed size is rightly a constant
            model = openvino.convert_model(
                self.backbone.cpu(),
                example_input=torch.zeros(shape, dtype=torch.uint8),
                input=[(shape, openvino.Type.u8)],
            )
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        options = {
            "INFERENCE_PRECISION_HINT": self.hint,
            "NUM_STREAMS": cores,
            "INFERENCE_NUM_THREADS": cores,
        }
        return openvino.AsyncInferQueue(openvino.Core().compile_model(model, "CPU", options), cores)


def _folder(network: PooledNetwork, architecture: str, engine: str, params: Params) -> Path:
    key = {
        "backbone": backbone_digest(network),
        "transform": [params.preprocess.fit, params.preprocess.quality, sha256(Path(image.__file__))],
        "precision": engine,
    }
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    return cache_root() / f"{architecture}-{name}"


def _read(folder: Path) -> dict[str, Vectors]:
    known: dict[str, Vectors] = {}
    for path in sorted(folder.glob("*.safetensors")):
        block = load_file(path)
        known.update(zip((row.tobytes().hex() for row in block["hashes"]), block["features"], strict=True))
    return known


def _write(folder: Path, names: Sequence[str], values: Vectors) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rows = np.frombuffer(bytes.fromhex("".join(names)), np.uint8).reshape(len(names), -1)
    path = folder / f"{hashlib.sha256(rows.tobytes()).hexdigest()[:16]}.safetensors"
    partial = path.with_suffix(f".{os.getpid()}.partial")
    save_file({"hashes": rows, "features": np.ascontiguousarray(values, np.float32)}, partial)
    partial.replace(path)

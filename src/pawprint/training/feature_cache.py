"""Features of photographs from the frozen part of a network, computed once a photograph and kept.

    cache = FeatureCache(network, "efficientnet_lite0", params, blocks=3)
    rows = cache.rows(data.split("train"))
    rows[np.array([3, 1])]              # float32 [2, c, h, w]: the input of the last three blocks
    FeatureCache(network, "efficientnet_lite0", params).of(split)     # float32 [n, d]: embeddings

The key holds all that the numbers depend on: photograph, frozen weights, transform, and the execution (engine, version,
precision that it really computes in). So a second run or a sweep over heads computes nothing, and new photographs cost
only themselves. A folder under features/ is one (weights, transform, execution); its files are blocks of
photographs, each written atomically, below PAWPRINT_CACHE or cache/ in the current folder. Embeddings fit into memory;
maps stay in their files and are read by the row. Beside them lies the graph that computes them: to trace it costs as
much as the features of 350 photographs.

On the CPU the backbone runs in OpenVINO (benchmarks/train_features.py), one photograph a request, so that no neighbour
can change its bits.
"""

import hashlib
import json
import os
import socket
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import Tensor, nn

from pawprint import files, image, parallel
from pawprint.config import TOGETHER, Params
from pawprint.data.dataset import Place, Split, read
from pawprint.errors import PawprintError
from pawprint.inference import backends
from pawprint.inference.backends import Precision
from pawprint.lineage import sha256
from pawprint.models.backbone import Network
from pawprint.models.side_by_side import SideBySide
from pawprint.progress import Progress
from pawprint.training import devices

BLOCK = 1024  # photographs a file at most: what a kill can cost
BLOCK_BYTES = 2**26  # and so many bytes of maps
CHUNK = 128  # photographs in memory at a time
GRAPH, WEIGHTS = "graph.xml", "graph.bin"  # OpenVINO's
Vectors = NDArray[np.float32]


class Rows(Protocol):
    """An array, or one that is read from files row by row."""

    def __getitem__(self, indices: NDArray[np.int64], /) -> Vectors:
        """float32 [k, ...], a copy."""


class FeatureCache:
    """Embeddings, or the maps in front of the last `blocks`; of the photographs or their mirror images.

    `params.training.precision` must be resolved (devices.resolve_precision).
    """

    def __init__(
        self, network: Network, architecture: str, params: Params, blocks: int = 0, mirrored: bool = False
    ) -> None:
        self.architecture, self.mirrored, self.pooled = architecture, mirrored, not blocks
        self.shape = maps_shape(network, blocks) if blocks else (network.features,)
        backbone = backbone_digest(network)
        self.engine = Engine(FrozenPart(network, blocks), self.shape, params, f"{backbone} {blocks}")
        # Of what was computed in bfloat16 float16 keeps every digit, in half the space.
        half = blocks and self.engine.execution["precision"] in ("bf16", "bfloat16")
        self._dtype = np.float16 if half else np.float32
        key: dict[str, Any] = {
            "backbone": backbone,
            "transform": [network.size, params.preprocess.fit, params.preprocess.quality, sha256(Path(image.__file__))],
            "execution": self.engine.execution,
            "part": [blocks, mirrored],
        }
        name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
        self.folder = Path(os.environ.get("PAWPRINT_CACHE", "cache")) / "features" / f"{architecture}-{name}"
        self.engine.kept = self.folder.absolute()

    def of(self, split: Split) -> Vectors:
        """float32 [n, ...] of all photographs of `split`, in its order; only missing ones are computed."""
        self.complete(split)
        return _StoredRows(self._places(), split.hashes, self.shape)[np.arange(len(split))]

    def rows(self, split: Split) -> Rows:
        """The same; maps are left in their files until they are read."""
        if self.pooled:
            return self.of(split)
        self.complete(split)
        return _StoredRows(self._places(), split.hashes, self.shape)

    def complete(self, split: Split) -> None:
        """Compute what is missing."""
        known = self._places()
        missing = [index for index, name in enumerate(split.hashes) if name not in known]
        if not missing:
            return
        bytes_each = int(np.prod(self.shape)) * np.dtype(self._dtype).itemsize
        size = max(1, min(BLOCK, BLOCK_BYTES // bytes_each))
        blocks = [missing[start : start + size] for start in range(0, len(missing), size)]
        chunks = [[block[start : start + CHUNK] for start in range(0, len(block), CHUNK)] for block in blocks]
        parts = self.engine.run(split, list(chain.from_iterable(chunks)), self.mirrored)
        with Progress(f"{self.architecture} features, {split.name}", len(missing)) as progress:
            for block, pieces in zip(blocks, chunks, strict=True):
                values = []
                for part in islice(parts, len(pieces)):
                    values.append(part.astype(self._dtype))
                    progress.advance(len(part))
                self._write([split.hashes[index] for index in block], np.concatenate(values))

    def _write(self, names: Sequence[str], values: NDArray[Any]) -> None:
        rows = np.frombuffer(bytes.fromhex("".join(names)), np.uint8).reshape(len(names), -1)
        path = self.folder / f"{hashlib.sha256(rows.tobytes()).hexdigest()[:16]}.safetensors"
        with files.new_file(path) as partial:
            save_file({"hashes": rows, "features": np.ascontiguousarray(values)}, partial)

    def _places(self) -> dict[str, tuple[Any, int]]:
        """Hash of each photograph that is there -> (features of its file, row)."""
        opened = [safe_open(path, "np") for path in sorted(self.folder.glob("*.safetensors"))]
        return {
            row.tobytes().hex(): (file.get_slice("features"), index)  # type: ignore[no-untyped-call]
            for file in opened
            for index, row in enumerate(file.get_tensor("hashes"))  # type: ignore[no-untyped-call]
        }


class JoinedFeatures:
    """The embeddings of networks side by side: each one's has its own cache, which other candidates read too."""

    def __init__(self, caches: Sequence[FeatureCache]) -> None:
        self.caches = caches

    def complete(self, split: Split) -> None:
        """Compute what is missing."""
        for cache in self.caches:
            cache.complete(split)

    def of(self, split: Split) -> Vectors:
        """float32 [n, d] of all photographs of `split`, in its order."""
        return np.concatenate([cache.of(split) for cache in self.caches], axis=1)

    rows = of


def cached_features(
    network: Network, architecture: str, params: Params, blocks: int = 0, mirrored: bool = False
) -> FeatureCache | JoinedFeatures:
    """The cache of a network, or of each that stands in it."""
    if not isinstance(network, SideBySide):
        return FeatureCache(network, architecture, params, blocks, mirrored)
    members = zip(network.sides, architecture.split(TOGETHER), strict=True)
    return JoinedFeatures([FeatureCache(one, name, params, 0, mirrored) for one, name in members])


class _StoredRows:
    """Arrays of photographs, read from the cache's files row by row."""

    def __init__(self, places: dict[str, tuple[Any, int]], hashes: Sequence[str], shape: tuple[int, ...]) -> None:
        self._places, self._shape = [places[name] for name in hashes], shape

    def __getitem__(self, indices: NDArray[np.int64]) -> Vectors:
        """float32 [k, ...] at the `indices` [k]."""
        out = np.empty((len(indices), *self._shape), np.float32)
        for row, index in enumerate(indices):
            values, place = self._places[index]
            out[row] = values[place : place + 1][0]
        return out


def backbone_digest(network: Network) -> str:
    """SHA-256 of all weights but the head's."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        if not name.startswith("head."):
            digest.update(name.encode())
            digest.update(value.detach().cpu().numpy().tobytes())
    return digest.hexdigest()


def maps_shape(network: Network, blocks: int) -> tuple[int, ...]:
    """(c, h, w) of the input of the last `blocks` blocks."""
    device = next(network.parameters()).device
    with torch.inference_mode():
        pixels = torch.zeros((1, network.size, network.size, 3), dtype=torch.uint8, device=device)
        return tuple(FrozenPart(network, blocks).eval()(pixels).shape[1:])


class FrozenPart(nn.Module):
    """uint8 [n, size, size, 3] -> features."""

    def __init__(self, network: Network, blocks: int) -> None:
        super().__init__()
        self.network, self.blocks = network, blocks

    def forward(self, pixels: Tensor) -> Tensor:
        return self.network.forward_frozen(self.network.normalise(pixels), self.blocks)


class Engine:
    """Pixels to features by the fastest engine whose bits repeat: OpenVINO on the CPU, torch elsewhere.

    Engines of one named `part` (weights and blocks) and size share what OpenVINO compiles; its graph is kept in the
    folder `kept`.
    """

    _compiled: ClassVar[dict[object, Any]] = {}  # of the last part: a head's folds open its cache again

    def __init__(
        self, frozen: FrozenPart, shape: tuple[int, ...], params: Params, part: str = "", kept: Path | None = None
    ) -> None:
        self.params, self.training, self.device = params, params.training, devices.resolve(params.training)
        self.frozen, self.shape, self.kept = frozen.eval(), shape, kept
        self.precision: Precision = "bf16" if params.training.precision == "bfloat16" else "f32"
        self.name, self.part = part, (part, frozen.network.size, self.precision) if part else object()
        if self.device.type == "cpu":
            self.execution = backends.execution(self.precision)
        else:
            engine, precision = f"torch {torch.__version__}", params.training.precision
            self.execution = {"engine": engine, "device": self.device.type, "precision": precision}

    def run(self, split: Split, chunks: Sequence[Sequence[int]], mirrored: bool) -> Iterator[Vectors]:
        """float32 [n, ...] of the photographs at the indices of each chunk."""
        if parallel.on_ray() and self.device.type == "cpu":
            about = self.frozen, self.shape, self.params, self.name, self.kept, self.execution
            make = partial(_OnNode, *about, split.shards.absolute(), mirrored)
            yield from parallel.map(make, (split.places(chunk) for chunk in chunks))
            return
        for chunk in chunks:
            yield self.compute(split.images(chunk), mirrored)

    def compute(self, pixels: NDArray[np.uint8], mirrored: bool) -> Vectors:
        """uint8 [n, size, size, 3] -> float32 [n, ...]."""
        compute = self.by_openvino if self.device.type == "cpu" else self.by_torch
        return compute(np.ascontiguousarray(pixels[:, :, ::-1]) if mirrored else pixels)

    def by_torch(self, pixels: NDArray[np.uint8]) -> Vectors:
        """uint8 [n, size, size, 3] -> float32 [n, ...]."""
        # Always a full batch: kernels are chosen by shape, and with them the last bits.
        padded = np.zeros((CHUNK, *pixels.shape[1:]), np.uint8)
        padded[: len(pixels)] = pixels
        frozen = self.frozen.to(self.device)
        with torch.inference_mode(), devices.autocast(self.device, self.training):
            values: Vectors = frozen(torch.from_numpy(padded).to(self.device)).float().cpu().numpy()
        return values[: len(pixels)]

    def by_openvino(self, pixels: NDArray[np.uint8]) -> Vectors:
        """uint8 [n, size, size, 3] -> float32 [n, ...]."""
        features = np.empty((len(pixels), *self.shape), np.float32)

        def keep(request: Any, index: int) -> None:
            features[index] = request.get_output_tensor(0).data[0]

        if self.part not in self._compiled:
            self._compiled.clear()
            self._compiled[self.part] = self._compile()
        requests = self._compiled[self.part]
        requests.set_callback(keep)
        for index in range(len(pixels)):
            requests.start_async({0: pixels[index : index + 1]}, index)
        requests.wait_all()
        return features

    def _compile(self) -> Any:
        """OpenVINO's queue of requests, one a core."""
        import openvino

        return openvino.AsyncInferQueue(backends.compile_on_cpu(self._graph(), self.precision), parallel.cores())

    def _graph(self) -> Any:
        """OpenVINO's graph of the frozen part, as it is read from its files: a later run compiles the same."""
        import openvino

        def read(folder: Path) -> Any:
            return openvino.Core().read_model((folder / GRAPH).read_bytes(), (folder / WEIGHTS).read_bytes())

        if self.kept:
            with suppress(OSError, RuntimeError):  # there is none, or it is damaged
                return read(self.kept)
        with tempfile.TemporaryDirectory() as scratch:
            openvino.save_model(self._traced(), Path(scratch, GRAPH), compress_to_fp16=False)
            if self.kept:
                with suppress(OSError):  # a node of a cluster may have no such folder, and needs none
                    for name in (WEIGHTS, GRAPH):
                        files.write_bytes(self.kept / name, Path(scratch, name).read_bytes())
            return read(Path(scratch))

    def _traced(self) -> Any:
        """The graph, made from the network."""
        import openvino

        shape = [1, *2 * [self.frozen.network.size], 3]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tracing: the padding of a fixed size is rightly a constant
            example = torch.zeros(shape, dtype=torch.uint8)
            # Given a module, OpenVINO traces it with torch's check, which traces it twice: three times as long.
            traced = torch.jit.trace(self.frozen.cpu(), example, check_trace=False)  # type: ignore[no-untyped-call]
            return openvino.convert_model(traced, example_input=example, input=[(shape, openvino.Type.u8)])


class _OnNode:
    """The engine in a process of a cluster, where it must compute as on the machine that asks."""

    def __init__(
        self, frozen: FrozenPart, shape: tuple[int, ...], params: Params, name: str, kept: Path | None,
        execution: dict[str, str], shards: Path, mirrored: bool,
    ) -> None:  # fmt: skip
        self.engine, self.shards, self.mirrored = Engine(frozen, shape, params, name, kept), shards, mirrored
        if self.engine.execution != execution:
            here = {name: value for name, value in self.engine.execution.items() if execution.get(name) != value}
            raise PawprintError(
                f"{socket.gethostname()} computes otherwise ({here}) than the machine that started this, so its "
                "features are other bytes. Use nodes of one kind."
            )

    def __call__(self, places: Sequence[Place]) -> Vectors:
        return self.engine.compute(read(self.shards, places, self.engine.frozen.network.size), self.mirrored)

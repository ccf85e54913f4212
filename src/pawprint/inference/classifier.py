"""A model folder -> answers: ONNX, no torch, no server.

    classifier = Classifier(Path("models/efficientnet_lite0"))
    answer = classifier.answer(Path("cat.jpg").read_bytes())
    answer.label, answer.probabilities

Evaluation, `pawprint predict` and the service take this one road: what was evaluated is what is served.
"""

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import safetensors
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors.numpy import load as load_tensors

from pawprint import image
from pawprint.errors import PawprintError
from pawprint.inference import backends
from pawprint.inference.backends import Device, Precision
from pawprint.lineage import Lineage

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
UNKNOWN = "unknown"  # the label of a picture that is like no training photograph


class ModelInfo(BaseModel):
    """model.json: what a model folder says of itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    candidate: str  # the name in params.yaml
    architecture: str
    parameters: int  # trained and frozen together
    classes: tuple[str, ...]  # sorted; the order of `probabilities`
    fit: image.Fit  # preprocess.fit at training; serving follows it
    quality: int  # preprocess.quality, likewise
    int8: bool = False  # does the graph compute in 8-bit integers? The weights beside it are as they were trained
    temperature: float  # fitted on the validation split, already inside the graph
    typicality_threshold: float  # below it a picture is like no training photograph
    model_digest: str  # SHA-256 of model.onnx
    weights_digest: str  # SHA-256 of model.safetensors
    lineage: Lineage

    @classmethod
    def read(cls, folder: Path) -> Self:
        """model.json of a model folder; PawprintError where it is missing or not one of ours."""
        try:
            return cls.model_validate_json(_read(folder, "model.json"))
        except ValidationError as error:
            problem = error.errors()[0]
            field = ".".join(str(part) for part in problem["loc"]) or "the file"
            raise PawprintError(
                f"{folder / 'model.json'}: `{field}`: {problem['msg']}. "
                "It is damaged or from another version; train the model again (`dvc repro`)."
            ) from None


@dataclass(frozen=True)
class Predictions:
    """What the model says of N pictures."""

    probabilities: NDArray[np.float32]  # [N, classes], rows sum to one
    embedding: NDArray[np.float32]  # [N, d]
    typicality: NDArray[np.float32]  # [N], cosine similarity to the nearest training photographs, 1 is alike
    activation: NDArray[np.float32]  # [N, classes or 1, h, w]


@dataclass(frozen=True)
class Answer:
    """What a person is told of one picture; the command line and the service say the same."""

    label: str  # a class, or UNKNOWN
    reason: str  # why UNKNOWN; "" otherwise
    probabilities: dict[str, float]  # by class, in the model's order
    typicality: float
    typical: bool


@dataclass(frozen=True)
class FileAnswer:
    """One file's answer, or the sentence that says why there is none."""

    path: Path
    answer: Answer | None
    error: str  # "" where there is an answer


class Classifier:
    """The model in `folder`, loaded and ready; safe to call from several threads.

    On a CPU every picture goes through the model alone, one core to a picture and as many at a time as there are
    cores: faster than batches, and no answer depends on which others came with it.

    Args:
        folder: holds model.onnx, model.json and typicality.safetensors.
        precision: what the arithmetic runs in. `auto` is bf16 where the CPU computes in it natively, f32
            elsewhere; OpenVINO left alone would choose by itself and not say. `self.precision` reports it.
            On a GPU always f32.
        device: where; `auto` is the GPU where there is one (see backends.py). Judging is done on the CPU.

    Raises:
        PawprintError: a file is missing, damaged, or not the one that model.json was written for.
    """

    def __init__(self, folder: Path, precision: Precision = "auto", device: Device = "cpu") -> None:
        self.folder = folder
        self.info, onnx = load_verified(folder)
        try:
            # From the very bytes that were hashed, so that nothing can come between check and use.
            self._network = backends.load(onnx, precision, device)
        except RuntimeError as error:
            raise PawprintError(f"{folder / 'model.onnx'} cannot be run: {error}. Train the model again.") from None
        self.streams, self.precision, self.device = (
            self._network.at_once,
            self._network.precision,
            self._network.device,
        )
        self._bank, self._nearest = _read_typicality(folder)

    def predict(self, images: NDArray[np.uint8]) -> Predictions:
        """uint8 RGB [N, 300, 300, 3] -> what the model says of each; N of zero is fine."""
        if images.dtype != np.uint8 or images.shape[1:] != (image.SIZE, image.SIZE, 3):
            raise ValueError(f"expected uint8 [N, 300, 300, 3], got {images.dtype} {list(images.shape)}")
        if not len(images):
            return self._none()
        if len(images) == 1:
            outputs = [self._network(images)]
        else:
            with ThreadPoolExecutor(self.streams) as pool:
                outputs = list(pool.map(self._network, images[:, None]))
        probabilities, embedding, activation = (np.concatenate(parts) for parts in zip(*outputs, strict=True))
        return Predictions(probabilities, embedding, self._typicality(embedding), activation)

    def read(self, data: bytes, max_pixels: int = image.MAX_PIXELS) -> image.Pixels:
        """A picture's bytes -> uint8 RGB [300, 300, 3], as this model was trained on. Raises BadImage."""
        return image.load(data, self.info.fit, self.info.quality, max_pixels)

    def answer(self, data: bytes) -> Answer:
        """A picture's bytes -> its answer. Raises BadImage."""
        return self.answers(self.predict(self.read(data)[None]))[0]

    def answers(self, predictions: Predictions) -> list[Answer]:
        """Numbers -> what a person is told, one for each picture."""
        return [
            self._say(row, float(typicality))
            for row, typicality in zip(predictions.probabilities, predictions.typicality, strict=True)
        ]

    def files(self, paths: Iterable[Path]) -> Iterator[FileAnswer]:
        """An answer for every file in order. A file that is no picture gets its sentence, never an exception."""
        ahead: deque[Future[FileAnswer]] = deque()  # a few only, so that memory does not grow with the folder
        with ThreadPoolExecutor(self.streams, thread_name_prefix="answer") as pool:
            for path in paths:
                ahead.append(pool.submit(self._answer_file, path))
                if len(ahead) > 4 * self.streams:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()

    def _answer_file(self, path: Path) -> FileAnswer:
        try:
            return FileAnswer(path, self.answer(path.read_bytes()), "")
        except image.BadImage as error:
            return FileAnswer(path, None, str(error))
        except OSError as error:
            return FileAnswer(path, None, f"the file cannot be read: {error.strerror or error}")

    def _say(self, probabilities: NDArray[np.float32], typicality: float) -> Answer:
        classes = self.info.classes
        best = int(np.argmax(probabilities))
        typical = typicality >= self.info.typicality_threshold
        reason = (
            ""
            if typical
            else f"it is like none of the training photographs (typicality {typicality:.2f}, at least "
            f"{self.info.typicality_threshold:.2f} is needed); {classes[best]} is the nearest class"
        )
        return Answer(
            label=classes[best] if typical else UNKNOWN,
            reason=reason,
            probabilities={name: float(value) for name, value in zip(classes, probabilities, strict=True)},
            typicality=typicality,
            typical=typical,
        )

    def _typicality(self, embedding: NDArray[np.float32]) -> NDArray[np.float32]:
        """Mean cosine similarity to the k nearest of the kept training embeddings, [N, d] -> [N]."""
        length = np.linalg.norm(embedding, axis=1, keepdims=True)
        cosine = embedding / np.maximum(length, 1e-12) @ self._bank.T
        nearest = np.partition(cosine, -self._nearest, axis=1)[:, -self._nearest :]
        mean: NDArray[np.float32] = nearest.mean(axis=1, dtype=np.float32)
        return mean

    def _none(self) -> Predictions:
        classes, dimensions = len(self.info.classes), self._bank.shape[1]
        return Predictions(
            probabilities=np.empty((0, classes), np.float32),
            embedding=np.empty((0, dimensions), np.float32),
            typicality=np.empty(0, np.float32),
            activation=np.empty((0, classes, 1, 1), np.float32),
        )


def load_verified(folder: Path) -> tuple[ModelInfo, bytes]:
    """(model.json, the bytes of model.onnx); PawprintError unless the one was written for the other."""
    info = ModelInfo.read(folder)
    onnx = _read(folder, "model.onnx")
    if hashlib.sha256(onnx).hexdigest() != info.model_digest:
        raise PawprintError(
            f"{folder / 'model.onnx'} is not the file that model.json describes (its SHA-256 differs). "
            "It was changed or half written; train or package the model again (`dvc repro`)."
        )
    return info, onnx


def find_pictures(paths: Iterable[Path]) -> list[Path]:
    """Files as they are, there or not; folders as the pictures below them, sorted. PawprintError if one has none."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
            if not inside:
                raise PawprintError(f"{path} holds no pictures ({', '.join(SUFFIXES)}). Name a file or another folder.")
            found.extend(inside)
        else:
            found.append(path)  # one that is not there gets its sentence from `files`
    return found


def _read(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        raise PawprintError(
            f"{folder / name} cannot be read ({error.strerror}). A model folder holds model.onnx, "
            "model.json and typicality.safetensors; train or package it again (`dvc repro`)."
        ) from None


def _read_typicality(folder: Path) -> tuple[NDArray[np.float32], int]:
    """([m, d] unit embeddings of training photographs, how many of the nearest count)."""
    try:
        tensors = load_tensors(_read(folder, "typicality.safetensors"))
        bank = tensors["embeddings"].astype(np.float32)
        return bank, min(int(tensors["k"].reshape(-1)[0]), len(bank))
    except (safetensors.SafetensorError, KeyError, IndexError) as error:
        raise PawprintError(
            f"{folder / 'typicality.safetensors'} is damaged ({error}). Train the model again (`dvc repro`)."
        ) from None

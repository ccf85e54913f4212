"""A model folder -> predictions: ONNX, no torch, no server.

    classifier = Classifier(Path("models/efficientnet_lite0"))
    result = classifier.classify(Path("cat.jpg").read_bytes())
    result.label, result.probabilities

Evaluation, `pawprint predict` and the service use this class: what is evaluated is what is served.
"""

import hashlib
import io
import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import safetensors
from numpy.typing import NDArray
from PIL.Image import Image, fromarray
from pydantic import ValidationError, computed_field, model_validator
from safetensors.numpy import load as load_tensors

from pawprint import image
from pawprint.config import UNKNOWN
from pawprint.errors import PawprintError
from pawprint.files import Closed, files_in
from pawprint.inference import backends, ood
from pawprint.inference.backends import Device, Precision
from pawprint.lineage import Lineage, sha256
from pawprint.parallel import in_order

Refusal = Literal["", "unlike", "unsure"]  # unlike the training photographs, or too unsure which class it is

OOD_FILE = "ood.safetensors"  # the bank of ood.py; of validation photographs directions of embeddings and predictions
_FOREIGN_BANK = f"{OOD_FILE} holds embeddings of another model"
FOLDS_FILE = "folds.csv"  # predictions of all photographs out of the fold, where a head was trained


class ModelInfo(Closed):
    """model.json of a model folder."""

    schema_version: Literal[2]
    candidate: str  # the name in params.yaml
    architecture: str
    parameters: int  # trained and frozen together
    classes: tuple[str, ...]  # sorted; the order of `probabilities`
    size: int = image.SIZE  # preprocess.size at training; serving follows it, and of a model of before it is 300
    fit: image.Fit  # preprocess.fit, likewise
    quality: int  # preprocess.quality, likewise
    quantized_from: str = ""  # the candidate whose weights this INT8 graph was made from; "" for a trained model
    temperature: float  # fitted on the validation split, already inside the graph
    ood_threshold: float  # a picture whose kNN similarity is lower is refused as unlike the training photographs
    min_confidence: float = 0.0  # one whose largest probability is lower is refused as unsure; models of before have 0
    onnx_digest: str  # SHA-256 of model.onnx
    weights_digest: str  # SHA-256 of model.safetensors
    ood_digest: str = ""  # SHA-256 of ood.safetensors; "" in a model of before 2026-12
    lineage: Lineage

    @model_validator(mode="before")
    @classmethod
    def _of_before(cls, values: Any) -> Any:
        """`model_digest` is computed; in a file of before it was the graph's digest."""
        if not isinstance(values, dict) or "model_digest" not in values:
            return values
        digest = {"onnx_digest": values["model_digest"]} if "onnx_digest" not in values else {}
        return {name: value for name, value in values.items() if name != "model_digest"} | digest

    @computed_field  # type: ignore[prop-decorator]
    @property
    def model_digest(self) -> str:
        """The model's identity: SHA-256 over the digests of its files, classes, thresholds and lineage, as model.json
        has them; not over run and commit, for a training that is done again gives the same model."""
        own = {name: getattr(self, name) for name in type(self).model_fields if name != "lineage"}
        given = {name: value for name, value in own.items() if value != type(self).model_fields[name].default}
        lineage = self.lineage.model_dump(exclude={"run_id", "git_commit", "git_dirty"}, exclude_defaults=True)
        return hashlib.sha256(json.dumps(given | {"lineage": lineage}, sort_keys=True).encode()).hexdigest()

    @classmethod
    def read(cls, folder: Path) -> Self:
        """model.json of a model folder; PawprintError where it is missing, damaged or of another version."""
        try:
            return cls.model_validate_json(_read(folder, "model.json"))
        except ValidationError as error:
            problem = error.errors()[0]
            field = ".".join(str(part) for part in problem["loc"]) or "the file"
            why = f"`{field}`: {problem['msg']}. It is damaged"
            if field == "schema_version":
                why = "it was made by another version of pawprint"
            raise PawprintError(f"{folder / 'model.json'}: {why}; train the model again (`dvc repro`).") from None

    @property
    def prepared(self) -> dict[str, Any]:
        """Those of `preprocess` that its photographs were prepared with."""
        return {"size": self.size, "fit": self.fit, "quality": self.quality}

    @property
    def trained_as(self) -> str:
        """The candidate whose training made the weights."""
        return self.quantized_from or self.candidate


@dataclass(frozen=True)
class Predictions:
    """A model's outputs for N pictures."""

    probabilities: NDArray[np.float32]  # [N, classes], rows sum to one
    embedding: NDArray[np.float32]  # [N, d]
    knn_similarity: NDArray[np.float32]  # [N], likeness to the nearest training photographs (ood.py), at most 1
    activation: NDArray[np.float32]  # [N, classes or 1, h, w]; of none where they are not asked for


@dataclass(frozen=True)
class Classification:
    """The result for one picture; the command line and the service report the same."""

    label: str  # a class, or UNKNOWN
    refusal: Refusal  # why UNKNOWN; "" otherwise
    reason: str  # the same as a sentence
    probabilities: dict[str, float]  # by class, in the model's order
    knn_similarity: float


@dataclass(frozen=True)
class FileResult:
    """One file's classification, or the sentence that says why there is none."""

    path: Path
    classification: Classification | None
    error: str  # "" where there is a classification
    model_digest: str = ""  # of the model that classified it


class Unloaded:
    """The model in `folder`, whose network is not loaded: what a process needs of it that has others predict.

    It has what their predictions are named by, and takes 90 MB less than a Classifier. Whether the network can be run,
    they find out.

    Raises:
        PawprintError: a file is missing, damaged, or not the one that model.json was written for.
    """

    def __init__(self, folder: Path, max_pixels: int = image.MAX_PIXELS) -> None:
        self.folder, self.max_pixels = folder, max_pixels
        self.info = ModelInfo.read(folder)
        try:
            digest = sha256(folder / "model.onnx")  # in pieces: some networks have a gigabyte
        except OSError as error:
            raise _unreadable(folder / "model.onnx", error) from None
        _check_digest(folder, self.info, digest)
        read_bank(folder, self.info.ood_digest)
        self.precision = backends.execution("auto")["precision"]

    def load(self) -> "Classifier":
        return Classifier(self.folder, max_pixels=self.max_pixels)


class Classifier:
    """The model in `folder`, loaded and ready; safe to call from several threads.

    On a CPU every picture goes through the model alone, one core to a picture and as many at a time as there are
    cores: faster than batches, and no prediction depends on which others came with it.

    Args:
        folder: holds model.onnx, model.json and ood.safetensors.
        precision: of the arithmetic. `auto` is bf16 where the CPU computes in it natively, f32 elsewhere; a GPU
            computes in f32. `self.precision` is what is executed.
        device: `auto` is the GPU where there is one (see backends.py).
        max_pixels: a picture whose header claims more is refused.

    Raises:
        PawprintError: a file is missing, damaged, or not the one that model.json was written for.
    """

    def __init__(
        self,
        folder: Path,
        precision: Precision = "auto",
        device: Device = "cpu",
        max_pixels: int = image.MAX_PIXELS,
    ) -> None:
        self.folder, self.max_pixels = folder, max_pixels
        self.info, onnx = load_verified(folder)
        bank = read_bank(folder, self.info.ood_digest)
        try:
            # From the very bytes that were hashed, so that nothing can come between check and use.
            self._session = backends.load(onnx, precision, device, bank, self.info.size)
        except ValueError:
            raise self._refusal(_FOREIGN_BANK) from None
        except RuntimeError as error:
            raise PawprintError(f"{folder / 'model.onnx'} cannot be run: {error}. Train the model again.") from None
        self._bank = replace(bank, directions=bank.directions[:0].copy(), class_scores=None)  # the session has both
        self.streams = self._session.at_once
        self.precision, self.device = self._session.precision, self._session.device
        self._check_outputs()

    def _check_outputs(self) -> None:
        """PawprintError unless the graph's outputs for one picture fit model.json and the OOD bank."""
        probabilities, _, activation, cosine = self._session(self._black())
        classes = len(self.info.classes)
        if self.info.classes != tuple(sorted(set(self.info.classes))):
            problem = "model.json's classes are not in their order"
        elif probabilities.shape != (1, classes):
            problem = f"model.onnx has {probabilities.shape[-1]} classes and model.json {classes}"
        elif not np.isfinite(probabilities).all() or abs(float(probabilities.sum()) - 1) > 0.01:
            problem = "model.onnx gives no probabilities for a black photograph"
        elif activation.ndim != 4 or activation.shape[1] not in (1, classes):
            problem = f"model.onnx has an activation map of {list(activation.shape)}"
        elif not np.isfinite(cosine).all():
            problem = _FOREIGN_BANK
        else:
            return
        raise self._refusal(problem)

    def _refusal(self, problem: str) -> PawprintError:
        return PawprintError(f"{self.folder} cannot be served: {problem}. Train or package the model again.")

    def _black(self) -> NDArray[np.uint8]:
        return np.zeros((1, self.info.size, self.info.size, 3), np.uint8)

    @classmethod
    def load(
        cls,
        model: str | Path = "champion",
        root: Path | None = None,
        precision: Precision = "auto",
        device: Device = "cpu",
    ) -> Self:
        """The champion or a candidate of the project in `root` (default: the current folder), or any model folder.

        Raises:
            PawprintError: there is no such model, or its folder is damaged.
        """
        return cls(find_model(model, root or Path.cwd()), precision, device)

    def __call__(self, picture: str | Path | bytes | NDArray[np.uint8] | Image) -> Classification:
        """The class of one picture: a file, its bytes, uint8 RGB [height, width, 3], or a PIL image.

        Raises:
            BadImage: it is no picture, or one that is not taken (image.py).
            OSError: the file cannot be read.
        """
        if isinstance(picture, np.ndarray):
            picture = fromarray(picture)
        if isinstance(picture, Image):
            lossless = io.BytesIO()
            picture.save(lossless, "PNG")
            return self.classify(lossless.getvalue())
        return self.classify(picture if isinstance(picture, bytes) else Path(picture).read_bytes())

    def predict(self, images: NDArray[np.uint8], maps: bool = True) -> Predictions:
        """uint8 RGB [N, size, size, 3] -> the outputs for each; N may be zero. Without `maps` no activation is kept,
        which is 400 kB a picture at 1,000 classes."""
        size = self.info.size
        if images.dtype != np.uint8 or images.shape[1:] != (size, size, 3):
            raise ValueError(f"expected uint8 [N, {size}, {size}, 3], got {images.dtype} {list(images.shape)}")
        if not len(images):
            one = self.predict(self._black())
            return Predictions(*(values[:0] for values in vars(one).values()))

        def run(one: NDArray[np.uint8]) -> backends.Outputs:
            probabilities, embedding, activation, cosine = self._session(one)
            return [probabilities, embedding, activation if maps else activation[:0].copy(), cosine]

        if len(images) == 1:
            outputs = [run(images)]
        else:
            with ThreadPoolExecutor(self.streams) as pool:
                outputs = list(pool.map(run, images[:, None]))
        probabilities, embedding, activation, cosine = (np.concatenate(parts) for parts in zip(*outputs, strict=True))
        similarity = self._bank.typicality_of(cosine, probabilities)
        return Predictions(probabilities, embedding, similarity, activation)

    def read(self, data: bytes) -> image.Pixels:
        """A picture's bytes -> uint8 RGB [size, size, 3], as this model was trained on. Raises BadImage."""
        return image.load(data, self.info.fit, self.info.quality, self.max_pixels, self.info.size)

    def classify(self, data: bytes) -> Classification:
        """A picture's bytes -> its class. Raises BadImage."""
        return self.decide(self.predict(self.read(data)[None]))[0]

    def decide(self, predictions: Predictions) -> list[Classification]:
        """Outputs -> the class of each picture, or UNKNOWN."""
        return [
            self._decide(row, float(similarity))
            for row, similarity in zip(predictions.probabilities, predictions.knn_similarity, strict=True)
        ]

    def classify_files(self, paths: Iterable[Path]) -> Iterator[FileResult]:
        """A result for every file, in order. A file that is no picture gets its sentence, never an exception."""
        with ThreadPoolExecutor(self.streams, thread_name_prefix="classify") as pool:
            yield from in_order(pool, self._classify_file, paths, 4 * self.streams)

    def _classify_file(self, path: Path) -> FileResult:
        try:
            return FileResult(path, self.classify(path.read_bytes()), "", self.info.model_digest)
        except image.BadImage as error:
            return FileResult(path, None, str(error))
        except OSError as error:
            return FileResult(path, None, f"the file cannot be read: {error.strerror or error}")

    def _decide(self, probabilities: NDArray[np.float32], similarity: float) -> Classification:
        classes, threshold, least = self.info.classes, self.info.ood_threshold, self.info.min_confidence
        label, confidence = classes[int(np.argmax(probabilities))], float(probabilities.max())
        by_class = {name: float(value) for name, value in zip(classes, probabilities, strict=True)}
        if similarity < threshold:
            reason = (
                f"it is like none of the training photographs (typicality {similarity:.2f}, at least "
                f"{threshold:.2f} is needed); {label} is the nearest class"
            )
            return Classification(UNKNOWN, "unlike", reason, by_class, similarity)
        if confidence < least:
            reason = f"unsure which class it is ({label} {confidence:.1%}, at least {least:.1%} is needed)"
            return Classification(UNKNOWN, "unsure", reason, by_class, similarity)
        return Classification(label, "", "", by_class, similarity)


def load_verified(folder: Path) -> tuple[ModelInfo, bytes]:
    """(model.json, the bytes of model.onnx); PawprintError unless model.json describes these bytes."""
    info = ModelInfo.read(folder)
    onnx = _read(folder, "model.onnx")
    _check_digest(folder, info, hashlib.sha256(onnx).hexdigest())
    return info, onnx


def _check_digest(folder: Path, info: ModelInfo, digest: str) -> None:
    if digest != info.onnx_digest:
        raise PawprintError(
            f"{folder / 'model.onnx'} is not the file that model.json describes (its SHA-256 differs). "
            "It was changed or half written; train or package the model again (`dvc repro`)."
        )


def find_model(model: str | Path, root: Path) -> Path:
    """The folder of the champion or a candidate of the project in `root`, or any other; PawprintError if none."""
    named = [root / "champion"] if model == "champion" else [root / "models" / model, root / model, Path(model)]
    for folder in named:
        if (folder / "model.json").exists():
            return folder
    raise PawprintError(
        f"{named[-1]} is no model folder. Name `champion`, a candidate or a folder; `pawprint run` trains."
    )


def find_pictures(paths: Iterable[Path]) -> list[Path]:
    """Files as they are, there or not; folders as the pictures below them, sorted. PawprintError if one has none."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = [file for file in files_in(path) if file.suffix.lower() in image.IMAGE_SUFFIXES]
            if not inside:
                suffixes = ", ".join(sorted(image.IMAGE_SUFFIXES))
                raise PawprintError(f"{path} holds no photographs ({suffixes}). Name a file or another folder.")
            found.extend(inside)
        else:
            found.append(path)  # `classify_files` reports one that is not there
    return found


def _read(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        raise _unreadable(folder / name, error) from None


def _unreadable(path: Path, error: OSError) -> PawprintError:
    return PawprintError(
        f"{path} cannot be read ({error.strerror}). A model folder holds model.onnx, "
        "model.json and ood.safetensors; train or package it again (`dvc repro`)."
    )


def read_bank(folder: Path, digest: str = "") -> ood.Bank:
    """The bank of a model folder; PawprintError where it is missing, damaged or not the one with this SHA-256."""
    data = _read(folder, OOD_FILE)
    if digest and hashlib.sha256(data).hexdigest() != digest:
        raise PawprintError(f"{folder / OOD_FILE} is not the file that model.json describes. Package the model again.")
    try:
        return ood.Bank.from_tensors(load_tensors(data))
    except (safetensors.SafetensorError, KeyError, IndexError) as error:
        raise PawprintError(f"{folder / OOD_FILE} is damaged ({error}). Train the model again (`dvc repro`).") from None

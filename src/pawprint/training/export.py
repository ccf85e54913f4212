"""A trained network -> a model folder: model.onnx, weights, OOD bank, model.json, photographs.txt.

    info = export(trained, data, lineage, Path("models/article_cnn"), logger)

The ONNX graph takes uint8 [N, size, size, 3] RGB, so that no caller can get the normalization wrong, and gives
`probabilities` (softmax at the fitted temperature), `embedding` and `activation`. Its bytes depend on nothing
but the weights: equal weights are equal files.
"""

import logging
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import save_file as save_tensors
from torch import Tensor, nn
from torch.nn import functional as F

from pawprint import files, image
from pawprint.config import Params, Refusal
from pawprint.data.dataset import PreparedDataset, Split
from pawprint.errors import PawprintError
from pawprint.inference import ood, selftest, strangers
from pawprint.inference.backends import OUTPUTS
from pawprint.inference.classifier import FOLDS_FILE, OOD_FILE, ModelInfo
from pawprint.lineage import Lineage, sha256
from pawprint.models import registry
from pawprint.models.backbone import Network
from pawprint.training.dataloader import chunks
from pawprint.training.folds import OutOfFold
from pawprint.training.folds import write as write_folds
from pawprint.training.temperature import fit_temperature, tempered
from pawprint.training.train import Trained
from pawprint.training.trainer import RunLogger

OPSET = 20
BATCH = 2  # photographs at a time in ONNX Runtime
CHECKED = 16  # photographs on which the graph is compared with torch
MAX_DIFFERENCE = 1e-3  # float32 in both, summed in another order
HELD_OUT = 1000  # embeddings of validation photographs that are kept, for the drift test


class _Served(nn.Module):
    """The served network: pixels to probabilities at a temperature, embedding and map."""

    def __init__(self, network: Network, temperature: float) -> None:
        super().__init__()
        self.network, self.temperature = network, temperature

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits, embedding, activation = self.network.outputs(self.network.normalise(images))
        return F.softmax(logits / self.temperature, dim=1), embedding, activation


def export(
    trained: Trained,
    data: PreparedDataset,
    lineage: Lineage,
    out: Path,
    logger: RunLogger,
    folds: OutOfFold | None = None,
) -> ModelInfo:
    """Write the model folder `out`, replacing what is there, and return its model.json.

    With predictions out of the `folds` the thresholds come from more photographs, and folds.csv keeps them.

    Raises:
        PawprintError: The ONNX graph does not give torch's answers.
    """
    started = time.perf_counter()
    train, validation, preprocess = data.split("train"), data.split("validation"), trained.params.preprocess
    with files.replace_folder(out) as folder:
        temperature = fit_temperature(trained.validation.logits, validation.labels)
        served = _Served(trained.network, temperature).eval()
        save_onnx(served, folder / "model.onnx")
        checked = validation if len(validation) else train
        difference = compare(served, folder / "model.onnx", checked.images(range(min(CHECKED, len(checked)))))
        weights = {name: value.contiguous() for name, value in trained.network.state_dict().items()}
        save_tensors(weights, folder / "model.safetensors")
        bank = ood.Bank.of(trained.sample.embedding, trained.class_scores)
        others = strangers_typicality(folder / "model.onnx", trained.params, bank)
        threshold, least = refusal_thresholds(trained, temperature, data, folds, bank, others)
        save_bank(bank, trained.validation.embedding, trained.validation.logits, folder)
        if folds is not None:
            write_folds(folds, folder / FOLDS_FILE)
        hashes = sorted({*train.hashes, *validation.hashes})
        (folder / "photographs.txt").write_text("".join(f"{name}\n" for name in hashes), encoding="ascii")
        info = ModelInfo(
            schema_version=2,
            candidate=trained.candidate,
            architecture=trained.params.candidate(trained.candidate).architecture,
            parameters=registry.parameters(trained.network),
            classes=data.classes,
            size=preprocess.size,
            fit=preprocess.fit,
            quality=preprocess.quality,
            temperature=temperature,
            ood_threshold=threshold,
            min_confidence=least,
            onnx_digest=sha256(folder / "model.onnx"),
            weights_digest=sha256(folder / "model.safetensors"),
            ood_digest=sha256(folder / OOD_FILE),
            lineage=lineage,
        )
        files.write_text(folder / "model.json", info.model_dump_json(indent=2) + "\n")
        scores = trained.validation.logits if len(validation) else np.zeros((len(train), len(data.classes)), np.float32)
        pictures = known_pictures(checked, scores)
        pixels = np.stack([image.unpack(picture) for picture in pictures.values()])
        (known, *_) = open_session(folder / "model.onnx").run(list(OUTPUTS), {"images": pixels})
        selftest.keep(folder, data.classes, pictures, known)
    seconds = time.perf_counter() - started
    values = {"temperature": temperature, "ood_threshold": threshold, "min_confidence": least}
    values["onnx_max_difference"] = difference
    logger.metrics(values | {"export_seconds": seconds})
    return info


def known_pictures(split: Split, scores: NDArray[np.float32]) -> dict[str, bytes]:
    """A photograph of each of the first classes, packed, for the self-test: the surest, which rounding moves least.

    Args:
        split: n photographs.
        scores: [n, classes] their logits or probabilities.
    """
    second, first = np.partition(scores, -2, axis=1)[:, -2:].T
    order = np.lexsort((second - first, split.labels))
    surest = order[np.unique(split.labels[order], return_index=True)[1]][: selftest.MOST]
    return {f"{place}.jpg": image.encode(pixels) for place, pixels in enumerate(split.images(surest))}


def save_onnx(served: _Served, path: Path) -> None:
    """Write the graph: dynamic batch, pinned opset, nothing in it that tells where or when it was made."""
    size = served.network.size
    example = torch.zeros((2, size, size, 3), dtype=torch.uint8)
    for talkative in ("torch.onnx", "onnxscript"):  # that torchvision is not there; that a Split is not folded
        logging.getLogger(talkative).setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # deprecations inside torch and onnxscript
        program = torch.onnx.export(
            served,
            (example,),
            input_names=["images"],
            output_names=list(OUTPUTS),
            dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1)}},
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    _strip(model.graph)
    del model.metadata_props[:]
    path.write_bytes(model.SerializeToString(deterministic=True))


def open_session(path: Path) -> onnxruntime.InferenceSession:
    """The graph in ONNX Runtime on the CPU."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def compare(served: nn.Module, path: Path, pixels: NDArray[np.uint8]) -> float:
    """The largest difference between the graph's answers and torch's on `pixels`, both in float32.

    It is taken over all outputs; where an output's values exceed 1, relative to the largest of them.

    Raises:
        PawprintError: It is more than rounding can explain.
    """
    theirs = open_session(path).run(list(OUTPUTS), {"images": pixels})
    with torch.inference_mode():
        ours = served(torch.from_numpy(pixels))
    difference = max(
        float(np.abs(their - our.numpy()).max() / max(1.0, our.abs().max()))
        for their, our in zip(theirs, ours, strict=True)
    )
    if not difference <= MAX_DIFFERENCE:
        raise PawprintError(
            f"{path.name}: the exported graph's answers differ from torch's by {difference:.2g} (at most "
            f"{MAX_DIFFERENCE:g} is rounding). Keep to operations that opset {OPSET} has."
        )
    return difference


def refusal_thresholds(
    trained: Trained,
    temperature: float,
    data: PreparedDataset,
    folds: OutOfFold | None,
    bank: ood.Bank,
    strangers: NDArray[np.float32] | None = None,
) -> tuple[float, float]:
    """(typicality below which a picture is refused as unlike, confidence below which it is refused as unsure).

    From the validation photographs and, where there are predictions out of the fold, from the training photographs of
    the bank too, each without itself: hundreds where the validation split has twenty. Where the typicality of
    `strangers` [m] is given, `refusal.stranger_costs` weighs them against the photographs.
    """
    validation, train, refusal = data.split("validation"), data.split("train"), trained.params.refusal
    probabilities = tempered(trained.validation.logits, temperature)
    labels, typicality = validation.labels, bank.typicality(trained.validation.embedding, probabilities)
    if folds is not None:
        places = {name: place for place, name in enumerate(folds.hashes)}
        chosen = [places[train.hashes[index]] for index in trained.sampled]
        others = folds.probabilities[chosen]
        typicality = np.concatenate([typicality, bank.left_out(trained.sample.embedding, others)])
        tuned = np.array([places[name] for name in (*validation.hashes, *train.hashes)], np.int64)
        labels, probabilities = folds.labels[tuned], folds.probabilities[tuned]
    correct = probabilities.argmax(axis=1) == labels
    return (
        unlike_threshold(typicality, strangers, refusal),
        least_confidence(probabilities.max(axis=1), correct, refusal.wrong_costs),
    )


def strangers_typicality(graph: Path, params: Params, bank: ood.Bank) -> NDArray[np.float32] | None:
    """Typicality [m] of the half of `refusal.strangers` that sets the threshold; None where it is not asked for."""
    if not params.refusal.stranger_costs:
        return None
    pixels = strangers.read(Path(params.refusal.strangers), params.preprocess, "tuned")
    return bank.typicality(*outputs(graph, lambda part: pixels[part], np.arange(len(pixels))))


def unlike_threshold(own: NDArray[np.floating], strangers: NDArray[np.floating] | None, refusal: Refusal) -> float:
    """From the typicality [n] of photographs that were not learned from, and of strangers, if that is asked for."""
    if strangers is None or not len(own):
        return ood.threshold(own, refusal.unlike)
    return ood.cheapest_threshold(own, strangers, refusal.stranger_costs)


def outputs(
    graph: Path, images: Callable[[NDArray[np.int64]], NDArray[np.uint8]], chosen: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(embedding [k, d], probabilities [k, classes]) that the graph gives for the `chosen` of `images`."""
    session, wanted = open_session(graph), ["embedding", "probabilities"]
    found = [session.run(wanted, {"images": images(part)}) for part in chunks(chosen, BATCH)]
    sizes = [output.shape[1] for name in wanted for output in session.get_outputs() if output.name == name]
    empty = [np.empty((0, size), np.float32) for size in sizes]
    embedding, probabilities = (np.concatenate(part) for part in zip(empty, *found, strict=True))
    return embedding, probabilities


def least_confidence(confidence: NDArray[np.floating], correct: NDArray[np.bool_], wrong_costs: float) -> float:
    """The confidence below which a refusal is cheaper than an answer, which costs as much as `wrong_costs` refusals
    where it is wrong.

    The one with the smallest cost over these predictions [n], but not above 1 - 1 / wrong_costs, which is the best for
    a calibrated model (Chow, On optimum recognition error and reject tradeoff, 1970).
    """
    order = np.argsort(confidence, kind="stable")
    # Refusing the first so many costs them, and saves what the wrong ones among them cost.
    costs = np.concatenate([[0.0], np.cumsum(1 - wrong_costs * ~correct[order])])
    refused = int(costs.argmin())
    at = float(confidence[order[refused]]) if refused < len(order) else 1.0
    return min(at, 1 - 1 / wrong_costs) if refused else 0.0


def save_bank(bank: ood.Bank, held_out: NDArray[np.float32], outputs: NDArray[np.float32], folder: Path) -> None:
    """Write ood.safetensors; `held_out` are embeddings [n, d] of photographs that the network has not learned from, and
    `outputs` [n, classes] are theirs, logits or probabilities."""
    directions = ood.unit(held_out[:HELD_OUT]).astype(np.float16)
    predicted = np.bincount(outputs.argmax(axis=1), minlength=outputs.shape[1])
    save_arrays(bank.tensors() | {"held_out": directions, "held_out_predicted": predicted}, folder / OOD_FILE)


def _strip(graph: onnx.GraphProto) -> None:
    """Drop what the exporter notes for a debugger, such as the paths of source files."""
    del graph.metadata_props[:]
    for part in (*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""

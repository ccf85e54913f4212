"""A trained network -> a model folder: model.onnx, weights, OOD bank, model.json, photographs.txt.

    info = export(trained, data, lineage, Path("models/article_cnn"), logger)

The ONNX graph takes uint8 [N, 300, 300, 3] RGB, so that no caller can get the normalization wrong, and gives
`probabilities` (softmax at the fitted temperature), `embedding` and `activation`. Its bytes depend on nothing
but the weights: equal weights are equal files.
"""

import logging
import time
import warnings
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
from pawprint.data.dataset import PreparedDataset
from pawprint.errors import PawprintError
from pawprint.inference import ood
from pawprint.inference.backends import OUTPUTS
from pawprint.inference.classifier import OOD_FILE, ModelInfo
from pawprint.lineage import Lineage, sha256
from pawprint.models import registry
from pawprint.models.backbone import Network
from pawprint.training.train import Trained
from pawprint.training.trainer import RunLogger

OPSET = 20
CHECKED = 16  # photographs on which the graph is compared with torch
MAX_DIFFERENCE = 1e-3  # float32 in both, summed in another order
NEIGHBOURS = 10
PASS = 0.99  # share of validation photographs above the OOD threshold


class _Served(nn.Module):
    """The served network: pixels to probabilities at a temperature, embedding and map."""

    def __init__(self, network: Network, temperature: float) -> None:
        super().__init__()
        self.network, self.temperature = network, temperature

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits, embedding, activation = self.network.outputs(self.network.normalise(images))
        return F.softmax(logits / self.temperature, dim=1), embedding, activation


def export(trained: Trained, data: PreparedDataset, lineage: Lineage, out: Path, logger: RunLogger) -> ModelInfo:
    """Write the model folder `out`, replacing what is there, and return its model.json.

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
        threshold = save_ood_bank(trained.sample.embedding, trained.validation.embedding, folder)
        hashes = sorted({*train.hashes, *validation.hashes})
        (folder / "photographs.txt").write_text("".join(f"{name}\n" for name in hashes), encoding="ascii")
        info = ModelInfo(
            schema_version=2,
            candidate=trained.candidate,
            architecture=trained.params.candidate(trained.candidate).architecture,
            parameters=registry.parameters(trained.network),
            classes=data.classes,
            fit=preprocess.fit,
            quality=preprocess.quality,
            temperature=temperature,
            ood_threshold=threshold,
            model_digest=sha256(folder / "model.onnx"),
            weights_digest=sha256(folder / "model.safetensors"),
            lineage=lineage,
        )
        files.write_text(folder / "model.json", info.model_dump_json(indent=2) + "\n")
    seconds = time.perf_counter() - started
    values = {"temperature": temperature, "ood_threshold": threshold, "onnx_max_difference": difference}
    logger.metrics(values | {"export_seconds": seconds})
    return info


def fit_temperature(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """The temperature that makes the log loss of softmax(logits / t) smallest; 1.0 where there are no labels.

    Guo et al., On Calibration of Modern Neural Networks (2017), with smoothed targets: of n answers one more could have
    been wrong (Laplace's rule of succession: the wrong classes share 1 / (n + 2)). Without that a validation split that
    holds no mistake makes every answer infinitely sure. Platt's rule, with one doubtful answer a class, was measured
    too: it makes answers too unsure (docs/decisions/training.md). `logits` [n, classes], `labels` [n].
    """
    if not len(labels):
        return 1.0
    scores, targets = torch.from_numpy(logits).double(), torch.from_numpy(labels)
    classes = logits.shape[1]
    smoothing = min(1.0, classes / ((classes - 1) * (len(labels) + 2)))  # torch spreads it over the right class too
    log_inverse = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_inverse], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(scores * log_inverse.exp(), targets, label_smoothing=smoothing)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return float(np.clip(np.exp(-log_inverse.item()), 0.1, 10.0))


def save_onnx(served: nn.Module, path: Path) -> None:
    """Write the graph: dynamic batch, pinned opset, nothing in it that tells where or when it was made."""
    example = torch.zeros((2, image.SIZE, image.SIZE, 3), dtype=torch.uint8)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it says at length that torchvision is not there
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


def save_ood_bank(sample: NDArray[np.float32], validation: NDArray[np.float32], folder: Path) -> float:
    """Write ood.safetensors: directions of the sample's embeddings; returns the threshold of the kNN similarity.

    99 % of the validation photographs pass it; without any it is -1, which all pass. Both are embeddings [n, d].
    """
    bank = ood.unit(sample).astype(np.float16)
    k = min(NEIGHBOURS, len(bank))
    threshold = -1.0
    if len(validation):
        similarity = ood.knn_similarity(bank.astype(np.float32), validation, k)
        threshold = float(np.float32(np.quantile(similarity, 1 - PASS)))
    save_arrays({"embeddings": bank, "k": np.array([k], np.int64)}, folder / OOD_FILE)
    return threshold


def _strip(graph: onnx.GraphProto) -> None:
    """Drop what the exporter notes for a debugger, such as the paths of source files."""
    del graph.metadata_props[:]
    for part in (*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""

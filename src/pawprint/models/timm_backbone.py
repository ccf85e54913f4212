"""Any network of timm (PyTorch Image Models) as a backbone: CNN, vision transformer or hybrid, by its name there.

    network = TimmBackbone(classes=2, name="timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k")
    network.load_pretrained()       # from the store of weights.py; no network

The photograph is reduced to the network's own input inside the graph, by a product with two fixed matrices (Pillow's
antialiased bilinear reduction), which every engine computes alike.

timm imports torchvision at its top, but no network needs what it takes from there. Where torchvision is missing, or is
PyPI's build for CUDA beside a torch for the CPU and fails, stand-ins take its place while timm is imported.
"""

import sys
import types
from functools import cache
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pawprint.errors import PawprintError
from pawprint.image import SIZE
from pawprint.models import weights
from pawprint.models.backbone import LinearHead

PREFIX = "timm/"
_PARTS = ("datasets", "ops", "ops.misc", "transforms", "transforms.functional")  # of torchvision, that timm imports


class TimmBackbone(LinearHead):
    """A network of timm with a linear head on its embedding.

    Its activation map is what its own head says of each place alone, times the linear head's weights: of a CNN that
    averages over all places this is the class-activation map, of a transformer each patch token times the weights.
    """

    pretrained = True
    maps_can_be_cached = False
    reduction: Tensor  # [the network's input, size]
    means: Tensor  # [3, 1, 1], on the scale 0..255
    scales: Tensor

    def __init__(self, classes: int, name: str, size: int = SIZE) -> None:
        record = weights.read(name)
        backbone = _create(name)
        with torch.inference_mode():
            maps = _maps(name, backbone, record.size)
            features = backbone.forward_head(maps, pre_logits=True).shape[1]
        super().__init__(classes, features, size, dropout=0.2)
        self.record, self.backbone = record, backbone
        reduction = F.interpolate(torch.eye(size)[None, None], (record.size, size), mode="bilinear", antialias=True)
        self.register_buffer("reduction", reduction[0, 0])
        self.register_buffer("means", 255 * torch.tensor(record.mean)[:, None, None])
        self.register_buffer("scales", 255 * torch.tensor(record.std)[:, None, None])
        self.tokens = maps.ndim == 3
        self.channels_last = getattr(backbone, "output_fmt", "NCHW") == "NHWC"
        self.prefix = getattr(backbone, "num_prefix_tokens", 0)
        if self.tokens:
            self.grid = _grid(backbone, maps.shape[1] - self.prefix)
        else:
            rows, columns = maps.shape[1:3] if self.channels_last else maps.shape[2:]
            self.grid = rows, columns

    def normalise(self, pixels: Tensor) -> Tensor:
        """uint8 [N, height, width, 3] RGB -> float [N, 3, height, width], with a mean and scale a channel."""
        inputs = pixels.permute(0, 3, 1, 2).to(torch.float32)
        return inputs.sub_(self.means).div_(self.scales)

    def forward_features(self, inputs: Tensor) -> Tensor:
        """[N, 3, 300, 300] -> the network's own maps: [N, c, h, w], [N, h, w, c] or tokens [N, t, c]."""
        maps: Tensor = self.backbone.forward_features(self.reduction @ inputs @ self.reduction.T)
        return maps

    def embed(self, maps: Tensor) -> Tensor:
        """Maps -> [N, features]."""
        embedding: Tensor = self.backbone.forward_head(maps, pre_logits=True)
        return embedding

    def cam(self, maps: Tensor) -> Tensor:
        """Maps -> [N, width, h, w]."""
        return self.cam_of(maps, self.head.weight)

    def cam_of(self, maps: Tensor, weight: Tensor) -> Tensor:
        """Maps -> [N, width, h, w]."""
        if self.tokens:  # as many copies of a token as the network's pooling passes over, and one
            alone = maps[:, self.prefix :].flatten(0, 1)[:, None].expand(-1, self.prefix + 1, -1)
        elif self.channels_last:
            alone = maps.flatten(0, 2)[:, None, None]
        else:
            alone = maps.permute(0, 2, 3, 1).flatten(0, 2)[:, :, None, None]
        added = self.embed(alone) @ weight.T
        return added.view(-1, *self.grid, len(weight)).permute(0, 3, 1, 2)

    def unfreeze_last(self, blocks: int) -> list[nn.Parameter]:
        """What timm groups as the last `blocks` and what lies behind them is trained with the head."""
        self.requires_grad_(False)
        self.head.requires_grad_(True)
        if not blocks:
            return []
        from timm.models import group_parameters

        groups = group_parameters(self.backbone, self.backbone.group_matcher(coarse=False), reverse=True)
        trained = sorted(set(groups.values()))[-blocks - 1 :]  # the last group is the norm behind the blocks
        backbone = [one for name, one in self.backbone.named_parameters() if groups[name] in trained]
        for parameter in backbone:
            parameter.requires_grad_(True)
        return backbone

    def forward_frozen(self, inputs: Tensor, blocks: int) -> Tensor:
        """[N, 3, 300, 300] -> the embedding [N, features]; there is no general place to cut a network in two."""
        assert not blocks
        return self.embed(self.forward_features(inputs))

    def train(self, mode: bool = True) -> Self:
        """Training mode of the dropout alone: the backbone stays in evaluation mode."""
        super().train(mode)
        self.backbone.eval()
        return self

    def load_pretrained(self) -> None:
        """Read the weights of the store into the backbone; PawprintError where they are missing or others."""
        self.backbone.load_state_dict(self._whole().state_dict(), strict=False)  # its classifier is left out

    def class_scores(self) -> tuple[Tensor, Tensor] | None:
        """Of the classes that the weights' own classifier knows, where it is linear."""
        classifier = self._whole().get_classifier() if self.record.classes else None
        if not isinstance(classifier, nn.Linear) or classifier.in_features != self.features or classifier.bias is None:
            return None
        return classifier.weight.detach(), classifier.bias.detach()

    def _whole(self) -> Any:
        return _filled(self.record.name, self.record.tensors(), self.record.classes)


def about(name: str) -> dict[str, Any]:
    """What timm knows of `name`: size, mean and std of its input, licence, the hub's repository, or ""."""
    found = _timm().get_pretrained_cfg(_architecture(name))
    if found is None:
        raise _unknown(name)
    repository = found.hf_hub_id or ""
    return {
        "size": found.input_size[1],
        "mean": tuple(found.mean),
        "std": tuple(found.std),
        "licence": (found.license or "").lower(),
        "repository": f"{repository}{_architecture(name)}" if repository.endswith("/") else repository,
    }


def search(word: str) -> list[tuple[str, int, str]]:
    """(name, side of the input, licence) of every network with pretrained weights whose name holds `word`."""
    names = _timm().list_models(f"*{word}*", pretrained=True)
    return [(PREFIX + name, (found := about(PREFIX + name))["size"], found["licence"]) for name in names]


def fit_check(name: str, tensors: dict[str, Tensor]) -> int:
    """How many classes the classifier of a file knows; PawprintError where its tensors do not fit the network."""
    classifier = _create(name).pretrained_cfg.get("classifier")
    first = classifier if isinstance(classifier, str) or not classifier else classifier[0]
    weight = tensors.get(f"{first}.weight")
    classes = 0 if weight is None else len(weight)
    _maps(name, _filled(name, tensors, classes), about(name)["size"])
    return classes


def _maps(name: str, backbone: Any, size: int) -> Tensor:
    """What the network gives for a black photograph. PawprintError where that is no single map."""
    with torch.inference_mode():
        maps = backbone.eval().forward_features(torch.zeros(1, 3, size, size))
    if not isinstance(maps, Tensor) or maps.ndim not in (3, 4):
        raise PawprintError(f"{name} gives no single feature map, so it cannot be a backbone here. Take another.")
    return maps


def _filled(name: str, tensors: dict[str, Tensor], classes: int) -> Any:
    """The network with its own classifier and the tensors of a file, each in its place."""
    overlay = {"state_dict": tensors, "custom_load": False, "num_classes": classes}
    try:
        return (
            _timm()
            .create_model(_architecture(name), pretrained=True, num_classes=classes, pretrained_cfg_overlay=overlay)
            .eval()
        )
    except (RuntimeError, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise PawprintError(
            f"The file holds other weights than those of {name}: {reason}. Name another file."
        ) from None


def _create(name: str) -> Any:
    try:
        return _timm().create_model(_architecture(name), pretrained=False, num_classes=0)
    except (RuntimeError, ValueError) as error:
        if "Unknown model" not in str(error) and "Invalid pretrained tag" not in str(error):
            raise
        raise _unknown(name) from None


def _architecture(name: str) -> str:
    return name.removeprefix(PREFIX)


def _unknown(name: str) -> PawprintError:
    import difflib

    near = difflib.get_close_matches(_architecture(name), _timm().list_models(pretrained=True), n=3, cutoff=0.4)
    said = f" Near are {', '.join(PREFIX + one for one in near)}." if near else ""
    return PawprintError(
        f"timm has no network {_architecture(name)!r}.{said} `pawprint models search WORD` lists names."
    )


def _grid(backbone: Any, places: int) -> tuple[int, int]:
    """(rows, columns) of the patch tokens."""
    given = getattr(getattr(backbone, "patch_embed", None), "grid_size", None)
    side = round(places**0.5)
    grid = tuple(given) if given and given[0] * given[1] == places else (side, side)
    if grid[0] * grid[1] != places:
        raise PawprintError(
            f"The {places} tokens of this network lie on no grid, so it has no activation map. Take another."
        )
    return grid


@cache
def _timm() -> Any:
    """The package timm."""
    if "timm" in sys.modules or _works("torchvision"):
        return _imported()
    names = ["torchvision", *(f"torchvision.{part}" for part in _PARTS)]
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]  # of an import that failed half-way
    sys.modules.update({name: _StandIn(name) for name in names})
    try:
        return _imported()
    finally:
        for name in names:
            del sys.modules[name]


def _imported() -> Any:
    try:
        import timm
    except ModuleNotFoundError as error:
        if error.name != "timm":
            raise
        raise PawprintError(weights.timm_missing()) from None
    return timm


def _works(package: str) -> bool:
    try:
        __import__(package)
    except (ImportError, RuntimeError, OSError):  # RuntimeError: built for another torch
        return False
    return True


class _StandIn(types.ModuleType):
    """A part of torchvision with a class of any name that is asked for."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__ = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return sys.modules.get(f"{self.__name__}.{name}") or _AnyMember(name, (), {})


class _AnyMember(type):
    """A class whose members, such as an enumeration's, are their own names."""

    def __getattr__(cls, name: str) -> str:
        if name.startswith("__"):
            raise AttributeError(name)
        return name

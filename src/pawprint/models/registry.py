"""The architectures by name: `create_model` makes one, `describe` prints its layers.

    pawprint models list
    pawprint models describe article_cnn

To add an architecture, write one file with a subclass of `Network` and one line in ARCHITECTURES. Any network of timm
has the name timm/<its name there>, once `pawprint models add` has brought its weights.
"""

from collections.abc import Callable

from pawprint.config import TOGETHER, Candidate, Params
from pawprint.errors import PawprintError
from pawprint.image import SIZE
from pawprint.lineage import Pretrained
from pawprint.models import weights
from pawprint.models.article_cnn import ArticleCNN
from pawprint.models.backbone import Network, PooledNetwork
from pawprint.models.deep_cnn import DeepCNN
from pawprint.models.efficientnet_lite import EfficientNetLite, EfficientNetLite0, EfficientNetLite1, EfficientNetLite2
from pawprint.models.mlp import MLP
from pawprint.models.side_by_side import SideBySide
from pawprint.models.timm_backbone import PREFIX, TimmBackbone

ARCHITECTURES: dict[str, Callable[[int, int], Network]] = {
    "article_cnn": ArticleCNN,
    "deep_cnn": DeepCNN,
    "efficientnet_lite0": EfficientNetLite0,
    "efficientnet_lite1": EfficientNetLite1,
    "efficientnet_lite2": EfficientNetLite2,
    "mlp": MLP,
}


def check(params: Params) -> None:
    """Refuse a candidate that cannot be trained, whichever is trained first.

    Raises:
        PawprintError: Its architecture is unknown, or it trains a part of one that is not pretrained,
            or its weights are not installed.
    """
    for name, candidate in params.candidates.items():
        members = candidate.architecture.split(TOGETHER)
        if len(members) > 1 and candidate.train != "head":
            raise PawprintError(
                f"params.yaml: `candidates.{name}`: networks side by side have one head, and only that is trained. Set "
                "`train: head`."
            )
        for member in members:
            _check_one(name, member, candidate)


def _check_one(name: str, architecture: str, candidate: Candidate) -> None:
    if architecture.startswith(PREFIX):
        weights.read(architecture).check()
    elif (known := ARCHITECTURES.get(architecture)) is None:
        raise _unknown(f"`candidates.{name}.architecture`: ", architecture)
    elif candidate.train != "all" and not getattr(known, "pretrained", False):
        raise PawprintError(
            f"params.yaml: `candidates.{name}.train: {candidate.train}` needs a pretrained backbone, which "
            f"{architecture} does not have. Set `train: all`."
        )
    elif candidate.train != "all" and isinstance(known, type) and issubclass(known, EfficientNetLite):
        known.check()
    pooled = isinstance(known := ARCHITECTURES.get(architecture), type) and issubclass(known, PooledNetwork)
    if candidate.train_sizes and not pooled:
        raise PawprintError(
            f"params.yaml: `candidates.{name}.train_sizes` needs a network for any size, and {architecture} is made "
            "for one. Set it to []."
        )


def create_model(name: str, classes: int = 2, size: int = SIZE) -> Network:
    """The architecture called `name` for photographs of `size` pixels a side, with fresh weights.

    Raises:
        PawprintError: There is none; the known names.
    """
    if TOGETHER in name:
        return SideBySide(classes, [create_model(member, classes, size) for member in name.split(TOGETHER)])
    if name.startswith(PREFIX):
        return TimmBackbone(classes, name, size)
    if name not in ARCHITECTURES:
        raise _unknown("", name)
    return ARCHITECTURES[name](classes, size)


def pretrained(name: str) -> tuple[Pretrained, ...]:
    """The weights that a training of the architecture called `name` starts from; none of one from scratch."""
    if TOGETHER in name:
        return tuple(one for member in name.split(TOGETHER) for one in pretrained(member))
    if name.startswith(PREFIX):
        return (Pretrained.model_validate(weights.read(name), from_attributes=True),)
    known = ARCHITECTURES.get(name)
    return known.weights() if isinstance(known, type) and issubclass(known, EfficientNetLite) else ()


def describe(name: str, classes: int = 2, size: int = SIZE) -> str:
    """A table of layer, output shape and parameters for one photograph, as torchinfo draws it."""
    from torchinfo import summary  # not needed to train

    shape, columns = (1, 3, size, size), ("output_size", "num_params")
    network = create_model(name, classes, size).eval()
    return str(summary(network, shape, col_names=columns, row_settings=("var_names",), device="cpu", verbose=0))


def parameters(network: Network) -> int:
    """Trained and frozen together."""
    return sum(parameter.numel() for parameter in network.parameters())


def _unknown(where: str, name: str) -> PawprintError:
    if name.startswith(("torchvision/", "hf/")):
        return PawprintError(f"params.yaml: {where}there is no architecture {name!r}. {weights.instead(name)}")
    return PawprintError(
        f"params.yaml: {where}there is no architecture {name!r}. Known are {', '.join(sorted(ARCHITECTURES))}, and "
        "timm/NAME of `pawprint models search WORD`."
    )

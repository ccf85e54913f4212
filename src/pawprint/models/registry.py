"""The architectures by name: `create_model` makes one, `describe` prints its layers.

    pawprint models list
    pawprint models describe article_cnn

To add an architecture, write one file with a subclass of `Network` and one line in ARCHITECTURES.
"""

from collections.abc import Callable

from pawprint import image
from pawprint.config import Params
from pawprint.errors import PawprintError
from pawprint.models.article_cnn import ArticleCNN
from pawprint.models.backbone import Network
from pawprint.models.deep_cnn import DeepCNN
from pawprint.models.efficientnet_lite import EfficientNetLite0, EfficientNetLite1, EfficientNetLite2
from pawprint.models.mlp import MLP

ARCHITECTURES: dict[str, Callable[[int], Network]] = {
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
        PawprintError: Its architecture is unknown, or it trains a part of one that is not pretrained.
    """
    for name, candidate in params.candidates.items():
        known = ARCHITECTURES.get(candidate.architecture)
        if known is None:
            raise PawprintError(
                f"params.yaml: `candidates.{name}.architecture`: there is no architecture {candidate.architecture!r}. "
                f"Known are {', '.join(sorted(ARCHITECTURES))}."
            )
        if candidate.train != "all" and not getattr(known, "pretrained", False):
            raise PawprintError(
                f"params.yaml: `candidates.{name}.train: {candidate.train}` needs a pretrained backbone, which "
                f"{candidate.architecture} does not have. Set `train: all`."
            )


def create_model(name: str, classes: int = 2) -> Network:
    """The architecture called `name` with fresh weights; PawprintError with the known names if there is none."""
    if name not in ARCHITECTURES:
        raise PawprintError(
            f"params.yaml: there is no architecture {name!r}. Known are {', '.join(sorted(ARCHITECTURES))}."
        )
    return ARCHITECTURES[name](classes)


def describe(name: str, classes: int = 2) -> str:
    """A table of layer, output shape and parameters for one photograph, as torchinfo draws it."""
    from torchinfo import summary  # not needed to train

    shape, columns = (1, 3, image.SIZE, image.SIZE), ("output_size", "num_params")
    network = create_model(name, classes).eval()
    return str(summary(network, shape, col_names=columns, row_settings=("var_names",), device="cpu", verbose=0))


def parameters(network: Network) -> int:
    """Trained and frozen together."""
    return sum(parameter.numel() for parameter in network.parameters())

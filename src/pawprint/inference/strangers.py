"""Pictures of something else that a person gives (`refusal.strangers`): never a class, only what should be refused.

measured = read(Path("strangers"), params.preprocess, "untouched")     # uint8 [m, size, size, 3]
"""

import hashlib
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pawprint import image
from pawprint.config import Preprocess
from pawprint.errors import PawprintError
from pawprint.inference.classifier import find_pictures

MOST = 2000  # pictures of a folder, spread by their content
Half = Literal["all", "tuned", "untouched"]  # by the content's hash: one for a threshold, one for what comes of it


def read(folder: Path, how: Preprocess, half: Half) -> NDArray[np.uint8]:
    """The pictures below `folder`, prepared as photographs are: uint8 [m, size, size, 3]; what is no picture is left
    out.

    Raises:
        PawprintError: it is in data/, or holds no picture, or none in that half.
    """
    if not folder.is_dir():
        raise PawprintError(f"`refusal.strangers` names {folder}, which is no folder. Name one, or leave it empty.")
    if folder.resolve().is_relative_to(Path("data").resolve()):
        raise PawprintError(f"`refusal.strangers` names {folder}, which is in data/. Name one outside of it.")
    contents = {
        hashlib.sha256(content).digest(): content for content in (one.read_bytes() for one in find_pictures([folder]))
    }
    odd = {"all": (0, 1), "tuned": (0,), "untouched": (1,)}[half]
    found = []
    for digest, content in sorted(contents.items(), key=lambda one: one[0][1:])[:MOST]:
        if digest[0] % 2 not in odd:
            continue
        try:
            found.append(image.load(content, how.fit, how.quality, size=how.size))
        except image.BadImage:
            continue
    if not found:
        few = "" if half == "all" else f" in its {half} half"
        raise PawprintError(
            f"{folder} holds no photograph that can be read{few}. Name another folder in `refusal.strangers`."
        )
    return np.stack(found)

"""Device and precision: what is requested, and what this machine executes."""

import pytest
import torch

from pawprint.config import Training
from pawprint.errors import PawprintError
from pawprint.training import devices
from prepared_set import params


def test_a_device_that_is_not_there_is_named() -> None:
    missing = "mps" if not torch.backends.mps.is_available() else "cuda"
    with pytest.raises(PawprintError, match=rf"training.device.*{missing}"):
        devices.resolve(Training(device=missing))
    assert devices.resolve(Training(device="cpu")).type == "cpu"


@pytest.mark.parametrize(
    ("capabilities", "mkldnn", "precision"),
    [
        ({"avx512_bf16": True}, True, "bfloat16"),
        ({"amx_bf16": True}, True, "bfloat16"),
        ({"avx2": True}, False, "float32"),
        ({"avx512_f": True}, True, "float32"),  # emulated there
        ({"bf16": True}, False, "float32"),  # an Arm machine without oneDNN
    ],
)
def test_automatic_precision_is_what_the_processor_computes_in(
    capabilities: dict[str, bool], mkldnn: bool, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: mkldnn)
    given = params("article_cnn")
    assert given.training.precision == "auto"
    assert devices.resolve_precision(given).training.precision == precision
    assert devices.describe(given).startswith(f"cpu {precision} ")
    assert devices.execution(given)["precision"] == precision
    named = given.model_copy(update={"training": given.training.model_copy(update={"precision": "bfloat16"})})
    assert devices.resolve_precision(named) is named

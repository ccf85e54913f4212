"""The lock: what must not be in it, because it breaks what is."""

import re
from pathlib import Path

LOCK = Path(__file__).parents[2] / "requirements.lock"


def locked() -> dict[str, str]:
    found = re.findall(r"^([a-z0-9][\w.-]*)(?:\[[\w,]+\])?==([^\s;\\]+)", LOCK.read_text(), flags=re.MULTILINE)
    return {name.lower().replace("_", "-"): version for name, version in found}


def test_no_torchvision_and_no_timm() -> None:
    """PyPI's torchvision is a CUDA build and breaks torchmetrics and mlflow.pytorch with a CPU torch; timm needs it."""
    assert not {"torchvision", "timm"} & set(locked())
    assert "torch" not in locked()  # a line of its own in the installation, for the CPU or the CUDA build


def test_fastapi_is_one_that_prefect_can_use() -> None:
    major, minor = (int(part) for part in locked()["fastapi"].split(".")[:2])
    assert (0, 139) <= (major, minor) < (0, 151)


def test_every_package_is_pinned_by_hash() -> None:
    entries = LOCK.read_text().replace("\\\n", " ").splitlines()
    packages = [entry for entry in entries if re.match(r"[a-z0-9]", entry)]
    assert len(packages) == len(locked())
    assert all("--hash=sha256:" in entry for entry in packages)

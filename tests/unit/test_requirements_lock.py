"""The locks: every package by hash, one version a name, and nothing that breaks what is installed."""

import platform
import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HASHED = ["requirements.lock", "requirements-dev.lock"]
HASHED += sorted(
    str(path.relative_to(ROOT)) for folder in ("deploy", "locks") for path in (ROOT / folder).glob("*.lock")
)


def locked(name: str) -> list[tuple[str, str, str]]:
    """(package, version, the rest of its entry: marker and hashes) of each entry of a lock."""
    entries = (ROOT / name).read_text().replace("\\\n", " ").splitlines()
    found = (re.match(r"([a-z0-9][\w.-]*)(?:\[[\w,]+\])?={2,3}([^\s;]+)(.*)", entry) for entry in entries)
    return [(match[1], match[2], match[3]) for match in found if match]


def test_timm_is_in_locks_of_its_own_and_torchvision_in_none() -> None:
    """PyPI's torchvision is CUDA's and fails beside a CPU torch; timm does without it (models/timm_backbone.py)."""
    names = {name: {package for package, _, _ in locked(name)} for name in HASHED}
    assert not [name for name, found in names.items() if "torchvision" in found]
    assert [name for name, found in names.items() if "timm" in found] == ["requirements-dev.lock", "locks/timm.lock"]
    assert names["locks/timm.lock"] <= names["requirements-dev.lock"]
    assert not names["locks/timm.lock"] & names["requirements.lock"]  # it is installed beside it


def test_torch_and_its_cuda_packages_are_in_their_own_locks_alone() -> None:
    torch = re.findall(r'"torch==([^"]+)"', (ROOT / "pyproject.toml").read_text())[0]
    for name in ("requirements.lock", "requirements-dev.lock", "deploy/requirements.lock", "deploy/serve.lock"):
        assert not [one for one, _, _ in locked(name) if re.match(r"torch$|triton|cuda-|nvidia-(?!ml-py)", one)]
    assert ("torch", torch) in [entry[:2] for entry in locked("locks/torch-cuda.lock")]
    cpu = {version: rest for _, version, rest in locked("locks/torch-cpu.lock")}
    assert cpu.keys() == {torch, f"{torch}+cpu"}
    assert cpu[f"{torch}+cpu"].count("--hash=") >= 6  # Python 3.11, 3.12 and 3.13, for x86-64 and ARM


def test_fastapi_is_one_that_prefect_can_use() -> None:
    versions = {package: version for package, version, _ in locked("requirements.lock")}
    major, minor = (int(part) for part in versions["fastapi"].split(".")[:2])
    assert (0, 139) <= (major, minor) < (0, 151)


@pytest.mark.parametrize("name", HASHED)
def test_every_package_is_pinned_by_hash_and_no_index_is_named(name: str) -> None:
    text = (ROOT / name).read_text()
    entries = [line for line in text.splitlines() if re.match(r"[^\s#]", line)]
    assert entries
    assert len(entries) == len(locked(name))
    assert all("--hash=sha256:" in rest for _, _, rest in locked(name))
    assert "://" not in text


def test_one_version_a_name_in_all_locks() -> None:
    versions: dict[str, set[str]] = {}
    for name in HASHED:
        for package, version, _ in locked(name):
            versions.setdefault(package, set()).add(version.removesuffix("+cpu"))
    assert not {package: found for package, found in versions.items() if len(found) > 1}


@pytest.mark.parametrize("path", sorted((ROOT / "deploy").glob("Dockerfile*")), ids=lambda path: path.name)
def test_an_image_installs_nothing_without_a_hash(path: Path) -> None:
    commands = re.sub(r"\\\n", " ", path.read_text())
    installs = re.findall(r"pip3? (?:install|sync) ([^\n&|;]*)", commands)
    assert installs
    for arguments in installs:
        own = arguments.split()[-1] == "." and "--no-deps" in arguments and "--no-build-isolation" in arguments
        locks = [word.strip('"') for word in arguments.split() if word.strip('"').endswith(".lock")]
        assert own or ("--require-hashes" in arguments and "--no-deps" in arguments and locks), arguments


def test_the_locks_are_for_every_python_of_the_project() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"] == ">=3.11,<3.14"
    rests = {package: rest for package, _, rest in locked("requirements.lock")}
    assert "sys_platform != 'win32'" in rests["uvloop"]
    for package in ("numpy", "onnxruntime", "openvino"):
        assert rests[package].count("--hash=") > 9, f"{package} is locked for one Python or system only"


@pytest.mark.skipif(
    (sys.platform, platform.machine(), sys.version_info[:2]) != ("linux", "x86_64", (3, 11)),
    reason="wheels for another system have other sizes",
)
def test_the_sizes_on_the_page_are_those_of_what_is_installed() -> None:
    page = (ROOT / "docs" / "decisions" / "dependencies.md").read_text()
    rows = re.findall(r"^\| ([\w, -]+) \| (\d+(?: to \d+)?) \| [^|]+ \|$", page, re.MULTILINE)
    assert len(rows) > 12
    stale = []
    for words, shown in rows:
        sizes = [int(size) for size in (shown.split(" to ") * 2)[:2]]  # of wheels for an older and a newer glibc
        names = [f"mlflow{name}" if name[0] == "-" else name for name in re.split(r", with |, | with ", words)]
        files = [file for name in names for file in metadata.files(name) or ()]
        megabytes = sum(file.size or 0 for file in files) / 1e6
        if not sizes[0] - 1 <= megabytes <= sizes[1] + 1 and not (words == "torch" and megabytes > 800):  # CUDA's build
            stale.append(f"{words}: {shown} MB on the page, {megabytes:.0f} installed")
    assert not stale

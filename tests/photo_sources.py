"""Small archives in the layouts that people bring: what the tests of sources share."""

import io
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from odd_pictures import photograph


def small(seed: int) -> bytes:
    """A JPEG that no other seed gives."""
    return photograph(seed, width=40, height=30)


def zipped(path: Path, members: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def tarred(path: Path, members: Mapping[str, bytes], *others: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
        for entry in others:
            archive.addfile(entry)
    return path


def unpacked(path: Path, members: Mapping[str, bytes]) -> Path:
    for name, data in members.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def folders(root: Path, **classes: int) -> Path:
    """root/<class>/<n>.jpg."""
    for number, (label, count) in enumerate(classes.items()):
        (root / label).mkdir(parents=True)
        for index in range(count):
            (root / label / f"{index}.jpg").write_bytes(photograph(1000 * number + index, width=60, height=40))
    return root


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below `folder`, by its path."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def pets(start: int = 0, count: int = 3) -> dict[str, bytes]:
    """cat/<n>.jpg and dog/<n>.jpg."""
    return {
        f"{kind}/{n}.jpg": small(start + n + 500 * (kind == "dog")) for kind in ("cat", "dog") for n in range(count)
    }


KAGGLE = {f"train/{kind}.{n}.jpg": small(n + 500 * (kind == "dog")) for kind in ("cat", "dog") for n in range(3)}

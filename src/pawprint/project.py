"""The files that a project is made of: those at the top of this repository, which a wheel carries as package data.

for name, content in files(): ...    # what `pawprint init` writes
"""

from collections.abc import Iterator
from pathlib import Path

PARTS = (
    ".dvc/.gitignore", ".dvc/config", ".dvcignore", ".gitattributes", ".gitignore", "Makefile", "bentofile.yaml",
    "deploy", "docker-compose.gpu.yml", "docker-compose.yml", "dvc.yaml", "flows", "locks", "params.yaml",
    "requirements.lock", "weights/README.md",
)  # fmt: skip
RECORD = ".pawprint.json"  # the version that wrote a project's files, and the digest of each
SAMPLE = ("data.dvc", "sample")
_PACKAGE = Path(__file__).resolve().parent


def top() -> Path:
    """Where the files are: in the installed package, or at the top of a checkout."""
    carried = _PACKAGE / "project"
    return carried if carried.is_dir() else _PACKAGE.parents[1]


def files(parts: tuple[str, ...] = PARTS, folder: Path | None = None) -> Iterator[tuple[str, Path]]:
    """(path below a project, file) of each file of `parts` in `folder`; of `top()` by default."""
    folder = folder or top()
    for part in parts:
        place = folder / part
        for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if path.is_file() and "__pycache__" not in path.parts:
                yield path.relative_to(folder).as_posix(), path

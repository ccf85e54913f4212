"""Static import closure of a module of this project: what its behaviour can depend on."""

import ast
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]


def closure(module: str) -> set[str]:
    """Paths below the project of `module` and of all that it imports, directly or not, at the top or in a function."""
    found: set[Path] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        for path in _files(name):
            if path not in found:
                found.add(path)
                waiting += _imports(path)
    return {path.relative_to(PROJECT).as_posix() for path in found}


def _files(module: str) -> list[Path]:
    """The module's file and the __init__ files of its packages."""
    parts = module.split(".")
    base = PROJECT / "src" if parts[0] == "pawprint" else PROJECT
    files = [base.joinpath(*parts[:end], "__init__.py") for end in range(1, len(parts) + 1)]
    return [path for path in (*files, base.joinpath(*parts).with_suffix(".py")) if path.is_file()]


def _imports(path: Path) -> list[str]:
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [name for name in names if name.split(".")[0] in ("pawprint", "flows")]

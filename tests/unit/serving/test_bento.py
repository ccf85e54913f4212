"""What goes into a Bento."""

import re
import tomllib
from pathlib import Path

from pawprint.serving import bento

ROOT = Path(__file__).parents[3]


def locked(path: str) -> dict[str, str]:
    found = re.findall(r"^([a-z0-9][\w.-]*)==([^\s;\\]+)", (ROOT / path).read_text(), flags=re.MULTILINE)
    return dict(found)


def test_the_packages_of_a_bento_are_locked_at_the_versions_that_were_tested() -> None:
    serve, everything = locked("deploy/serve.lock"), locked("requirements.lock")
    group = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]["serve"]
    assert {re.split("[;<>= ]", name)[0] for name in group} <= set(serve)
    assert serve.items() <= everything.items()
    assert not {"torch", "mlflow", "dvc", "prefect"} & set(serve)


def test_the_self_test_takes_photographs_of_any_format(tmp_path: Path) -> None:
    for name in ("ok/1.PNG", "defect/deep/2.webp", "ok/notes.txt", ".hidden/3.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    assert bento._one_of_each_class(tmp_path) == {"0.jpg": b"defect/deep/2.webp", "1.jpg": b"ok/1.PNG"}

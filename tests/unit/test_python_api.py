"""docs/python-api.md and the notebook, executed; and that `import pawprint` and `--help` import nothing heavy."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pawprint
from pawprint.errors import PawprintError
from toy import build_toy_model

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def project(toy_model: Path, pictures: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a champion and photographs, which the code runs in."""
    build_toy_model(tmp_path / "champion")
    for folder in ("photographs", "data"):
        for label in ("red", "blue"):
            (tmp_path / folder / label).mkdir(parents=True)
            (tmp_path / folder / label / "1.jpg").write_bytes(pictures[label])
    (tmp_path / "cat.jpg").write_bytes(pictures["red"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    return tmp_path


def test_every_example_of_the_page_runs(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    examples = re.findall(r"```python\n(.*?)```", (DOCS / "python-api.md").read_text(), re.DOTALL)
    assert len(examples) == 6
    names: dict[str, object] = {}
    for example in examples:
        exec(example, names)
    printed = capsys.readouterr().out
    assert printed.startswith("red {'blue': 0")
    assert "photographs/blue/1.jpg blue" in printed
    assert "[[1, 0], [0, 1]]" in printed
    assert "is no model folder" in printed


def test_every_cell_of_the_notebook_runs(project: Path) -> None:
    notebook = json.loads((DOCS / "notebooks" / "first-steps.ipynb").read_text())
    cells = [cell["source"] for cell in notebook["cells"] if cell["cell_type"] == "code"]
    names: dict[str, object] = {}
    for cell in cells:
        exec(cell, names)
    assert names["result"].label == "blue"  # type: ignore[attr-defined]
    assert names["evaluation"].mistakes == 0  # type: ignore[attr-defined]


def test_a_picture_may_be_a_path_bytes_pixels_or_a_pil_image(project: Path, pictures: dict[str, bytes]) -> None:
    classifier = pawprint.Classifier.load("champion")
    with Image.open("cat.jpg") as picture:
        given = ["cat.jpg", Path("cat.jpg"), pictures["red"], picture.copy(), np.asarray(picture)]
    assert {classifier(one).label for one in given} == {"red"}


def test_what_cannot_be_evaluated_is_a_sentence(project: Path) -> None:
    with pytest.raises(PawprintError, match="nowhere holds no folders"):
        pawprint.evaluate("champion", "nowhere")
    (project / "photographs" / "green").mkdir()
    with pytest.raises(PawprintError, match="green is no class of this model, which knows blue, red"):
        pawprint.evaluate("champion", "photographs")
    (project / "photographs" / "green").rmdir()
    (project / "photographs" / "red" / "2.jpg").write_bytes(b"no picture")
    with pytest.raises(PawprintError, match=r"red/2\.jpg: .* Mend it"):
        pawprint.evaluate("champion", "photographs")


HELP = """
import sys
from pawprint.cli.main import main
sys.argv = ["pawprint", "--help"]
try:
    main()
except SystemExit:
    pass
"""


@pytest.mark.parametrize("code", ["import pawprint", HELP])
def test_nothing_heavy_is_imported_before_it_is_needed(code: str) -> None:
    heavy = (
        "numpy torch cv2 openvino onnxruntime mlflow prefect bentoml dvc sklearn matplotlib PIL pandas fcntl resource"
    )
    if "--help" in code:
        heavy = heavy.replace(" fcntl", "")  # click's terminal uses it where it is
    ask = f"{code}\nimport sys; print('imported:', *(set({heavy.split()}) & set(sys.modules)), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "imported:"


def test_no_module_imports_what_windows_lacks() -> None:
    lacking = r"^(?:import|from) (?:fcntl|resource|pwd|grp|termios|tty|pty|readline|posix|syslog|curses)\b"
    source = Path(__file__).parents[2]
    files = [path for folder in ("src", "flows", "scripts") for path in (source / folder).rglob("*.py")]
    found = [path.name for path in files if re.search(lacking, path.read_text(encoding="utf-8"), re.MULTILINE)]
    assert len(files) > 100
    assert not found


def test_documents_name_tests_and_benchmarks_that_exist() -> None:
    root = DOCS.parent
    pages = "\n".join(path.read_text(encoding="utf-8") for path in [*DOCS.rglob("*.md"), *root.glob("*.md")])
    named = set(re.findall(r"\b(?:tests|benchmarks)/[\w/]+\.py\b", pages))
    assert named
    assert [name for name in sorted(named) if not (root / name).exists()] == []

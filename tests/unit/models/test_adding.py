"""docs/adding-an-architecture.md, done: its file, its line and its candidate give a model that answers."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from prepared_set import drawings

PROJECT = Path(__file__).parents[3]
TRAIN = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from prepared_set import Memory
import pawprint
from pawprint.lineage import Lineage
from pawprint.config import load_params
from pawprint.data.dataset import PreparedDataset
from pawprint.inference.classifier import Classifier
from pawprint.training.export import export
from pawprint.training.train import fit

assert Path(pawprint.__file__).is_relative_to(Path.cwd())
data, params, out = PreparedDataset.open(Path(sys.argv[2])), load_params(), Path("models/wide_cnn")
lineage = Lineage(git_commit="", git_dirty=False, dataset="sample", data_hash="", manifest_digest="",
                  params_digest="", lock_digest="", seed=0, device="cpu")
export(fit("wide_cnn", params, data, Memory()), data, lineage, out, Memory())
answers = Classifier(out).predict(data.split("test").images([0, 0, 0]))
print("answered", answers.probabilities.shape, answers.embedding.shape, answers.activation.shape)
"""


@pytest.mark.slow
def test_one_file_and_one_line_are_a_candidate(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    page = (PROJECT / "docs" / "adding-an-architecture.md").read_text()
    file, import_, line, candidate = re.findall(r"```(?:python|yaml)\n(.*?)```", page, re.DOTALL)
    source = tmp_path / "src" / "pawprint"
    shutil.copytree(PROJECT / "src" / "pawprint", source, ignore=shutil.ignore_patterns("__pycache__"))
    (source / "models" / "wide_cnn.py").write_text(file)
    registry = (source / "models" / "registry.py").read_text()
    above = "from pawprint.models.article_cnn import ArticleCNN\n"
    assert above in registry
    registry = registry.replace(above, above + import_)
    (source / "models" / "registry.py").write_text(registry.replace('    "mlp": MLP,\n', f'    "mlp": MLP,\n{line}'))
    params = yaml.safe_load((PROJECT / "params.yaml").read_text())
    params["training"]["device"] = "cpu"
    params["candidates"] |= yaml.safe_load(candidate)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))

    environment = os.environ | {"PYTHONPATH": str(tmp_path / "src"), "PAWPRINT_CACHE": str(tmp_path / "cache")}

    def run(*words: str) -> str:
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    command = "from pawprint.cli.main import main; main()"
    listed = run(sys.executable, "-c", command, "models", "list")
    assert re.search(r"^wide_cnn +Three strided convolutions", listed, re.MULTILINE)
    data = drawings(tmp_path_factory.mktemp("drawings"), per_class=12)
    tests = str(PROJECT / "tests")
    assert "answered (3, 2) (3, 32) (3, 1, 8, 8)" in run(sys.executable, "-c", TRAIN, tests, str(data.folder))

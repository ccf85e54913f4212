"""The files of a release: everything about a model that is served.

reports/releases/<data set>-v<version>/ holds MODEL_CARD.md, evaluation.json, gate.md, gate.json, lineage.json and
sbom.cdx.json; the run in MLflow keeps the same files under `release/`.

    write(folder, info, evidence, drawn, release, sbom)
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from pawprint.errors import PawprintError
from pawprint.evaluation import model_card
from pawprint.evaluation.evaluator import EvaluationReport
from pawprint.evaluation.gate import Verdict
from pawprint.files import replace_folder, write_text
from pawprint.inference.classifier import ModelInfo
from pawprint.lineage import Release

EVALUATION, GATE, TABLE = "evaluation.json", "gate.json", "gate.md"
SCORES = "test.csv"  # predictions photograph by photograph, beside EVALUATION


def write(
    folder: Path, info: ModelInfo, evidence: Mapping[str, Path], drawn: bool, release: Release, sbom: str
) -> None:
    """Fill `folder`, replacing what was there.

    `evidence` has files by EVALUATION, GATE and TABLE, as far as the run keeps them.

    Raises:
        PawprintError: nothing is kept of the model's evaluation, or it is damaged.
    """
    version = f"{release.model} version {release.version}"
    try:
        report = EvaluationReport.model_validate_json(evidence[EVALUATION].read_bytes())
        verdict = Verdict.model_validate_json(evidence[GATE].read_bytes()) if GATE in evidence else None
    except (OSError, KeyError, ValidationError):
        raise PawprintError(
            f"The run {release.run_id} of {version} keeps no evaluation (or a damaged one), so it cannot be released. "
            "Run `dvc repro --force evaluate register`, or `pawprint rollback` to an older version."
        ) from None
    card = model_card.model_card(info, report, drawn, version, verdict.reason if verdict else "")
    with replace_folder(folder) as fresh:
        for name, path in evidence.items():
            shutil.copyfile(path, fresh / name)
        write_text(fresh / "MODEL_CARD.md", card)
        write_text(fresh / "lineage.json", release.model_dump_json(indent=1) + "\n")
        write_text(fresh / "sbom.cdx.json", sbom)

"""A release dossier: what a person who was not there needs to know of a model that is served.

reports/releases/<data set>-v<version>/ holds MODEL_CARD.md, evaluation.json, gate.md, gate.json, lineage.json and
sbom.cdx.json; the run in MLflow keeps the same files under `release/`.

    write(folder, Dossier(info, evidence, drawn, release, sbom))
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from pawprint.errors import PawprintError
from pawprint.evaluation import model_card
from pawprint.evaluation.evaluator import EvaluationReport
from pawprint.evaluation.gate import Verdict
from pawprint.inference.classifier import ModelInfo
from pawprint.lineage import Release

EVALUATION, GATE, TABLE = "evaluation.json", "gate.json", "gate.md"


@dataclass(frozen=True)
class Dossier:
    """What it is written from."""

    info: ModelInfo
    evidence: Mapping[str, Path]  # EVALUATION, GATE, TABLE -> file, as far as the run keeps them
    drawn: bool
    release: Release
    sbom: str


def write(folder: Path, dossier: Dossier) -> None:
    """Fill `folder`, whole or not at all; one that was there is replaced.

    Raises:
        PawprintError: nothing is kept of the model's evaluation, or it is damaged.
    """
    release, evidence = dossier.release, dossier.evidence
    version = f"{release.model} version {release.version}"
    try:
        report = EvaluationReport.model_validate_json(evidence[EVALUATION].read_bytes())
        verdict = Verdict.model_validate_json(evidence[GATE].read_bytes()) if GATE in evidence else None
    except (OSError, KeyError, ValidationError):
        raise PawprintError(
            f"The run {release.run_id} of {version} keeps no evaluation (or a damaged one), so it cannot be released. "
            "Run `dvc repro --force evaluate register`, or `pawprint rollback` to an older version."
        ) from None
    fresh = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    for name, path in evidence.items():
        shutil.copyfile(path, fresh / name)
    why = verdict.reason if verdict else ""
    said = model_card.model_card(dossier.info, report, dossier.drawn, version, why)
    (fresh / "MODEL_CARD.md").write_text(said, encoding="utf-8")
    (fresh / "lineage.json").write_text(release.model_dump_json(indent=1) + "\n", encoding="utf-8")
    (fresh / "sbom.cdx.json").write_text(dossier.sbom, encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)

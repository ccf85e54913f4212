"""Descriptions of a model: on its MLflow run, on its registered version, and in the release.

run_name("mlp · 400 drawings · all", report)                      # "mlp · 400 drawings · all · 98.1 %"
summary(info, report, drawn=True)                                 # Markdown
model_card(info, report, True, "pawprint-sample version 3", "better, and no less accurate")
"""

from collections.abc import Mapping
from typing import Any

from pawprint.evaluation.evaluator import EvaluationReport
from pawprint.evaluation.metrics import Figure
from pawprint.files import render
from pawprint.inference.classifier import ModelInfo


def run_name(base: str, report: EvaluationReport) -> str:
    """The name that training gave the run (candidate, photographs, trained part), and the accuracy."""
    return f"{base} · {100 * report.test.accuracy.value:.1f} %"


def summary(info: ModelInfo, report: EvaluationReport, drawn: bool, pictures: tuple[str, ...] = ()) -> str:
    """Markdown for MLflow: the figures, and the names of the plots; MLflow's pages show no picture inside a text."""
    return _render("summary.md", info=info, report=report, drawn=drawn, pictures=pictures)


def pipeline(candidates: Mapping[str, tuple[str, EvaluationReport]]) -> str:
    """Markdown for the run of a whole pipeline: candidate -> (its run's id, its figures)."""
    return _render("pipeline.md", candidates=candidates)


def model_card(info: ModelInfo, report: EvaluationReport, drawn: bool, version: str, why: str) -> str:
    """MODEL_CARD.md of a release, after Mitchell et al., Model Cards for Model Reporting (2019).

    `why` is the gate's reason; "" for a version that the gate never compared.
    """
    return _render("model_card.md", info=info, report=report, drawn=drawn, version=version, why=why)


def _render(template: str, **values: Any) -> str:
    return render("pawprint.evaluation", template, percent=_percent, **values)


def _percent(figure: Figure) -> str:
    return f"{100 * figure.value:.2f} % [{100 * figure.low:.1f}, {100 * figure.high:.1f}]"

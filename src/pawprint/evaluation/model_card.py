"""Descriptions of a model: on its MLflow run, on its registered version, and in the release.

run_name("mlp · 400 drawings · all", report)                      # "mlp · 400 drawings · all · 98.1 %"
summary(info, report, drawn=True)                                 # Markdown
model_card(info, report, True, "pawprint-sample version 3", "better, and no less accurate")
"""

from collections.abc import Mapping

import jinja2

from pawprint.evaluation.evaluator import EvaluationReport
from pawprint.evaluation.metrics import Figure
from pawprint.inference.classifier import ModelInfo


def run_name(base: str, report: EvaluationReport) -> str:
    """The name that training gave the run (candidate, photographs, trained part), and the accuracy."""
    return f"{base} · {100 * report.test.accuracy.value:.1f} %"


def summary(info: ModelInfo, report: EvaluationReport, drawn: bool, pictures: tuple[str, ...] = ()) -> str:
    """Markdown for MLflow: the figures, then where the pictures are."""
    test = report.test
    lines = [
        f"**{info.candidate}** ({info.architecture}, {info.parameters:,} parameters) distinguishes "
        f"{', '.join(info.classes)}: **{_percent(test.accuracy)}** of {test.photographs} test photographs right, "
        f"{test.mistakes} wrong.",
        "",
        *figures(report),
        "",
        f"Data `{info.lineage.dataset}` {info.lineage.data_hash}, commit `{info.lineage.git_commit[:12] or 'none'}`"
        f"{' with uncommitted changes' if info.lineage.git_dirty else ''}, model `{info.model_digest[:12]}`.",
    ]
    if drawn:
        lines += ["", "These photographs are **drawn**: the figures say nothing of real ones."]
    if pictures:  # MLflow's pages show no picture inside a description
        lines += ["", f"Pictures, under Artifacts, `evaluation/`: {', '.join(pictures)}."]
    return "\n".join(lines) + "\n"


def pipeline(candidates: Mapping[str, tuple[str, EvaluationReport]]) -> str:
    """Markdown for the run of a whole pipeline: candidate -> (its run's id, its figures)."""
    lines = [
        "All candidates. One that was up to date was not trained again: its run is another pipeline run's child.",
        "",
        "| candidate | accuracy [95 % interval] | log loss [95 % interval] | MLflow run |",
        "|---|---|---|---|",
    ]
    for name, (run_id, report) in candidates.items():
        test = report.test
        lines.append(f"| {name} | {_percent(test.accuracy)} | {test.log_loss} | `{run_id}` |")
    return "\n".join(lines) + "\n"


def figures(report: EvaluationReport) -> list[str]:
    """The table of figures, as Markdown lines."""
    test, ood, speed = report.test, report.ood, report.speed
    corruption, lost = report.corruptions.worst
    rows = [
        ("accuracy", _percent(test.accuracy)),
        ("balanced accuracy", _percent(test.balanced_accuracy)),
        ("log loss", str(test.log_loss)),
        ("AUROC", str(test.auroc) if test.auroc else "a class is missing"),
        ("average precision", str(test.average_precision) if test.average_precision else "a class is missing"),
        ("calibration error", str(test.calibration_error)),
        *((f"F1 of {label}", str(figure)) for label, figure in test.f1.items()),
    ]
    if worst := report.worst_slice:
        rows.append((f"worst slice ({worst.name}, {worst.photographs} photographs)", _percent(worst.accuracy)))
    rows += [
        (f"accuracy lost to the worst corruption ({corruption})", f"{100 * lost:.1f} points"),
        ("test photographs answered `unknown`", f"{100 * ood.refused:.1f} %"),
        ("drawn clutter answered with a class", f"{100 * ood.false_accept:.1f} % of {ood.clutter}"),
        ("one answer, median and 95th percentile", f"{speed.latency_p50_ms:.1f} ms, {speed.latency_p95_ms:.1f} ms"),
        ("in batches", f"{speed.throughput_per_second:.0f} a second on {speed.machine}"),
        ("size", f"{speed.size_mb:.1f} MB"),
    ]
    return ["| | value [95 % interval] |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]


def model_card(info: ModelInfo, report: EvaluationReport, drawn: bool, version: str, why: str) -> str:
    """MODEL_CARD.md of a release, after Mitchell et al., Model Cards for Model Reporting (2019).

    `why` is the gate's reason; "" for a version that the gate never judged.
    """
    environment = jinja2.Environment(loader=jinja2.PackageLoader("pawprint.evaluation"), keep_trailing_newline=True)
    return environment.get_template("model_card.md").render(
        info=info, lineage=info.lineage, report=report, drawn=drawn, version=version, why=why, percent=_percent,
        figures="\n".join(figures(report)),
    )  # fmt: skip


def _percent(figure: Figure) -> str:
    return f"{100 * figure.value:.2f} % [{100 * figure.low:.1f}, {100 * figure.high:.1f}]"

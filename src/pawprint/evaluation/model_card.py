"""What is said of a model in words: on its MLflow run, on its version, and in the release dossier.

card.run_name("mlp · 400 drawings · all", report)                      # "mlp · 400 drawings · all · 98.1 %"
card.summary(info, report, drawn=True)                                 # Markdown
card.model_card(info, report, True, "pawprint-sample version 3", "better, and no less accurate")
"""

from collections.abc import Mapping

from pawprint.evaluation.evaluator import EvaluationReport
from pawprint.evaluation.metrics import Figure
from pawprint.inference.classifier import ModelInfo


def run_name(base: str, report: EvaluationReport) -> str:
    """`base` is what training called the run: what it is, on how much, which part learned. Accuracy comes last."""
    return f"{base} · {100 * report.test.accuracy.value:.1f} %"


def summary(info: ModelInfo, report: EvaluationReport, drawn: bool, pictures: tuple[str, ...] = ()) -> str:
    """Markdown for MLflow: the figures, then where the pictures are."""
    test = report.test
    lines = [
        f"**{info.candidate}** ({info.architecture}, {info.parameters:,} parameters) tells "
        f"{', '.join(info.classes)} apart: **{_percent(test.accuracy)}** of {test.photographs} test photographs right, "
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
    test, neither, speed = report.test, report.neither, report.speed
    disturbance, lost = report.robustness.worst
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
        (f"accuracy lost to the worst disturbance ({disturbance})", f"{100 * lost:.1f} points"),
        ("test photographs refused as neither", f"{100 * neither.refused:.1f} %"),
        ("drawn clutter taken for a class", f"{100 * neither.false_accept:.1f} % of {neither.strangers}"),
        ("one answer, median and 95th percentile", f"{speed.latency_p50_ms:.1f} ms, {speed.latency_p95_ms:.1f} ms"),
        ("in batches", f"{speed.throughput_per_second:.0f} a second on {speed.machine}"),
        ("size", f"{speed.size_mb:.1f} MB"),
    ]
    return ["| | value [95 % interval] |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]


def model_card(info: ModelInfo, report: EvaluationReport, drawn: bool, version: str, why: str) -> str:
    """MODEL_CARD.md of a release, after Mitchell et al., Model Cards for Model Reporting (2019).

    `why` is the gate's reason; "" for a version that never stood before it.
    """
    lineage, test, kept = info.lineage, report.test, report.robustness
    slices = [
        f"| {part.name} | {part.photographs} | {_percent(part.accuracy)} | {part.log_loss:.4f} |"
        for part in report.slices
    ]
    under = [f"| {name} | {100 * accuracy:.1f} % |" for name, accuracy in kept.under.items()]
    machine = "drawn pictures, which only try the machinery" if drawn else f"photographs of `{lineage.dataset}`"
    return "\n".join(
        [
            f"# {version}: {info.candidate}",
            "",
            f"An image classifier ({info.architecture}, {info.parameters:,} parameters) that tells "
            f"{', '.join(info.classes)} apart, made from {machine}.",
            "",
            f"Promoted because: {why}." if why else "It reigns by a person's choice: it never stood before the gate.",
            "",
            "## Intended use",
            "",
            f"One picture with one of {', '.join(info.classes)} as its subject. The answer is a probability for each, "
            "or `neither` where the picture is like no training photograph. Not for identifying single animals, "
            "and not where a wrong answer does harm without a person looking at it.",
            "",
            "## Data",
            "",
            f"Data set `{lineage.dataset}`, DVC hash `{lineage.data_hash}`; {test.photographs} test "
            "photographs. Every photograph's split (training, validation, test) is a function of its content and the "
            "seed. The model learned from the training split; temperature and thresholds come from the "
            "validation split; "
            "all figures below are of the test split.",
            "",
            "## Figures",
            "",
            *figures(report),
            "",
            "## Slices",
            "",
            "| part | photographs | accuracy [95 % interval] | log loss |",
            "|---|---|---|---|",
            *slices,
            "",
            f"## Disturbances ({kept.photographs} photographs)",
            "",
            f"As they are: {100 * kept.accuracy:.1f} % right.",
            "",
            "| under | accuracy |",
            "|---|---|",
            *under,
            "",
            "## Limits",
            "",
            "- The test photographs come from the same source as the training photographs: others may be harder.",
            "- `neither` was measured against drawn clutter only, which is easier than a photograph of something else.",
            "- Two animals in one picture get one answer.",
            "- Times are of the model alone, on the machine that judged it.",
            "",
            "## Lineage",
            "",
            f"Commit `{lineage.git_commit or 'none'}`"
            f"{' with uncommitted changes' if lineage.git_dirty else ''}, seed {lineage.seed}, {lineage.device}, "
            f"MLflow run `{lineage.run_id}`, model `{info.model_digest}`. lineage.json has all of it, sbom.cdx.json "
            "the packages that answer with it.",
            "",
        ]
    )


def _percent(figure: Figure) -> str:
    return f"{100 * figure.value:.2f} % [{100 * figure.low:.1f}, {100 * figure.high:.1f}]"

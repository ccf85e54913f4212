"""The results as one table: on the terminal after `make run`, and in docs/RESULTS.md.

show(Path("."))
write_results(Path("."), Path("docs/RESULTS.md"))
"""

import os
import platform
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table

from pawprint.config import load_params
from pawprint.errors import PawprintError
from pawprint.evaluation.gate import OUTCOMES
from pawprint.files import read_json, replace_section
from pawprint.inference.classifier import ModelInfo
from pawprint.lineage import commit_in_words, processor, uncommitted_record
from pawprint.progress import as_json, say
from pawprint.project import RECORD

DRAWN = "These cats and dogs are DRAWN: the sample tests the pipeline, its figures mean nothing for photographs."

WIDE = 120  # characters in which all columns fit
SHOWN = ("candidate", "accuracy [95 %]", "served", "log loss [95 %]")  # columns that fit a window of 80


def _need(path: Path) -> dict[str, Any]:
    value = read_json(path)
    if value is None:
        raise PawprintError(f"{path.name} is missing or damaged. Run `make run` first.")
    return value


def show(root: Path) -> None:
    """Print the result, and then the next commands to type; none is wider than the window."""
    found = _collect(root)
    if as_json():
        rows = [dict(zip(found["columns"], row, strict=True)) for row in found["rows"]]
        say("", dataset=found["dataset"], drawn=found["drawn"], models=rows, **found["facts"])
        return
    console = Console(highlight=False)
    table = Table(title=found["title"], title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    wide = console.width >= WIDE
    shown = [number for number, column in enumerate(found["columns"]) if wide or column in SHOWN]
    for number in shown:
        column = found["columns"][number]
        table.add_column(column, justify="left" if column == "candidate" else "right", overflow="fold")
    for row in found["rows"]:
        bold = "bold" if row[0] == found["champion_candidate"] else None
        table.add_row(*(escape(row[number]) for number in shown), style=bold)
    facts, following = Table.grid(padding=(0, 2)), Table.grid(padding=(0, 2))
    for name, value in found["facts"].items():
        facts.add_row(name, escape(value))
    made = (root / RECORD).exists()  # by `pawprint init`: the command is in PATH, and make may be missing
    how, given = ("pawprint", "--photos ") if made else ("make", "PHOTOS=")
    for command, what in (
        (f"{how} serve", "classify photographs on http://127.0.0.1:3000"),
        (f"{how} ui", "compare the runs on http://127.0.0.1:5000"),
        (f"{how} run {given}FILE", "the same on photographs: a zip, or a folder with a folder a class"),
    ):
        following.add_row("", escape(command), what)
    if changed := uncommitted_record(root):
        following.add_row("", f"git add {' '.join(changed)}", "and commit: later runs are compared with this one")
    drawn = [f"[yellow]{DRAWN}[/]\n"] if found["drawn"] else []
    with suppress(OSError):  # a reader that went away, or a closed terminal
        console.print(Group("", table, facts, "", *drawn, "Next:", following))


def write_results(root: Path, path: Path) -> None:
    """Put this data set's table into a Markdown file, in the place of its earlier one."""
    found = _collect(root)
    lines = [f"## {found['title']}", ""]
    if found["drawn"]:
        lines += [DRAWN, ""]
    lines += ["| " + " | ".join(found["columns"]) + " |", "|" + "---|" * len(found["columns"])]
    lines += ["| " + " | ".join(row) + " |" for row in found["rows"]]
    lines += ["", *(f"- {name}: {value}" for name, value in found["facts"].items())]
    lines += [f"- machine: {machine()}", "- written by: `pawprint results`"]
    replace_section(path, found["dataset"], "\n".join(lines), "# Results\n")


def _collect(root: Path) -> dict[str, Any]:
    params = load_params(root / "params.yaml")
    figures = _need(root / "reports" / "metrics.json")
    gate = _need(root / "reports" / "gate.json")
    packaged = _need(root / "bento.json")
    report = _need(root / "prepared" / "report.json")
    rows = []
    for name in params.models:
        info = ModelInfo.read(root / "models" / name)
        record = _need(root / "models" / name / "run.json")
        test = figures[name]["test"]
        rows.append(
            [
                name,
                f"{info.parameters:,}",
                "{:.2f} % [{:.1f}, {:.1f}]".format(*(100 * test["accuracy"][k] for k in ("value", "low", "high"))),
                f"{100 * test['served_accuracy']['value']:.2f} %",
                "{value:.4f} [{low:.3f}, {high:.3f}]".format(**test["log_loss"]),
                f"{record['seconds']:.0f}",
                record["run_id"][:8],
            ]
        )
    lineage = ModelInfo.read(root / "champion").lineage  # the champion may be of an earlier run than the models
    photographs = figures[next(iter(params.candidates))]["test"]["photographs"]
    return {
        "dataset": lineage.dataset,
        "title": f"{lineage.dataset}: {photographs} test photographs",
        "drawn": bool(report.get("drawn")),
        "columns": ["candidate", "parameters", "accuracy [95 %]", "served", "log loss [95 %]", "seconds", "MLflow run"],
        "rows": rows,
        "champion_candidate": packaged["candidate"],
        "facts": {
            "champion": f"{packaged['candidate']}, {packaged['model']} version {packaged['version']}",
            "why": f"{OUTCOMES[gate['outcome']]}: {gate['reason']}",
            "Bento": packaged["tag"],
            "git commit": commit_in_words(lineage),
            "data": f"{lineage.dataset} {lineage.data_hash}",
            "MLflow run": packaged["run_id"],
        },
    }


def machine() -> str:
    """Processor, cores and versions, as every figure in the docs names them."""
    packages = ("torch", "openvino", "mlflow", "bentoml", "dvc", "prefect")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    return f"{processor()}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}, {versions}"

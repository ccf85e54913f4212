"""Commands on runs, versions and where they come from."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from pawprint.cli.common import HERE, ROOT, console, examples, start
from pawprint.errors import PawprintError


@examples("pawprint summary")
def summary() -> None:
    """The table that `make run` ends with."""
    from pawprint.evaluation.summary import show

    show(ROOT)


@examples("pawprint results --out docs/RESULTS.md")
def results(out: Annotated[Path, typer.Option(help="the Markdown file")] = HERE / "docs" / "RESULTS.md") -> None:
    """Write this data set's table into a Markdown file, replacing its earlier one."""
    from pawprint.evaluation.summary import write_results

    write_results(ROOT, out)
    print(f"wrote {out}")


@examples("pawprint baselines | pawprint baselines 'colour histogram' mlp --seeds 5 | pawprint baselines timm/NAME")
def baselines(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME...]", help="default: all but deep_cnn")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="trainings of each network from scratch")] = 1,
    out: Annotated[Path, typer.Option(help="the Markdown file")] = HERE / "docs" / "RESULTS.md",
) -> None:
    """What each step buys: majority class, colours, the article's network, ..., on this project's photographs.

    A table on the terminal and in a Markdown file. What was measured before is not measured again.
    """
    from rich.table import Table

    from pawprint.config import load_params
    from pawprint.data.dataset import PreparedDataset
    from pawprint.evaluation import baselines as measured

    target = out.absolute()
    os.chdir(ROOT)
    params, data = load_params(Path("params.yaml")), PreparedDataset.open(Path("prepared"))
    for name in names or ():  # all of them before the first is measured
        measured.check(name, params)
    chosen = names or measured.default(params, data)
    rows = [row for name in chosen for row in measured.measure(name, params, data, seeds)]
    measured.write(rows, data, target)
    shown = Table(*measured.COLUMNS, box=None, pad_edge=False)
    for cells in measured.table(rows):
        shown.add_row(*cells)
    console().print(shown, highlight=False)
    print(f"wrote {out}")


@examples(
    "pawprint compare | pawprint compare article_cnn efficientnet_lite0 | pawprint compare 3f2a 91bc | "
    "pawprint compare --pictures champion efficientnet_lite0"
)
def compare(
    words: Annotated[list[str] | None, typer.Argument(metavar="[RUN...]", help="candidates, run ids or names")] = None,
    pictures: Annotated[
        bool, typer.Option("--pictures", help="photographs that two models differ on: champion, candidates, folders")
    ] = False,
    out: Annotated[Path, typer.Option(help="the page of --pictures")] = HERE / "changed.html",
) -> None:
    """Runs side by side: parameters that differ, then figures. Without names: today's candidates.

    With --pictures two models on the validation photographs: those to which they give different classes, as a page and
    in MLflow.
    """
    if pictures:
        _compare_pictures(words or [], out)
        return
    from rich.markup import escape
    from rich.table import Table

    from pawprint.config import load_params
    from pawprint.evaluation import comparison
    from pawprint.tracking.tracker import Tracker

    params, tracker = load_params(ROOT / "params.yaml"), Tracker(ROOT)
    ids = []
    for word in words or params.models:
        model = ROOT / "models" / word
        run_id = tracker.restore_run(model).id if word in params.models and model.exists() else tracker.find_run(word)
        if run_id is None:
            raise PawprintError(
                f"There is no run or candidate {word!r} here. Candidates are {', '.join(params.models)}; "
                "`make ui` lists all runs."
            )
        ids.append(run_id)
    parameters, metrics = zip(*(tracker.params_and_metrics(run_id) for run_id in ids), strict=True)
    tested = [tracker.artifact(run_id, "evaluation/test.csv") for run_id in ids]
    names = [(tracker.run_tags(run_id) or {}).get("mlflow.runName", "") for run_id in ids]
    table = Table("", *(f"{run_id[:8]}\n{escape(name)}" for run_id, name in zip(ids, names, strict=True)))
    for name, values in comparison.differences(parameters):
        table.add_row(name, *map(escape, values))
    table.add_section()
    for name, values in comparison.figures(metrics):
        column = {"test_accuracy": "accuracy", "test_log_loss": "log_loss"}.get(name)
        for number, (value, csv_) in enumerate(zip(values, tested, strict=True)):
            if number and column and csv_ and tested[0]:
                differs = comparison.significant(csv_, tested[0], column)
                values[number] = f"{value} *" if differs else value
        table.add_row(name, *values)
    console().print(table)
    print("* differs from the first run (95 % interval of the paired difference excludes 0)")


def _compare_pictures(models: list[str], out: Path) -> None:
    from pawprint.files import write_text
    from pawprint.inference.classifier import ModelInfo
    from pawprint.review import queues
    from pawprint.tracking.tracker import Tracker

    if len(models) != 2:
        raise PawprintError("--pictures compares two models: `pawprint compare --pictures champion CANDIDATE`.")
    first, second = models
    page, figures = queues.changed_page(ROOT, first, second)
    write_text(out, page)
    infos = [ModelInfo.read(queues.model_folder(ROOT, one)) for one in models]
    digests = {f"{which}_digest": info.model_digest for which, info in zip(("first", "second"), infos, strict=True)}
    given = {"first": first, "second": second, **digests}
    said = (
        f"{figures['changed']:,.0f} of {figures['validation']:,.0f} validation photographs differ: "
        f"{figures['right_first_only']:,.0f} only {first} gets right, "
        f"{figures['right_second_only']:,.0f} only {second}, {figures['neither_right']:,.0f} neither."
    )
    home, name = f"{infos[1].lineage.dataset} comparisons", f"{first} and {second}"
    run_id = Tracker(ROOT).log_page(home, name, given, figures, out, said)
    print(f"{said}\nwrote {out}\nMLflow run {run_id}")


@examples("pawprint ui --port 5001")
def ui(
    port: Annotated[int, typer.Option(help="where to listen")] = 5000,
    host: Annotated[str, typer.Option(help="the address to bind")] = "127.0.0.1",
) -> None:
    """Open MLflow's pages on the candidates of this project: table, curves, comparison."""
    from pawprint.files import read_json
    from pawprint.tracking import server
    from pawprint.tracking.tracker import Tracker

    named = read_json(ROOT / "data" / "dataset.json") or {}
    dataset = str(named.get("name") or (read_json(ROOT / "champion.json") or {}).get("dataset", ""))
    server.serve(ROOT, Tracker(ROOT).comparison_page(dataset) if dataset else "/", host, port)


@examples('pawprint rollback --because "it calls foxes dogs"')
def rollback(
    because: Annotated[str, typer.Option(help="the reason, which the registry keeps")],
    model: Annotated[str, typer.Option(help="the registered model; default: the one of champion.json")] = "",
) -> None:
    """Make the previous champion the current one, and package it. The gate does not promote the other by itself."""
    from pawprint.files import read_json
    from pawprint.tracking.tracker import Tracker

    name = model or (read_json(ROOT / "champion.json") or {}).get("model", "")
    if not name:
        raise PawprintError("champion.json is missing, so there is nothing to roll back. Run `make run` first.")
    gone, now = Tracker(ROOT).registry.roll_back(name, because)
    print(
        f"{name}: version {gone.version} rolled back, version {now.version} ({now.candidate}) is the current champion.",
        flush=True,
    )
    if (ROOT / "flows").is_dir():
        start("flows.pipeline", "repair")


@examples("pawprint sync")
def sync() -> None:
    """Upload to MLflow what was logged while it was away. Exit code 1 where it still is."""
    from pawprint.tracking.tracker import Tracker

    complete, left = Tracker(ROOT).sync()
    print(f"{complete} runs uploaded, {left} wait.")
    if left:
        raise PawprintError("MLflow does not answer. Start it or correct MLFLOW_TRACKING_URI, then `pawprint sync`.")


@examples("pawprint verify 3f2a91bc | pawprint verify pawprint-sample@champion")
def verify(what: Annotated[str, typer.Argument(help="a run's id, its first letters or name, or a version")]) -> None:
    """Train a run again from its own record. Exit code 1 where the weights are not the same."""
    from pawprint.provenance.reproduce import reproduce

    outcome = reproduce(ROOT, what)
    print(outcome.message)
    if not outcome.same:
        raise typer.Exit(1)


@examples("pawprint trace pawprint-sample@champion | pawprint trace data/cat/1.jpg --json | pawprint trace HEAD")
def trace(
    what: Annotated[
        str,
        typer.Argument(
            help="a prediction's id, Bento tag, model/version, model@alias, run, candidate, photograph or hash, commit"
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="the tree as JSON")] = False,
) -> None:
    """Show where something comes from and what was made of it, each link checked. Exit code 1 where a digest differs.

    Below a thing is what it was made from; with an arrow, what was made of it.
    """
    from rich.markup import escape
    from rich.tree import Tree

    from pawprint.provenance import trace as tracing

    found = tracing.trace(ROOT, what)
    if as_json:
        print(found.as_json())
    else:

        def branch(link: tracing.Link, tree: Tree | None, arrow: str = "") -> Tree:
            mark = {"proved": "", "unproved": " [yellow]unproved[/]", "broken": " [bold red]BROKEN[/]"}[link.state]
            note = f" [dim]({escape(link.note)})[/]" if link.note else ""
            label = f"{arrow}{link.kind} [bold]{escape(link.name)}[/]{mark}{note}"
            here = Tree(label) if tree is None else tree.add(label)
            for below in link.links:
                branch(below, here)
            for above in link.led_to:
                branch(above, here, "[cyan]→[/] ")
            return here

        console().print(branch(found, None), highlight=False)
    for link in found.broken():
        print(f"error: BROKEN {link.kind} {link.name}: {link.note}", file=sys.stderr)
    if any(found.broken()):
        raise typer.Exit(1)

"""`pawprint photos`: import, check and correct photographs."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from pawprint.cli.common import HERE, ROOT

DATA = HERE / "data"
NEXT = f"Next: dvc add {DATA} (the way back: pawprint photos undo)"

app = typer.Typer(no_args_is_help=True, help="Photographs: bring them in, check and correct them.")


@app.command(
    "import",
    epilog="Examples: pawprint photos import train.zip --name dogs-cats | pawprint photos import oxford-iiit-pet --add",
)
def import_(
    source: Annotated[str, typer.Argument(help="a zip, tar or folder, an http(s) or s3 URL, or a public set's name")],
    name: Annotated[str | None, typer.Option(help="what to call this data set")] = None,
    add: Annotated[bool, typer.Option("--add", help="keep what is there, and add to it")] = False,
    sha256: Annotated[str | None, typer.Option(help="which the archive must have")] = None,
    layout: Annotated[
        Literal["auto", "top", "parent", "names"],
        typer.Option(help="what the classes are: the top folders, the folders that hold the pictures, or files' names"),
    ] = "auto",
    labels: Annotated[str, typer.Option(help="a table (CSV) of file and class: in SOURCE, or a file here")] = "",
    encoding: Annotated[str, typer.Option(help="of file names in a zip that Windows wrote: cp932, gbk, ...")] = "",
) -> None:
    """Bring the photographs of SOURCE into data/; `dvc add data` then versions them."""
    from pawprint import dvc
    from pawprint.data.ingest import ingest

    before = dvc.snapshot(ROOT)
    result = ingest(source, DATA, name, add, sha256, layout, labels, encoding)
    if result.changed:
        dvc.own(ROOT)
        dvc.keep(ROOT, before)
    _some(result.contradictions)
    if result.changed and result.ignored:
        more = f" and {len(result.ignored) - 3:,} more" if len(result.ignored) > 3 else ""
        print(f"ignored: {', '.join(result.ignored[:3])}{more}")
    print(f"{result.summary()} {NEXT}" if result.changed else result.summary())


def _some(lines: list[str], shown: int = 20) -> None:
    for line in lines[:shown]:
        print(line)
    if len(lines) > shown:
        print(f"... and {len(lines) - shown:,} more; data/origins.csv has them all")


@app.command(epilog="Example: pawprint photos check")
def check(data: Annotated[Path, typer.Argument(help="a folder with a folder a class")] = DATA) -> None:
    """List the photographs that `preprocess` would reject, and why; nothing is written. Exit code 1 if any."""
    from pawprint.config import load_params
    from pawprint.data.class_folders import dataset
    from pawprint.data.preprocess import survey

    photographs = dataset(data)
    rejected, flags = survey(photographs, data, load_params(ROOT / "params.yaml"))
    for one in sorted(rejected, key=lambda one: one.path):
        print(f"{one.path}: {one.reason}: {one.message}")
    converted = ", ".join(f"{count:,} {flag}" for flag, count in sorted(flags.items())) or "none"
    print(f"{len(photographs.photographs):,} files, {len(rejected):,} rejected; converted: {converted}")
    if rejected:
        raise typer.Exit(1)


@app.command(
    epilog="Examples: pawprint photos relabel reports/audit/audit.csv | pawprint photos relabel cat/7.jpg --to dog"
)
def relabel(
    what: Annotated[list[str], typer.Argument(help="lists (the audit's CSV, or PATH,CLASS a line), or photographs")],
    to: Annotated[str, typer.Option(help="the class of the photographs that are named")] = "",
) -> None:
    """Give photographs of data/ another class, all of them or none."""
    from pawprint import dvc
    from pawprint.data import relabel

    decided = (
        [relabel.Decision(relabel.below(one, DATA), to) for one in what]
        if to
        else [decision for one in what for decision in relabel.decisions(Path(one), "relabel", DATA)]
    )
    before = dvc.snapshot(ROOT)
    moved = relabel.relabel(decided, DATA)
    dvc.own(ROOT)
    dvc.keep(ROOT, before)
    print(f"{moved:,} of {len(decided):,} photographs have another class now. {NEXT}")


@app.command(epilog="Examples: pawprint photos drop reports/audit/audit.csv | pawprint photos drop cat/7.jpg")
def drop(
    what: Annotated[list[str], typer.Argument(help="lists (the audit's CSV, or a path a line), or photographs")],
) -> None:
    """Take photographs out of data/, all of them or none; added again, their source does not bring them back."""
    from pawprint import dvc
    from pawprint.data import relabel

    decided: list[relabel.Decision] = []
    for one in what:
        file = relabel.below(one, DATA)
        named = not Path(file).is_absolute() and (DATA / file).is_file()
        decided += [relabel.Decision(file)] if named else relabel.decisions(Path(one), "drop", DATA)
    before = dvc.snapshot(ROOT)
    gone = relabel.drop(decided, DATA)
    dvc.own(ROOT)
    dvc.keep(ROOT, before)
    print(f"{gone:,} photographs dropped. {NEXT}")


@app.command(epilog="Example: pawprint photos undo")
def undo() -> None:
    """Bring back the photographs that the last import, relabel or drop replaced. A second undo undoes that."""
    from pawprint import dvc

    dvc.undo(ROOT)
    print("data/ is as it was before the last change. `pawprint photos undo` goes forward again.")


@app.command(epilog="Example: pawprint photos audit --top 40")
def audit(
    top: Annotated[int, typer.Option(min=1, help="how many photographs to list")] = 200,
    out: Annotated[Path, typer.Option(help="where audit.csv and audit.html go")] = HERE / "reports" / "audit",
) -> None:
    """List photographs whose label is probably wrong, and outliers, for a person to decide on."""
    from pawprint.config import load_params
    from pawprint.data.dataset import PreparedDataset
    from pawprint.evaluation import label_audit

    found = label_audit.audit(PreparedDataset.open(ROOT / "prepared"), load_params(ROOT / "params.yaml"), top)
    label_audit.write(found, out)
    print(f"{len(found):,} photographs to look at in {out}/audit.html; your decisions go into {out}/audit.csv")

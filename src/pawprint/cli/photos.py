"""`pawprint photos`: import, check and correct photographs."""

import re
from pathlib import Path
from typing import Annotated, Literal

import typer

from pawprint.cli.common import HERE, ROOT
from pawprint.errors import PawprintError

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
        typer.Option(
            help="what the classes are: the top folders, the folders that hold the photographs, or files' names"
        ),
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
    print(f"{result.summary()} {NEXT}" if result.changed else result.summary())


def _some(lines: list[str], shown: int = 20) -> None:
    for line in lines[:shown]:
        print(line)
    if len(lines) > shown:
        print(f"... and {len(lines) - shown:,} more; data/origins.csv has them all")


@app.command(epilog="Example: pawprint photos inventory s3://bucket/pets && dvc add data")
def inventory(
    source: Annotated[str, typer.Argument(help="a folder of a bucket, with a folder a class: s3://BUCKET/FOLDER")],
    name: Annotated[str | None, typer.Option(help="what to call this data set")] = None,
    write_once: Annotated[
        bool, typer.Option("--write-once", help="the bucket keeps no versions, and nothing in it is ever replaced")
    ] = False,
) -> None:
    """Leave photographs in a bucket: data/ becomes a list of them, which DVC versions. Nothing is copied."""
    from pawprint import dvc
    from pawprint.data.inventory import write

    before = dvc.snapshot(ROOT)
    count = write(source, DATA, name, write_once)
    dvc.own(ROOT)
    dvc.keep(ROOT, before)
    print(f"{count:,} photographs of {source} are in data/inventory.parquet and stay where they are. {NEXT}")


@app.command(epilog="Example: pawprint photos check")
def check(data: Annotated[Path, typer.Argument(help="a folder with a folder a class")] = DATA) -> None:
    """List the photographs that `preprocess` would reject, and why; nothing is written. Exit code 1 if any."""
    from pawprint.config import load_params
    from pawprint.data.inventory import dataset
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
    epilog="Examples: pawprint photos decide data/cat/7.jpg --label dog | pawprint photos decide 9f86d0... --drop"
)
def decide(
    photographs: Annotated[list[str], typer.Argument(help="files, or SHA-256 of photographs")],
    label: Annotated[str, typer.Option(help="the right class")] = "",
    drop: Annotated[bool, typer.Option("--drop", help="they do not belong into the set")] = False,
    undo: Annotated[bool, typer.Option("--undo", help="nothing is decided of them any more")] = False,
    who: Annotated[str, typer.Option("--as", help="who decides; default: git's user.name")] = "",
    why: Annotated[str, typer.Option(help="the reason, which labels.csv keeps")] = "by name",
) -> None:
    """Write a decision on photographs into labels.csv, as `pawprint review` does; `photos apply` makes it data."""
    from pawprint import lineage
    from pawprint.data.class_folders import class_folders
    from pawprint.data.labels import FILE, Labels, author

    if bool(label) + drop + undo != 1:
        raise PawprintError("Name one of --label CLASS, --drop and --undo.")
    hashes = []
    for one in photographs:
        path = next((path for path in (Path(one), DATA / one) if path.is_file()), None)
        if path is None and not re.fullmatch("[0-9a-f]{64}", one):
            raise PawprintError(f"{one} is no file here, and no SHA-256. Nothing was decided.")
        hashes.append(lineage.sha256(path) if path else one)
    verb: Literal["class", "drop", "undo"] = "class" if label else "drop" if drop else "undo"
    Labels(ROOT / FILE).add(hashes, verb, label, who or author(ROOT), why)
    classes = [folder.name for folder in class_folders(DATA)] if DATA.is_dir() else []
    if label and classes and label not in classes:
        print(f"`{label}` is a new class; those of data/ are {', '.join(classes[:20])}.")
    print(f"{len(hashes):,} decisions in {HERE / FILE}. Next: pawprint photos apply")


@app.command(epilog="Example: pawprint photos apply && git add labels.csv data.dvc && git commit")
def apply(
    test_side: Annotated[bool, typer.Option("--test-side", help="the decisions on test photographs, alone")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="the labelled ones in place of what is there")] = False,
) -> None:
    """Make the decisions of labels.csv data: the next version. `git commit` keeps it, `photos undo` undoes it."""
    from pawprint import dvc
    from pawprint.config import load_params
    from pawprint.data import corrections
    from pawprint.data.inbox import FOLDER, Inbox
    from pawprint.data.labels import FILE, Labels

    params = load_params(ROOT / "params.yaml")
    if not (ROOT / ".dvc").is_dir():
        raise PawprintError(f"{ROOT} has no DVC, which versions the photographs. `git init && dvc init` there first.")
    is_test = corrections.on_test_side(ROOT / "data", params)
    labels, inbox = Labels(ROOT / FILE), Inbox(ROOT / FOLDER)
    before = dvc.snapshot(ROOT)
    applied = corrections.apply(labels, DATA, inbox, is_test, test_side, replace)
    if applied.changed:
        dvc.keep(ROOT, before)
        dvc.add(ROOT)
    print(applied.summary())
    if applied.changed:
        print(f"Next: git add {FILE} data.dvc && git commit, then pawprint run (back: pawprint photos undo)")


@app.command(epilog="Example: pawprint photos group animals.csv")
def group(
    table: Annotated[Path, typer.Argument(help="a CSV file with the columns file and group")],
) -> None:
    """Say which photographs must share a split: of one animal, session or burst. A pattern is `split.group` instead."""
    from pawprint import dvc
    from pawprint.data import corrections

    before = dvc.snapshot(ROOT)
    photographs, groups = corrections.group(table, DATA)
    dvc.own(ROOT)
    dvc.keep(ROOT, before)
    print(f"{photographs:,} photographs are in {groups:,} groups now. {NEXT}")


@app.command(epilog="Example: pawprint photos undo")
def undo() -> None:
    """Bring back the photographs that the last import, apply or group replaced. A second undo undoes that."""
    from pawprint import dvc

    dvc.undo(ROOT)
    print("data/ is as it was before the last change. `pawprint photos undo` goes forward again.")


@app.command(epilog="Example: pawprint photos audit --top 40")
def audit(
    top: Annotated[int, typer.Option(min=1, help="how many photographs to list")] = 200,
    out: Annotated[Path, typer.Option(help="where audit.csv goes")] = HERE / "reports" / "audit",
) -> None:
    """List photographs whose label is probably wrong, and outliers; `pawprint review audit` shows them."""
    from pawprint.config import load_params
    from pawprint.data.dataset import PreparedDataset
    from pawprint.evaluation import label_audit

    found = label_audit.audit(PreparedDataset.open(ROOT / "prepared"), load_params(ROOT / "params.yaml"), top)
    label_audit.write(found, out)
    print(f"{len(found):,} photographs, the most suspicious first: {out}/audit.csv. Next: pawprint review audit")


@app.command(epilog="Example: pawprint photos erase 9f86d0... --dry-run")
def erase(
    photograph: Annotated[str, typer.Argument(help="its SHA-256, or a file with the same bytes")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say where it is")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
    out: Annotated[Path, typer.Option(help="the report, for the person who asked")] = HERE / "erased.txt",
) -> None:
    """Delete a photograph everywhere: data, caches, remotes, the traffic log; and list the models that learned from it.

    Older versions of the data that had it cannot be restored whole any more. There is no way back.
    """
    from pawprint import lineage
    from pawprint.files import write_text
    from pawprint.provenance import erase as erasing
    from pawprint.serving import traffic

    digest = lineage.sha256(Path(photograph)) if Path(photograph).is_file() else photograph
    if not re.fullmatch("[0-9a-f]{64}", digest):
        raise PawprintError(f"{photograph} is no file here, and no SHA-256. Nothing was erased.")
    logs = sorted(traffic.folder().glob("*.db"))
    places = erasing.find(ROOT, digest, logs, traffic.segments())
    print(erasing.report(digest, places, dry=True), end="")
    if dry_run:
        return
    if not yes and not typer.confirm("Erase what can be erased? There is no way back"):
        raise typer.Exit(1)
    whole = erasing.erase(places)
    write_text(out, erasing.report(digest, places))
    print(f"\n{erasing.report(digest, places)}\nThe report is in {out}.")
    print("Next: git add data.dvc && git commit && pawprint run")
    if not whole:
        raise typer.Exit(1)

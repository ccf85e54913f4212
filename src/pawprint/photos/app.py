"""`pawprint photos ...`"""

from pathlib import Path
from typing import Annotated

import typer

photos_app = typer.Typer(no_args_is_help=True, help="Photographs: bring them in.")


@photos_app.callback()
def _photos() -> None:
    """Photographs: bring them in."""


@photos_app.command("import", epilog="Example: pawprint photos import train.zip --name dogs-cats")
def import_(
    source: Annotated[Path, typer.Argument(help="a zip in Kaggle's layout, or a folder with a folder a class")],
    name: Annotated[str | None, typer.Option(help="what to call this data set")] = None,
) -> None:
    """Replace data/ by the photographs of SOURCE; `dvc add data` then versions them."""
    from pawprint.photos.sources import take

    taken = take(source, Path("data"), name)
    print(f"{taken.name}: {len(taken.photographs):,} files in {len(taken.classes)} classes. Next: dvc add data")


@photos_app.command(epilog="Example: pawprint photos check")
def check(data: Annotated[Path, typer.Argument(help="a folder with a folder a class")] = Path("data")) -> None:
    """Say which photographs `preprocess` would leave out, and why; nothing is written. Exit code 1 if there are any."""
    from pawprint.params import load_params
    from pawprint.photos.check import survey
    from pawprint.photos.sources import dataset

    photographs = dataset(data)
    bad, flags = survey(photographs, data, load_params())
    for one in sorted(bad, key=lambda one: one.path):
        print(f"{one.path}: {one.reason}: {one.message}")
    converted = ", ".join(f"{count:,} {flag}" for flag, count in sorted(flags.items())) or "none"
    print(f"{len(photographs.photographs):,} files, {len(bad):,} left out; converted: {converted}")
    if bad:
        raise typer.Exit(1)

"""`pawprint models`: the architectures, and the pretrained weights that they start from."""

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Column, Table

from pawprint.cli.common import HERE, ROOT, console
from pawprint.errors import PawprintError

app = typer.Typer(no_args_is_help=True, help="The networks that a candidate can name in `architecture`.")
SHOWN = 40  # names of a search
Name = Annotated[str, typer.Argument(help="timm/NAME of `pawprint models search`")]


@app.command("list", epilog="Example: pawprint models list")
def list_() -> None:
    """Every architecture, with one line on it; then the networks that were added."""
    from pawprint.models import registry, weights

    os.chdir(ROOT)
    table = Table.grid(padding=(0, 2))
    for name, architecture in registry.ARCHITECTURES.items():
        table.add_row(name, (architecture.__doc__ or "").splitlines()[0])
    console().print(table)
    for record in weights.known():
        here = (
            "" if record.path.is_file() else "; its weights are not on this machine: `pawprint models add` fetches them"
        )
        print(f"{record.name}  {record.size}x{record.size}, {record.licence}, SHA-256 {record.sha256[:12]}{here}")


@app.command(epilog="Example: pawprint models describe article_cnn")
def describe(
    name: Annotated[str, typer.Argument(help="an architecture of `pawprint models list`")],
    classes: Annotated[int, typer.Option(min=2, help="number of classes")] = 2,
) -> None:
    """Layer by layer: output shape and parameters."""
    from pawprint import image
    from pawprint.config import load_params
    from pawprint.models import registry

    os.chdir(ROOT)
    size = load_params().preprocess.size if Path("params.yaml").exists() else image.SIZE
    print(registry.describe(name, classes, size))


@app.command(epilog="Examples: pawprint models search convnext | pawprint models search 'vit_tiny*'")
def search(word: Annotated[str, typer.Argument(help="a part of the name; * stands for anything")]) -> None:
    """Networks with pretrained weights, as timm names them: no network connection is needed."""
    from pawprint.models import timm_backbone

    found = timm_backbone.search(word)
    if not found:
        raise PawprintError(f"No network of timm's with pretrained weights has `{word}` in its name.")
    table = Table(Column("name", no_wrap=True), "input", Column("licence", overflow="fold"), box=None, pad_edge=False)
    for name, size, licence in found[:SHOWN]:
        table.add_row(name, f"{size}x{size}", licence or "unknown")
    console().print(table, highlight=False)
    left = f"; {len(found) - SHOWN} more are not shown, write more of the name" if len(found) > SHOWN else ""
    print(f"{len(found)} found{left}. `pawprint models add NAME` fetches one.")


@app.command(
    epilog="Examples: pawprint models add timm/resnet18.a1_in1k | pawprint models add timm/vit --file a.safetensors"
)
def add(
    name: Name,
    file: Annotated[Path | None, typer.Option(help="a safetensors file that you have, instead of the hub's")] = None,
    licence: Annotated[str, typer.Option(help="of the weights, where their source names none")] = "",
) -> None:
    """Fetch a network's weights once and pin them by SHA-256 in weights/, which git tracks."""
    from pawprint.models import weights

    given = file.absolute() if file else None
    os.chdir(ROOT)
    record = weights.add(name, given, licence)
    print(
        f"{record.name}: {record.path.stat().st_size / 1e6:,.1f} MB, input {record.size}x{record.size}, licence "
        f"{record.licence}, from {record.source}\nSHA-256 {record.sha256}"
    )
    if record.concern:
        print(f"Warning: {record.concern}.")
    lock = HERE / weights.LOCKS / f"{name}.lock"
    print(f"Pinned in {lock}: commit it. A candidate names it with `architecture: {name}`.")


@app.command(epilog="Example: pawprint models remove timm/resnet10t.c3_in1k")
def remove(name: Name) -> None:
    """Take a network's record and weights away; models that were trained from it stay."""
    from pawprint.models import weights

    os.chdir(ROOT)
    print(f"Removed {weights.remove(name).name}.")

"""`pawprint models`: the architectures."""

from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="The architectures that a candidate can name.")


@app.command("list", epilog="Example: pawprint models list")
def list_() -> None:
    """Every architecture, with one line on it."""
    from pawprint.models import registry

    for name, architecture in registry.ARCHITECTURES.items():
        print(f"{name:<22}{(architecture.__doc__ or '').splitlines()[0]}")


@app.command(epilog="Example: pawprint models describe article_cnn")
def describe(
    name: Annotated[str, typer.Argument(help="an architecture of `pawprint models list`")],
    classes: Annotated[int, typer.Option(min=2, help="number of classes")] = 2,
) -> None:
    """Layer by layer: output shape and parameters."""
    from pawprint.models import registry

    print(registry.describe(name, classes))

"""`pawprint batch`: a large collection of pictures -> a Parquet dataset of predictions."""

from pathlib import Path
from typing import Annotated

import typer

from pawprint.cli.common import HERE, classifier, console, examples, unloaded
from pawprint.errors import Stopped


@examples(
    "pawprint batch photographs/ predictions/ | pawprint batch s3://bucket/pets/ s3://bucket/predictions/ | "
    "pawprint batch inventory.parquet predictions/ --limit 1000"
)
def batch(
    source: Annotated[str, typer.Argument(help="a folder, an archive, a URL, or a Parquet file with a column `key`")],
    out: Annotated[str, typer.Argument(help="a folder or s3 URL for the Parquet files")],
    model: Annotated[Path, typer.Option(help="a model folder")] = HERE / "champion",
    where: Annotated[list[str] | None, typer.Option(help="suffixes of photographs: --where .jpg --where .png")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="the first photographs only")] = None,
) -> None:
    """Classify any number of pictures. A run that was stopped or killed goes on when it is called again."""
    import pyarrow as pa
    from rich.markup import escape
    from rich.table import Table

    from pawprint import batch, image, parallel

    suffixes = [f".{suffix.lstrip('.').lower()}" for suffix in where or image.IMAGE_SUFFIXES]
    pa.set_memory_pool(pa.system_memory_pool())  # its own pool keeps 30 MB of what it has freed
    terminal = console()
    try:
        given = unloaded(model) if parallel.on_ray() else classifier(model)
        done = batch.run(source, out, given, suffixes, limit)
    except KeyboardInterrupt:
        raise Stopped("Stopped. Finished parts stay: the same command goes on from there.") from None
    table = Table("label", box=None)
    for name in ("pictures", "share"):
        table.add_column(name, justify="right")
    counts = done.labels | ({"error": done.errors} if done.errors else {})
    for label, count in counts.items():
        table.add_row(escape(label), f"{count:,}", f"{count / done.pictures:.1%}")
    terminal.print(table)
    if done.least_sure:
        terminal.print("\nleast sure:")
        for key, label, score in done.least_sure:
            terminal.print(f"  {score:.3f}  {label}  {key}", markup=False)
    terminal.print(f"\n{done.pictures:,} predictions in {out}", markup=False)

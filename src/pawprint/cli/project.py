"""Commands that start flows or the service of the current project."""

from pathlib import Path
from typing import Annotated

import typer

from pawprint.cli.common import LocalOption, examples, start


@examples("pawprint run | pawprint run --photos train.zip --name dogs-cats | pawprint run --photos oxford-iiit-pet")
def run(
    photos: Annotated[str, typer.Option(help="a zip, tar or folder, an http(s) or s3 URL, or a public set")] = "",
    name: Annotated[str, typer.Option(help="name of the data set; default: from the photographs")] = "",
    local: LocalOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="what is reported as JSON, an object a line")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="DVC's own messages too")] = False,
) -> None:
    """Photographs -> models -> champion -> Bento: whatever is stale, then a table of results."""
    source = str(Path(photos).absolute()) if photos and Path(photos).exists() else photos  # the flow runs in the root
    words = [*(["--photos", source] if source else []), *(["--name", name] if name else [])]
    flags = {"--local": local, "--json": as_json, "--verbose": verbose}
    start("flows.pipeline", "run", *words, *(flag for flag, given in flags.items() if given), local=local)


@examples("pawprint train article_cnn")
def train(
    candidate: Annotated[str, typer.Argument(help="a name under `candidates` in params.yaml")],
    local: LocalOption = False,
) -> None:
    """Train one candidate on the prepared photographs."""
    start("flows.train", "--candidate", candidate, local=local)


@examples("pawprint sweep | pawprint sweep --candidate deep_cnn --trials 30 --jobs 2")
def sweep(
    candidate: Annotated[str, typer.Option(help="default: `sweep.candidate` of params.yaml")] = "",
    trials: Annotated[int, typer.Option(help="in all, earlier ones too; default: `sweep.trials`")] = 0,
    jobs: Annotated[int, typer.Option(min=1, help="processes at once; a Ray cluster runs as many as it has cores")] = 1,
    local: LocalOption = False,
) -> None:
    """Train one candidate many times with parameters from the ranges of params.yaml; resumes."""
    words = ["--jobs", str(jobs)]
    words += ["--candidate", candidate] if candidate else []
    words += ["--trials", str(trials)] if trials else []
    start("flows.sweep", *words, local=local)


@examples("pawprint serve --port 3001")
def serve(
    port: Annotated[int, typer.Option(help="where to listen")] = 3000,
    host: Annotated[str, typer.Option(help="the address to bind")] = "127.0.0.1",
    local: LocalOption = False,
) -> None:
    """Serve the champion: a page and an HTTP API."""
    start("bentoml", "serve", "--host", host, "--port", str(port), local=local)


@examples("PREFECT_API_URL=http://127.0.0.1:4200/api pawprint worker")
def worker() -> None:
    """Run the pipeline every night and for new photographs, on a Prefect server (docs/operations.md)."""
    start("flows.worker")

"""`pawprint predict`: pictures to classes, by a model folder or by a running service."""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pawprint.cli.common import HERE, classifier, examples

SHOWN = 5  # classes in a line
REFUSED = {"unlike": "unlike the training photographs", "unsure": "unsure which class"}


@examples(
    "pawprint predict cat.jpg | pawprint predict --json pictures/ > predictions.jsonl | "
    "pawprint predict --url http://localhost:3000 pictures/"
)
def predict(
    paths: Annotated[list[Path], typer.Argument(help="pictures, and folders of them")],
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object a line")] = False,
    model: Annotated[Path, typer.Option(help="a model folder")] = HERE / "champion",
    url: Annotated[str, typer.Option(help="use this running service instead of a model folder")] = "",
    token: Annotated[str, typer.Option(envvar="PAWPRINT_TOKEN", help="the service's bearer token")] = "",
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="photographs on their way to the service")] = 8,
) -> None:
    """Classify pictures. Exit code 1 when one of them has no prediction."""
    from pawprint.inference.classifier import FileResult, find_pictures

    pictures = find_pictures(paths)
    results: Iterable[FileResult]
    if url:
        from pawprint.serving import client

        results = client.predict(url, pictures, token, concurrency)
    else:
        results = classifier(model, " Or name a running service with --url.").classify_files(pictures)
    if len(pictures) > 50 and sys.stderr.isatty():
        from rich.progress import track

        results = track(results, total=len(pictures), console=Console(stderr=True), description="predicting")
    failed = False
    for result in results:
        found = result.classification
        failed = failed or found is None
        if as_json:
            values = {"error": result.error} if found is None else {
                "label": found.label, "refusal": found.refusal, "reason": found.reason,
                "typicality": found.knn_similarity, "probabilities": found.probabilities, "model": result.model_digest,
            }  # fmt: skip
            print(json.dumps({"path": str(result.path), **values}), flush=True)
        elif found is None:
            print(f"{result.path}: error: {result.error}", file=sys.stderr)
        else:
            best = sorted(found.probabilities.items(), key=lambda one: -one[1])[:SHOWN]
            shares = ", ".join(f"{label} {p:.1%}" for label, p in best)
            shares += f", {len(found.probabilities) - SHOWN} more" if len(found.probabilities) > SHOWN else ""
            label = f"{found.label}, {REFUSED[found.refusal]}" if found.refusal else found.label
            print(f"{result.path}: {label} ({shares})", flush=True)
    if failed:
        raise typer.Exit(1)

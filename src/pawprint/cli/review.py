"""`pawprint review` and `pawprint harvest`: look at photographs on a local page, and decide."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pawprint.cli.common import HERE, ROOT, examples
from pawprint.errors import PawprintError

if TYPE_CHECKING:
    from pawprint.data.labels import Labels
    from pawprint.review.queues import Queue
    from pawprint.review.suggest import Suggester

NAMES = ("data", "audit", "mistakes", "changed", "duplicates", "harvest", "conflicts")


@examples(
    "pawprint review audit | pawprint review mistakes --model efficientnet_lite0 | pawprint review ~/pictures | "
    "pawprint review changed --model champion --model article_cnn | pawprint review --conflicts"
)
def review(
    queue: Annotated[
        str, typer.Argument(help=f"{', '.join(NAMES)}, or a folder of photographs without labels")
    ] = "data",
    conflicts: Annotated[bool, typer.Option("--conflicts", help="photographs that people decided differently")] = False,
    model: Annotated[
        list[str] | None, typer.Option(help="whose mistakes and maps; two for `changed`. Default: the champion")
    ] = None,
    who: Annotated[str, typer.Option("--as", help="who decides; default: git's user.name")] = "",
    port: Annotated[int, typer.Option(help="where to listen, on 127.0.0.1; 0 is any free one")] = 0,
    browser: Annotated[bool, typer.Option(help="open the page")] = True,
) -> None:
    """Look at photographs, and decide with one key each; decisions go into labels.csv. `photos apply` makes them data.

    `data` is all photographs; `audit` label issues and outliers; `mistakes` what a model gets wrong on validation;
    `changed` where two models differ; `duplicates` near-copies; `harvest` what was taken from the service's traffic.
    """
    from pawprint.data.labels import FILE, Labels, author
    from pawprint.review import app, queues, server

    labels, models = Labels(ROOT / FILE), model or ["champion"]
    found, suggester = _queue("conflicts" if conflicts else queue, labels, models)
    try:
        shown: Path | None = queues.model_folder(ROOT, models[-1])
    except PawprintError:
        if model:
            raise
        shown = None
    if not found.items:
        print(f"{found.about} There is none.")
        return
    page = app.Review(ROOT, found, labels, who or author(ROOT), shown, suggester)
    server.serve(page, port, browser, say=lambda url: print(f"{len(found.items):,} photographs at {url}", flush=True))
    left = page.progress()
    print(f"{left['decided']:,} of {left['queue']:,} decided, {left['changed']:,} changed, in {HERE / FILE}.")
    if left["decided"]:
        print("Next: pawprint photos apply")


def _queue(name: str, labels: "Labels", models: list[str]) -> "tuple[Queue, Suggester | None]":
    from pawprint.review import queues

    folder = Path(name).expanduser()
    if name not in NAMES and (folder.is_dir() or "/" in name):
        return _folder(folder)
    if name == "audit":
        if not (ROOT / "reports" / "audit" / "audit.csv").exists():
            from pawprint.cli.photos import audit

            audit()
        return queues.audit(ROOT), None
    if name == "changed" and len(models) != 2:
        raise PawprintError("`changed` compares two models: --model ONE --model OTHER.")
    made = {
        "data": lambda: queues.everything(ROOT),
        "mistakes": lambda: queues.mistakes(ROOT, models[0]),
        "changed": lambda: queues.changed(ROOT, *models),
        "duplicates": lambda: queues.duplicates(ROOT),
        "harvest": lambda: queues.waiting(ROOT),
        "conflicts": lambda: queues.conflicts(ROOT, labels),
    }
    if name not in made:
        raise PawprintError(f"There is no queue {name!r}. Name one of {', '.join(NAMES)}, or a folder of photographs.")
    return made[name](), None


def _folder(folder: Path) -> "tuple[Queue, Suggester]":
    """Pictures without labels, and what learns from the labels that they get."""
    from pawprint.config import load_params
    from pawprint.data import inbox
    from pawprint.evaluation import label_audit
    from pawprint.review import queues
    from pawprint.review.suggest import Suggester

    pictures, kept = inbox.folder_of_pictures(folder), inbox.Inbox(ROOT / inbox.FOLDER)
    kept.add(pictures)
    found, params = queues.waiting(ROOT, pictures[0].source), load_params(ROOT / "params.yaml")
    files = {digest: kept.file(one) for digest, one in found.incoming.items()}
    return found, Suggester(files, params, label_audit.backbone_of(params))


@examples("pawprint harvest | pawprint harvest --days 1 --feedback 100 --random 0")
def harvest(
    days: Annotated[float, typer.Option(min=0, help="how far back to look; 0 is all that is kept")] = 0,
    feedback: Annotated[int, typer.Option(min=0, help="at most so many that clients corrected")] = 40,
    refused: Annotated[int, typer.Option(min=0, help="... that were answered `unknown`")] = 20,
    unsure: Annotated[int, typer.Option(min=0, help="... that the model was least sure of")] = 20,
    novel: Annotated[int, typer.Option(min=0, help="... that are least like the training photographs")] = 20,
    random: Annotated[int, typer.Option(min=0, help="... drawn from all")] = 20,
    log: Annotated[
        str | None,
        typer.Option(help="a traffic log, or the folder or s3 URL of the champion's segments; default: the service's"),
    ] = None,
) -> None:
    """Take photographs of the service's traffic into the review queue. `serving.keep_pictures` must be on.

    Each comes with its provenance: answer, model, feedback. What is in data/ already, or was decided before, is not
    taken again; of photographs of one scene one is.
    """
    from pawprint.review import queues
    from pawprint.review.harvest import Mix, harvest_logs

    counts = harvest_logs(ROOT, Mix(feedback, refused, unsure, novel, random), days, log or "")
    waiting = len(queues.waiting(ROOT).items)
    parts = ", ".join(f"{count:,} {kind}" for kind, count in counts.items() if count)
    print(f"{counts.total():,} photographs taken{f' ({parts})' * bool(parts)}; {waiting:,} wait.")
    print("Next: pawprint review harvest" if waiting else "Is serving.keep_pictures on?")

"""One photograph, or one picture that the service was sent, out of everything that this machine and its remote hold.

    found = find(root, "9f86d0...", [Path("traffic/pets.db")])      # a list of places; nothing is changed
    erase(found)                                                     # each place by itself; what fails is said
    print(report("9f86d0...", found))

What is deleted: the file, its versions in DVC's cache and remotes, the prepared set and features that hold it, its
thumbnails, rows and kept pictures of the traffic log, plots and pages in MLflow that may show it, examples of the
service's page. What learned from it cannot unlearn: its weights, bank of embeddings and self-test go whole, with
version, run and Bentos. The champion stays until another one serves; it is listed, with the command that trains without
it. What cannot be deleted, as in write-once storage, is reported as not erased.
"""

import contextlib
import hashlib
import shutil
import tarfile
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from pawprint import dvc, lineage
from pawprint.data import corrections, manifest, origins
from pawprint.data.class_folders import class_folders
from pawprint.data.inbox import FOLDER as INBOX
from pawprint.data.inbox import Inbox
from pawprint.errors import PawprintError
from pawprint.files import files_in, write_text
from pawprint.inference.classifier import ModelInfo
from pawprint.lineage import Champion
from pawprint.serving import bento, segments, traffic
from pawprint.serving.kept import FOLDER as PICTURES
from pawprint.serving.kept import PictureStore
from pawprint.serving.schema import ABOUT, About
from pawprint.tracking.registry import CHAMPION
from pawprint.tracking.run import FOLDER
from pawprint.tracking.tracker import Tracker


@dataclass
class Place:
    """Somewhere that the photograph, or something made of it, is."""

    what: str  # for a person
    count: int  # files, rows, ...
    remove: Callable[[], int | None] | None  # how many there were, where that is known; None: it cannot be erased here
    note: str = ""  # what to do about it, or why it failed
    erased: bool = False


def find(root: Path, digest: str, logs: Iterable[Path], shipped: str = "") -> list[Place]:
    """Every place, and how to erase it. Nothing is changed. `shipped`: the folder or URL of the logs' segments.

    Raises:
        PawprintError: the photograph is nowhere.
    """
    found = [
        *_data(root, digest),
        *_caches(root, digest),
        *_logs(digest, logs),
        *_segments(digest, shipped),
        *_models(root, digest),
    ]
    if not found:
        raise PawprintError(f"{digest} is nowhere here: not in data/, the caches, the traffic log or a model.")
    return found


def erase(places: list[Place]) -> bool:
    """Erase each place that can be; whether all of those are."""
    for place in places:
        if place.remove is None:
            continue
        try:
            removed = place.remove()
            place.count = place.count if removed is None else removed
            place.erased = True
        except Exception as error:  # a remote that does not answer, storage that is written once: the others go on
            place.note = f"not erased: {error}"
    return all(place.erased or place.remove is None for place in places)


def report(digest: str, places: list[Place], dry: bool = False) -> str:
    """What was found and what came of it, to be handed to the person who asked."""
    when = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    lines = [f"Photograph {digest}", f"{'Looked for' if dry else 'Erased'} {when}", ""]
    for place in places:
        state = "found" if dry else "ERASED" if place.erased else "NOT ERASED"
        if place.remove is None:
            state = "NOT ERASED" if not dry else "stays"
        note = f" ({place.note})" if place.note else ""
        lines.append(f"{state:10}  {place.what}: {place.count:,}{note}")
    return "\n".join(lines) + "\n"


def _data(root: Path, digest: str) -> Iterator[Place]:
    data = root / "data"
    rows = origins.of(data, digest)
    files = [path for path in (data / row.file for row in rows if row.file) if path.is_file()]
    files = [path for path in files if lineage.sha256(path) == digest]
    if not rows and data.is_dir():  # put there by hand: it has no row
        everything = (file for folder in class_folders(data) for file in files_in(folder))
        files = [file for file in everything if lineage.sha256(file) == digest]
    if files:
        contents = {_md5(path) for path in files}
        yield Place("files of data/, a new version without it", len(files), lambda: _drop(root, digest))
        yield from _objects(root, digest, contents)
    elif rows:
        yield Place("row of data/origins.csv", len(rows), lambda: _drop(root, digest))
        yield from _objects(root, digest, set())
    for row in rows:
        for kept in (root / "cache" / "downloads").glob("*"):
            if kept.name == Path(row.source).name:
                yield Place(f"cache/downloads/{kept.name}, the archive it came in", 1, _deleting(kept))
    inbox = Inbox(root / INBOX)
    if digest in inbox:
        yield Place("picture of the inbox", 1, lambda: inbox.remove([digest]))


def _drop(root: Path, digest: str) -> None:
    """data/ without the photograph; its row keeps the hash alone, so that no import brings it back."""
    corrections.forget(root / "data", digest)
    if (root / ".dvc").is_dir():
        dvc.add(root)
    (root / dvc.BEFORE).unlink(missing_ok=True)  # `photos undo` would bring it back


def _objects(root: Path, digest: str, contents: set[str]) -> Iterator[Place]:
    """Objects of DVC's cache and of its remotes: the file's own, and shards of prepared sets that hold it."""
    if not (root / ".dvc").is_dir():
        return
    shards = {name for name, path in dvc.objects(root).items() if _is_shard_with(path, digest)}
    note = "versions of the data and of prepared sets that had it cannot be restored whole any more"
    yield from _stored(root, contents | shards, "", note)


def _stored(root: Path, names: Collection[str], of: str, note: str) -> Iterator[Place]:
    """Objects with these MD5 in DVC's cache and in its remotes."""
    held = [path for name, path in dvc.objects(root).items() if name in names]
    if held:
        yield Place(f"objects of DVC's cache{of}", len(held), _deleting(*held), note)
    for name in dvc.remotes(root) if names else ():
        try:
            there, problem = dvc.stored(root, name, names), ""
        except Exception as error:  # it is tried again, and said, when it is to be erased
            there, problem = list(names), f"it does not answer: {error}"
        if there:
            remove = partial(dvc.delete, root, name, there)
            yield Place(f"objects of the remote `{name}`{of}", len(there), remove, problem)


def _is_shard_with(path: Path, digest: str) -> bool:
    """Is it a tar with the photograph as a member? Whatever is no tar is known by its first block."""
    try:
        with path.open("rb") as file:
            file.seek(257)
            if file.read(5) != b"ustar":
                return False
        with tarfile.open(path) as shard:
            return f"{digest}.jpg" in shard.getnames()
    except (OSError, tarfile.TarError):
        return False


def _caches(root: Path, digest: str) -> Iterator[Place]:
    prepared = root / "prepared"
    shards = [path for path in (prepared / "shards").glob("*.tar") if _is_shard_with(path, digest)]
    listed = prepared / manifest.FILE
    known = bool(shards) or (listed.exists() and any(row.hash == digest for row in manifest.read(listed)))
    if known:  # a rejected one is in no shard, and its thumbnail is in report.html
        what = "prepared/, which `pawprint run` makes anew"
        yield Place(what, max(1, len(shards)), lambda: shutil.rmtree(prepared))
    row = bytes.fromhex(digest)
    features = [path for path in (root / "cache" / "features").rglob("*.safetensors") if row in path.read_bytes()]
    if features:
        yield Place("files of cache/features/, computed anew", len(features), _deleting(*features))
    pages = [path for path in (root / "reports").glob("*") if path.name != "releases"]
    if pages and (known or any(_names(path, digest) for page in pages for path in (page, *page.rglob("*")))):
        yield Place("reports/ (not its releases), which `pawprint run` makes anew", len(pages), _deleting(*pages))
    if pages := [path for path in root.glob("*.html") if _names(path, digest)]:
        yield Place("pages of `pawprint compare --pictures`", len(pages), _deleting(*pages))
    review = root / "cache" / "review"
    thumbnail = review / "thumbnails" / digest[:2] / f"{digest}.jpg"
    if thumbnail.exists():
        yield Place("thumbnail of the review page", 1, _deleting(thumbnail))
    said = [path for path in review.glob("*.csv") if _names(path, digest)]
    if said:
        yield Place("predictions kept for the review page", len(said), _deleting(*said))


def _logs(digest: str, logs: Iterable[Path]) -> Iterator[Place]:
    for log in logs:
        store = PictureStore(log.parent / PICTURES)
        rows, pictures = traffic.holding(log, digest)
        if rows:
            yield Place(f"rows of the traffic log {log.name}", rows, lambda log=log: traffic.erase(log, digest))  # type: ignore[misc]
        there = [one for one in {*pictures, digest} if store.read(one) is not None]
        if there:

            def remove(store: PictureStore = store, there: list[str] = there) -> None:
                for one in there:
                    store.remove(one)

            yield Place(f"pictures kept beside {log.name}", len(there), remove)
        damaged = list(log.parent.glob(f"{log.name}.damaged-*"))
        if damaged:
            yield Place(f"damaged logs beside {log.name}", len(damaged), None, "they cannot be searched; delete them")


def _segments(digest: str, shipped: str) -> Iterator[Place]:
    if not shipped:
        return
    note = "older versions in a bucket that keeps them go by its own rules; rows not shipped yet lie in the pods"
    if held := segments.holding(shipped, digest):
        rows = f"rows of {len(held):,} traffic segments in {shipped}"
        yield Place(rows, sum(held.values()), lambda: segments.erase(shipped, held, digest), note)
    store = segments.Pictures(Path(), shipped)
    if there := [one for one in {digest, *segments.kept(shipped, held, digest)} if store.read(one)]:
        yield Place(f"pictures kept in {shipped}", len(there), lambda: sum(map(store.remove, there)), note)


def _models(root: Path, digest: str) -> Iterator[Place]:
    """What learned from it, and what shows it as a test photograph."""
    tracker = Tracker(root)
    remedy = (
        "`pawprint run` trains without it; when another version is champion (where the gate keeps this one, move the "
        "alias in MLflow), erase again"
    )
    serves, gone = {Champion.read(root).model_digest} if (root / "champion.json").exists() else set(), set()
    for version in tracker.registry.versions():
        names = tracker.artifact(version.run_id, f"{FOLDER}/photographs.txt")
        if not names or not _names(names, digest):
            continue
        bentos, aliases = tracker.registry.bentos(version), tracker.registry.aliases(version)
        shown = f"{version.model}/{version.version}{''.join(f' @{one}' for one in aliases)}, run {version.run_id[:8]}"
        what = f"model that learned from it: {shown}, Bentos: {', '.join(bentos) or 'none'}"
        if CHAMPION in aliases or version.model_digest in serves:
            serves.add(version.model_digest)
            yield Place(what, 1, None, remedy)
        else:
            gone.add(version.run_id)
            yield Place(what, 1, partial(_remove_version, tracker, version, list(bentos)))
    yield from _folders(root, digest, serves, remedy)
    contents = set()
    for run_id in tracker.search_runs(""):
        tested = tracker.artifact(run_id, "evaluation/test.csv")
        plots = tracker.artifacts(run_id, "evaluation", ".png") if tested and _names(tested, digest) else {}
        pages = tracker.artifacts(run_id, "", ".html") | tracker.artifacts(run_id, "photographs", ".html")
        showing = plots | {name: path for name, path in pages.items() if _names(path, digest)}
        contents |= {_md5(path) for path in showing.values()}
        if showing and run_id not in gone:
            remove = partial(tracker.remove_artifacts, run_id, list(showing))
            yield Place(f"plots and pages of the run {run_id[:8]}, which may show it", len(showing), remove)
    yield from _examples(root, digest, contents)


def _examples(root: Path, digest: str, contents: set[str]) -> Iterator[Place]:
    """An example on the service's page; DVC's objects of it, and of plots and pages with these MD5."""
    about = root / "champion" / ABOUT
    if _names(about, digest):
        note = "a service that runs shows it until it loads the model again; `pawprint run` packages another one"
        yield Place(f"example in champion/{ABOUT}", 1, lambda: _drop_example(about, digest), note)
    if tags := [tag for tag, folder in bento.folders().items() if _names(folder / "src" / "champion" / ABOUT, digest)]:
        what = f"Bentos that show it as an example: {', '.join(tags)}"
        yield Place(what, len(tags), partial(bento.delete, *tags))
    if (root / ".dvc").is_dir():
        contents = contents | {name for name, path in dvc.objects(root).items() if _is_page_with(path, digest)}
        yield from _stored(root, contents, " with plots and pages that may show it", "")


def _is_page_with(path: Path, digest: str) -> bool:
    """Is it a page, or an about.json, with this hash in it?"""
    with path.open("rb") as file:
        return file.read(1) in (b"<", b"{") and digest.encode() in file.read()


def _drop_example(path: Path, digest: str) -> None:
    about = About.model_validate_json(path.read_bytes())
    kept = [one for one in about.examples if one.sha256 != digest]
    write_text(path, about.model_copy(update={"examples": kept}).model_dump_json(indent=1) + "\n")


def _names(path: Path, digest: str) -> bool:
    """Is it a file with this hash in it?"""
    return path.is_file() and digest.encode() in path.read_bytes()


def _remove_version(tracker: Tracker, version: Champion, bentos: list[str]) -> None:
    bento.delete(*bentos)
    tracker.remove_version(version)


def _folders(root: Path, digest: str, serves: Collection[str], remedy: str) -> Iterator[Place]:
    """Model folders, and the objects that DVC has of them."""
    caches = [root / "models", root / "cache" / "champions", root / "cache" / "registry"]
    folders = [*(path for cache in caches for path in cache.glob("*")), root / "champion", root / "challenger"]
    holding = [folder for folder in folders if digest in lineage.claimed(folder)]
    stay = [folder for folder in holding if folder.name == "champion" or ModelInfo.read(folder).model_digest in serves]
    what = "model folders that learned from it: {}"
    if going := [folder for folder in holding if folder not in stay]:
        names = ", ".join(folder.relative_to(root).as_posix() for folder in going)
        objects = {_md5(path) for folder in going for path in folder.rglob("*") if path.is_file()}
        objects -= {_md5(path) for folder in stay for path in folder.rglob("*") if path.is_file()}
        if (root / ".dvc").is_dir():
            yield from _stored(root, objects, " with these models", "")
        yield Place(what.format(names), len(going), _deleting(*going), "`pawprint run` trains without it")
    if stay:
        names = ", ".join(folder.relative_to(root).as_posix() for folder in stay)
        yield Place(what.format(names), len(stay), None, remedy)


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def _deleting(*paths: Path) -> Callable[[], None]:
    def remove() -> None:
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                path.parent.chmod(path.parent.stat().st_mode | 0o200)
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    return remove

"""One photograph, or one picture that the service was sent, out of everything that this machine and its remote hold.

    found = find(root, "9f86d0...", [Path("traffic/pets.db")])      # a list of places; nothing is changed
    erase(found)                                                     # each place by itself; what fails is said
    print(report("9f86d0...", found))

What can be deleted is: the file, its versions in DVC's cache and remotes, the prepared set and features that hold it,
its thumbnails, rows and kept pictures of the traffic log. What learned from it cannot be unlearned: models are listed,
with the command that trains without it. What cannot be deleted, as in write-once storage, is reported as not erased.
"""

import contextlib
import hashlib
import shutil
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from pawprint import dvc, lineage
from pawprint.data import corrections, origins
from pawprint.data.class_folders import class_folders, files_in
from pawprint.data.inbox import FOLDER as INBOX
from pawprint.data.inbox import Inbox
from pawprint.errors import PawprintError
from pawprint.serving import segments, traffic
from pawprint.serving.kept import FOLDER as PICTURES
from pawprint.serving.kept import PictureStore
from pawprint.tracking.run import FOLDER
from pawprint.tracking.tracker import Tracker


@dataclass
class Place:
    """Somewhere that the photograph, or something made of it, is."""

    what: str  # for a person
    count: int  # files, rows, ...
    remove: Callable[[], None] | None  # None: it cannot be erased here
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
            place.remove()
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
        contents = {hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() for path in files}
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
    kept = dvc.objects(root).items()
    held = {name: path for name, path in kept if name in contents or _is_shard_with(path, digest)}
    names = held.keys() | contents
    if held:
        note = "versions of the data and of prepared sets that had it cannot be restored whole any more"
        yield Place("objects of DVC's cache", len(held), _deleting(*held.values()), note)
    for name in dvc.remotes(root):
        yield Place(f"objects of the remote `{name}`", len(names), partial(dvc.delete, root, name, names))


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
    if shards:
        yield Place("prepared/, which `pawprint run` makes anew", len(shards), lambda: shutil.rmtree(prepared))
    row = bytes.fromhex(digest)
    features = [path for path in (root / "cache" / "features").rglob("*.safetensors") if row in path.read_bytes()]
    if features:
        yield Place("files of cache/features/, computed anew", len(features), _deleting(*features))
    pages = [path for path in (root / "reports").glob("*") if path.name != "releases"]
    if any(
        digest.encode() in path.read_bytes() for page in pages for path in (page, *page.rglob("*")) if path.is_file()
    ):
        yield Place("reports/ (not its releases), which `pawprint run` makes anew", len(pages), _deleting(*pages))
    review = root / "cache" / "review"
    thumbnail = review / "thumbnails" / digest[:2] / f"{digest}.jpg"
    if thumbnail.exists():
        yield Place("thumbnail of the review page", 1, _deleting(thumbnail))
    said = [path for path in review.glob("*.csv") if digest.encode() in path.read_bytes()]
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
    if shipped and (held := segments.holding(shipped, digest)):
        note = "older versions in a bucket that keeps them go by its own rules; rows not shipped yet lie in the pods"
        rows = f"rows of {len(held):,} traffic segments in {shipped}"
        yield Place(rows, sum(held.values()), lambda: segments.erase(shipped, held, digest), note)


def _models(root: Path, digest: str) -> Iterator[Place]:
    """What learned from it: its weights, bank and self-test cannot be told apart from the model."""
    tracker = Tracker(root)
    versions = []
    for version in tracker.registry.versions():
        names = tracker.artifact(version.run_id, f"{FOLDER}/photographs.txt")
        if names and digest in names.read_text(encoding="ascii").split():
            versions.append(version)
    remedy = "`pawprint run` trains without it; then delete the version, its run and its Bentos"
    for version in versions:
        bentos = ", ".join(tracker.registry.bentos(version)) or "none"
        aliases = "".join(f" @{alias}" for alias in tracker.registry.aliases(version))
        name = f"{version.model}/{version.version}{aliases}, run {version.run_id[:8]}, Bentos: {bentos}"
        yield Place(f"model that learned from it: {name}", 1, None, remedy)
    folders = [*(root / "models").glob("*"), *(root / "cache" / "champions").glob("*"), root / "champion",
               root / "challenger"]  # fmt: skip
    holding = [folder.relative_to(root).as_posix() for folder in folders if digest in lineage.claimed(folder)]
    if holding:
        yield Place(f"model folders that learned from it: {', '.join(holding)}", len(holding), None, remedy)
    if tracker.registry.versions():
        note = "a run's report and plots may show it: look, and delete the run"
        yield Place("MLflow's runs, whose pictures are not searched", 1, None, note)


def _deleting(*paths: Path) -> Callable[[], None]:
    def remove() -> None:
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                path.parent.chmod(path.parent.stat().st_mode | 0o200)
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    return remove

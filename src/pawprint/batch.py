"""Pictures by the million -> a Parquet dataset of predictions, which a killed run resumes.

    run("s3://bucket/pets/", "predictions/", Classifier(Path("champion")))

Pictures are taken in a fixed order, in chunks of CHUNK. A chunk becomes one part, whose name is a digest of the model,
the recipe and the chunk's keys and etags, and which appears whole or not at all. A run does the chunks whose part is
not there, so nothing but the parts says what is done; `_manifest.json` comes last. The caller holds one chunk's rows
and the pictures that are read ahead, whatever the size of the source.
"""

import hashlib
import heapq
import json
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from pawprint import files, image, parallel
from pawprint.data import archives, download, inventory
from pawprint.data.class_folders import INVENTORY, description
from pawprint.errors import PawprintError
from pawprint.inference.classifier import Classifier, FileResult
from pawprint.lineage import Champion
from pawprint.parallel import in_order
from pawprint.progress import Progress, duration, say

CHUNK = 4096  # pictures of a part
READERS = 16  # threads that read pictures from a bucket; a disk needs fewer, and has idle ones
AHEAD = 64  # pictures that are read before a core is free for them
RECIPE = 2  # raised when the columns, or the meaning of one, change
MEASURED = 16  # pictures whose time gives the estimate
SHOWN = 10  # of the least sure
MANIFEST, STARTED = "_manifest.json", "_started.json"


@dataclass(frozen=True)
class Picture:
    """A picture of a source, not read yet."""

    key: str  # its path within the source, or what the inventory names
    etag: str  # changes with its content, as far as the source says; "" where it says nothing
    read: Callable[[], bytes]


@dataclass(frozen=True)
class Source:
    """Where pictures come from; `pictures` lists them anew, in the same order."""

    name: str
    pictures: Callable[[], Iterator[Picture]]
    readers: int  # threads that may read at a time: 1 where an archive is read from front to back
    shared: bool = True  # may pictures be read by other processes? Not those of an archive that is open here


@dataclass(frozen=True)
class Summary:
    """What a finished run has written."""

    pictures: int
    labels: dict[str, int]  # pictures by label
    errors: int
    least_sure: tuple[tuple[str, str, float], ...]  # key, label and score
    resumed: int  # pictures whose parts were there already


def run(
    where: str, out: str, classifier: Classifier, suffixes: Collection[str] = image.IMAGE_SUFFIXES,
    limit: int | None = None,
) -> Summary:  # fmt: skip
    """Classify every picture of a source.

    Args:
        where: a folder, an archive, an http(s) URL of one, an s3 URL of a folder, or a Parquet inventory (local or s3)
            with a column `key` of paths or URLs and, if it has one, a column `etag`.
        out: a folder or an s3 URL.
        suffixes: of the files that count as pictures; an inventory's rows all count.
        limit: the first pictures only.

    Raises:
        PawprintError: the source cannot be read or is empty, or `out` holds predictions of another model or source.
    """
    store = _Store(out)
    with _opened(where, frozenset(suffixes)) as source, store.lock(), ThreadPoolExecutor(source.readers) as reading:
        model, version = classifier.info.model_digest, _version(classifier)
        store.claim({
            "source": source.name, "model": model, "precision": classifier.precision, "suffixes": sorted(suffixes),
            "limit": limit, "max_pixels": classifier.max_pixels, "recipe": RECIPE,
        })  # fmt: skip

        def chunks() -> Iterator[tuple[str, list[Picture]]]:
            found = islice(source.pictures(), limit)
            while chunk := list(islice(found, CHUNK)):
                yield _part_name(chunk, f"{RECIPE} {model} {classifier.precision}"), chunk

        # 1. what there is, and what of it is done
        here = store.parts()
        sizes = {name: len(chunk) for name, chunk in chunks()}
        total, left = sum(sizes.values()), sum(size for name, size in sizes.items() if name not in here)
        if not total:
            raise PawprintError(f"{source.name} holds no photographs ({', '.join(sorted(suffixes))}).")
        parts = f"{len(sizes):,} part{'s' * (len(sizes) > 1)}"
        say(f"{source.name}: {total:,} photographs in {parts}, {total - left:,} of them predicted before")

        # 2. the rest, in order, on every core; the manifest is true of what is there, or not there
        if left or here - sizes.keys():
            store.remove({MANIFEST})
        todo = ((name, chunk) for name, chunk in chunks() if name not in here)
        if parallel.on_ray() and source.shared:
            how = model, version, classifier.precision, classifier.max_pixels
            about = classifier.folder.absolute(), *how, store.out
            with Progress("predicting", left, unit="pictures") as progress:
                for count in parallel.map(partial(_ChunkWriter, *about), todo):  # only counts come here
                    progress.advance(count)
        else:
            _classify(todo, left, classifier, version, reading, store)

        # 3. no part of an earlier listing stays; the manifest says that all is there
        store.remove(here - sizes.keys())
        summary = _summary(store, list(sizes), total - left)
        lineage = classifier.info.lineage.model_dump()
        store.write(MANIFEST, json.dumps({
            "source": source.name, "pictures": total, "labels": summary.labels, "errors": summary.errors,
            "classes": classifier.info.classes, "model_version": version, "model_digest": model,
            "precision": classifier.precision, "lineage": lineage, "parts": list(sizes),
        }, indent=1).encode())  # fmt: skip
        return summary


def _classify(
    todo: Iterable[tuple[str, list[Picture]]], left: int, classifier: Classifier, version: str,
    reading: ThreadPoolExecutor, store: "_Store",
) -> None:  # fmt: skip
    """Write a part for each chunk. Reading and classifying run on across the border of two chunks."""
    begun: deque[tuple[str, list[Picture]]] = deque()

    def pictures() -> Iterator[Picture]:
        for name, chunk in todo:
            begun.append((name, chunk))
            yield from chunk

    rows: list[FileResult] = []
    started = time.monotonic()
    with ThreadPoolExecutor(classifier.streams) as pool, Progress("predicting", left, unit="pictures") as progress:
        read = in_order(reading, _read, pictures(), AHEAD)
        results = in_order(pool, partial(_predicted, classifier), read, 4 * classifier.streams)
        for done, result in enumerate(results, 1):
            rows.append(result)
            if done == MEASURED < left:
                rate = done / (time.monotonic() - started)
                say(f"about {duration((left - done) / rate)} at {rate:,.0f} photographs a second")
            progress.advance(1)
            name, chunk = begun[0]
            if len(rows) == len(chunk):
                store.write(name, _part(chunk, rows, classifier, version))
                begun.popleft()
                rows = []


def _read(picture: Picture) -> tuple[Picture, bytes | OSError]:
    try:
        return picture, picture.read()
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        return picture, error


def _predicted(classifier: Classifier, given: tuple[Picture, bytes | OSError]) -> FileResult:
    picture, data = given
    if isinstance(data, OSError):
        return FileResult(Path(picture.key), None, f"it cannot be read: {data.strerror or data}")
    try:
        return FileResult(Path(picture.key), classifier.classify(data), "")
    except image.BadImage as error:
        return FileResult(Path(picture.key), None, str(error))


class _ChunkWriter:
    """Predicts and writes chunks in a process of a cluster, with the same model in the same precision."""

    def __init__(self, folder: Path, model: str, version: str, precision: str, max_pixels: int, out: str) -> None:
        self.classifier, self.version, self.store = Classifier(folder, max_pixels=max_pixels), version, _Store(out)
        found = self.classifier.info.model_digest, self.classifier.precision
        if found != (model, precision):
            raise PawprintError(
                f"{socket.gethostname()} has another model in {folder}, or computes in {found[1]} and not {precision}. "
                "Let every node see the same files, and use nodes of one kind."
            )

    def __call__(self, given: tuple[str, list[Picture]]) -> int:
        name, chunk = given
        read = in_order(ThreadPoolExecutor(READERS), _read, chunk, AHEAD)
        rows = [_predicted(self.classifier, one) for one in read]
        self.store.write(name, _part(chunk, rows, self.classifier, self.version))
        return len(chunk)


def _part_name(chunk: list[Picture], recipe: str) -> str:
    digest = hashlib.sha256(recipe.encode())
    for picture in chunk:
        digest.update(f"\n{picture.key}\0{picture.etag}".encode("utf-8", "surrogateescape"))
    return f"{digest.hexdigest()[:32]}.parquet"


def _part(chunk: list[Picture], rows: list[FileResult], classifier: Classifier, version: str) -> bytes:
    """Parquet of one chunk, a row a picture in the chunk's order."""
    classes = classifier.info.classes
    found = [row.classification for row in rows]
    scores = [list(one.probabilities.values()) if one else None for one in found]
    shown = [picture.key.encode("utf-8", "replace").decode() for picture in chunk]
    table = pa.table(
        {
            "key": pa.array(shown, pa.string()),
            "etag": pa.array([picture.etag for picture in chunk], pa.string()),
            "label": pa.array([one.label if one else None for one in found], pa.string()),
            "score": pa.array([max(row) if row else None for row in scores], pa.float32()),
            "probabilities": pa.array(scores, pa.list_(pa.float32())),
            "typicality": pa.array([one.knn_similarity if one else None for one in found], pa.float32()),
            "reason": pa.array([one.reason if one else None for one in found], pa.string()),
            "error": pa.array([row.error or None for row in rows], pa.string()),
            "model_version": pa.array([version] * len(rows)).dictionary_encode(),
            "model_digest": pa.array([classifier.info.model_digest] * len(rows)).dictionary_encode(),
        },
        metadata={"classes": json.dumps(classes), "lineage": classifier.info.lineage.model_dump_json()},
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return bytes(sink.getvalue())


def _version(classifier: Classifier) -> str:
    """NAME/VERSION of the registered model; "" where it was never registered, or its folder has another by now."""
    if not (classifier.folder / "champion.json").exists():
        return ""
    champion = Champion.read(classifier.folder)
    same = champion.model_digest == classifier.info.model_digest
    return f"{champion.model}/{champion.version}" if same else ""


def _summary(store: "_Store", parts: list[str], resumed: int) -> Summary:
    labels: Counter[str] = Counter()
    errors = 0
    unsure: list[tuple[float, str, str]] = []
    for name in parts:
        for row in store.rows(name, ["key", "label", "score"]):
            if row["label"] is None:
                errors += 1
                continue
            labels[row["label"]] += 1
            entry = (-row["score"], row["key"], row["label"])
            (heapq.heappush if len(unsure) < SHOWN else heapq.heappushpop)(unsure, entry)
    least_sure = tuple((key, label, -score) for score, key, label in sorted(unsure, reverse=True))
    return Summary(sum(labels.values()) + errors, dict(labels.most_common()), errors, least_sure, resumed)


@contextmanager
def _opened(where: str, suffixes: frozenset[str]) -> Iterator[Source]:
    shown = download.public_part(where) if "://" in where else where
    system, root = files.file_system(where) if where.startswith("s3://") else (None, where)
    with _explained(shown):
        if where.endswith(".parquet"):
            yield Source(shown, lambda: _inventory(where), READERS)
        elif system or Path(where).is_dir():
            system = system or fsspec.filesystem("file")
            yield Source(shown, lambda: _walk(system, root, suffixes), READERS)
        else:
            with archives.opened(download.local(where).path) as archive:
                yield Source(shown, lambda: _members(archive, suffixes), 1, shared=False)


def _walk(system: Any, root: str, suffixes: frozenset[str]) -> Iterator[Picture]:
    """Files below a folder, folder by folder; one folder's names are in memory at a time."""
    root = str(root).rstrip("/")
    for folder, below, found in system.walk(root, detail=True):
        for name in sorted(below):  # `walk` goes on in what is left, in the order that it has then
            info = below.pop(name)
            if not name.startswith("."):
                below[name] = info
        for name in sorted(found):
            if PurePosixPath(name).suffix.lower() in suffixes and not name.startswith("."):
                info = found[name]
                etag = files.etag(info) or f"{info.get('size')}-{info.get('mtime', '')}"
                path = f"{folder.rstrip('/')}/{name}"
                yield Picture(path.removeprefix(system._strip_protocol(root)).lstrip("/"), etag, _reader(system, path))


def _members(archive: archives.Source, suffixes: frozenset[str]) -> Iterator[Picture]:
    """Files of an archive, in its own order."""

    def reader(name: str) -> Callable[[], bytes]:
        return lambda: b"".join(stream.read() for _, stream in archive.streams({name}))

    for name, size in archive.files.items():
        path = PurePosixPath(name)
        if path.suffix.lower() in suffixes and not path.name.startswith("."):
            yield Picture(name, str(size), reader(name))


def _inventory(where: str) -> Iterator[Picture]:
    """Rows of a Parquet file, batch by batch; a key that is no URL lies beside it, or in the bucket of a data/."""
    beside = where.rpartition("/")[0]
    if "://" not in where and Path(where).name == INVENTORY:
        beside = str(description(Path(where).parent).get("source", beside)).rstrip("/")
    with fsspec.open(where, "rb") as file:
        table = pq.ParquetFile(file, pre_buffer=False)  # which would keep all that was read
        if "key" not in table.schema_arrow.names:
            raise PawprintError(f"{where} has no column `key`, but {', '.join(table.schema_arrow.names)}. Rename one.")
        columns = [name for name in ("key", "etag") if name in table.schema_arrow.names]
        systems: dict[str, Any] = {}
        for batch in table.iter_batches(CHUNK, columns=columns, use_threads=False):
            for row in batch.to_pylist():
                key = str(row["key"])
                full = key if "://" in key or key.startswith("/") or not beside else f"{beside}/{key}"
                kind = full.partition("://")[0] if "://" in full else "file"
                if kind not in systems:
                    systems[kind] = files.file_system(full)[0]
                system = systems[kind]
                yield Picture(key, str(row.get("etag") or ""), _reader(system, system._strip_protocol(full)))


def _reader(system: Any, path: str) -> Callable[[], bytes]:
    """Reads one file; a bucket that does not answer is asked again."""
    if "file" in system.protocol:
        return Path(path).read_bytes
    return partial(_fetch, system, path)


@inventory.retried
def _fetch(system: Any, path: str) -> bytes:
    return bytes(system.cat_file(path))


@contextmanager
def _explained(shown: str) -> Iterator[None]:
    from botocore.exceptions import BotoCoreError

    try:
        yield
    except FileNotFoundError as error:
        raise PawprintError(f"{shown} does not exist ({error}).") from None
    except (OSError, pa.ArrowInvalid, BotoCoreError) as error:
        raise PawprintError(f"{shown} cannot be read or written: {error}. What is done stays; run it again.") from None


class _Store:
    """The folder or bucket that the parts are written to."""

    def __init__(self, out: str) -> None:
        self.out = out.rstrip("/")
        self._system, self._root = files.file_system(self.out)
        self._local = "file" in self._system.protocol

    def claim(self, what: dict[str, Any]) -> None:
        """Note what is written here; PawprintError where it is something else, or files of somebody else."""
        known = self._read(STARTED)
        if known is None:
            if self._system.exists(self._root) and any(not name.startswith(".") for name in self._names()):
                raise PawprintError(f"{self.out} holds other files. Name a new or empty folder.")
            self.write(STARTED, json.dumps(what, indent=1).encode())
        elif json.loads(known) != what:
            other = ", ".join(name for name, value in what.items() if json.loads(known).get(name) != value)
            raise PawprintError(
                f"{self.out} holds predictions of another {other}. Name another folder, or remove this one."
            )

    def parts(self) -> set[str]:
        return {name for name in self._names() if name.endswith(".parquet") and not name.startswith(".")}

    def rows(self, name: str, columns: list[str]) -> Iterator[dict[str, Any]]:
        with self._system.open(f"{self._root}/{name}", "rb") as file:
            yield from pq.read_table(file, columns=columns).to_pylist()

    def write(self, name: str, data: bytes) -> None:
        """Whole or not at all: by rename on a disk, by PUT in a bucket."""
        if self._local:
            files.write_bytes(Path(self._root, name), data)
        else:
            self._system.pipe_file(f"{self._root}/{name}", data)

    def remove(self, names: Collection[str]) -> None:
        """Remove files, and what killed runs left half written."""
        left = [name for name in self._names() if name.startswith(".") and name.endswith(".partial")]
        for name in (*names, *left):
            with suppress(FileNotFoundError):
                self._system.rm_file(f"{self._root}/{name}")

    def lock(self) -> AbstractContextManager[Any]:
        """Keeps a second run out of a folder; a bucket has no locks, and two runs there write the same parts."""
        if not self._local:
            return nullcontext()
        busy = f"Another run writes {self.out}. Wait for it, or end it."
        return files.lock(Path(self._root, ".lock"), busy)

    def _names(self) -> list[str]:
        if not self._system.exists(self._root):
            return []
        return [PurePosixPath(path).name for path in self._system.ls(self._root, detail=False)]

    def _read(self, name: str) -> bytes | None:
        try:
            return bytes(self._system.cat_file(f"{self._root}/{name}"))
        except FileNotFoundError:
            return None

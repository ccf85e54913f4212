"""Pictures by the million -> a Parquet dataset of predictions, which a killed run resumes.

    run("s3://bucket/pets/", "predictions/", Classifier(Path("champion")))

Pictures are taken in a fixed order, in chunks of CHUNK. A chunk becomes one part, whose name is a digest of the model,
the recipe and the chunk's keys and etags, and which appears whole or not at all. A run does the chunks whose part is
not there, so nothing but the parts says what is done; `_manifest.json` comes last. The caller holds one chunk's rows
and the pictures that are read ahead, whatever the size of the source.
"""

import errno
import hashlib
import heapq
import json
import os
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pawprint import files, image, parallel
from pawprint.data import archives, download, inventory
from pawprint.data.class_folders import INVENTORY, description
from pawprint.errors import PawprintError
from pawprint.inference.classifier import Classification, Classifier, Unloaded
from pawprint.lineage import Champion
from pawprint.parallel import in_order
from pawprint.progress import Progress, duration, say

CHUNK = 4096  # pictures of a part
READERS = 16  # threads that read pictures from a bucket; a disk needs fewer, and has idle ones
AHEAD = 32  # pictures that are read before a core is free for them
RECIPE = 3  # raised when the columns, or the meaning of one, change
MEASURED = 64  # pictures whose time gives the estimate
SHOWN = 10  # of the least sure
BUFFER = 2**18  # bytes of each column of an inventory that are read at a time
MANIFEST, STARTED = "_manifest.json", "_started.json"


@dataclass(frozen=True)
class Picture:
    """A picture of a source, not read yet."""

    key: str  # its path within the source, or what the inventory names
    etag: str  # changes with its content, as far as the source says; "" where it says nothing
    read: Callable[[], bytes]


@dataclass(frozen=True)
class Chunk:
    """The pictures of one part."""

    listed: bytes | pa.Buffer  # "KEY\0ETAG\0" of each: what the part's name is a digest of
    size: int
    pictures: Callable[[], list[Picture]]

    def part(self, recipe: str) -> str:
        """The name of its part."""
        digest = hashlib.sha256(f"{recipe}\n".encode())
        digest.update(self.listed)
        return f"{digest.hexdigest()[:32]}.parquet"


@dataclass(frozen=True)
class Source:
    """Where pictures come from; `chunks` lists the first so many anew (None: all), in the same order."""

    name: str
    chunks: Callable[[int | None], Iterator[Chunk]]
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
    where: str, out: str, classifier: Classifier | Unloaded, suffixes: Collection[str] = image.IMAGE_SUFFIXES,
    limit: int | None = None,
) -> Summary:  # fmt: skip
    """Classify every picture of a source.

    Args:
        where: a folder, an archive, an http(s) URL of one, an s3 URL of a folder, or a Parquet inventory (local or s3)
            with a column `key` of paths or URLs and, if it has one, a column `etag`.
        out: a folder or an s3 URL.
        classifier: on a cluster the tasks load the model, and here an Unloaded does, which takes less memory.
        suffixes: of the files that count as pictures; an inventory's rows all count.
        limit: the first pictures only.

    Raises:
        PawprintError: the source cannot be read or is empty, or `out` holds predictions of another model or source.
    """
    store = _Store(out)
    with _opened(where, frozenset(suffixes)) as source, store.lock(), ThreadPoolExecutor(source.readers) as reading:
        on_cluster = parallel.on_ray() and source.shared
        if not on_cluster and isinstance(classifier, Unloaded):
            classifier = classifier.load()  # now, so that what is wrong with it is said before the listing
        model, version = classifier.info.model_digest, _version(classifier)
        store.claim({
            "source": source.name, "model": model, "precision": classifier.precision, "suffixes": sorted(suffixes),
            "limit": limit, "max_pixels": classifier.max_pixels, "recipe": RECIPE,
        })  # fmt: skip

        def chunks() -> Iterator[tuple[str, Chunk]]:
            return ((chunk.part(f"{RECIPE} {model} {classifier.precision}"), chunk) for chunk in source.chunks(limit))

        # 1. what there is, and what of it is done
        here = store.parts()
        sizes = {name: chunk.size for name, chunk in chunks()}
        missing = sizes.keys() - here
        total, left = sum(sizes.values()), sum(sizes[name] for name in missing)
        if not total:
            raise PawprintError(f"{source.name} holds no photographs ({', '.join(sorted(suffixes))}).")
        parts = f"{len(sizes):,} part{'s' * (len(sizes) > 1)}"
        say(f"{source.name}: {total:,} photographs in {parts}, {total - left:,} of them predicted before")

        # 2. the rest, in order, on every core; the manifest is true of what is there, or not there
        if left or here - sizes.keys():
            store.remove({MANIFEST})
        todo = _only(missing, chunks())
        if isinstance(classifier, Unloaded) or on_cluster:
            how = model, version, classifier.precision, classifier.max_pixels
            about = classifier.folder.absolute(), *how, store.out
            with Progress("predicting", left, unit="pictures") as progress:
                for count in parallel.map(partial(_ChunkWriter, *about), todo):  # only counts come here
                    progress.advance(count)
        else:
            _classify(todo, left, classifier, version, reading, store)

        if missing:
            raise PawprintError(f"{source.name} has changed meanwhile. What is done stays; run it again.")

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


def _only(missing: set[str], chunks: Iterable[tuple[str, Chunk]]) -> Iterator[tuple[str, list[Picture]]]:
    """The pictures of the parts in `missing`, each of which is taken out; nothing is listed after the last."""
    for name, chunk in chunks if missing else ():
        if name in missing:
            missing.remove(name)
            yield name, chunk.pictures()
            if not missing:
                return


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

    rows: list[Classification | str] = []
    started = 0.0
    with ThreadPoolExecutor(classifier.streams) as pool, Progress("predicting", left, unit="pictures") as progress:
        read = in_order(reading, _read, pictures(), AHEAD)
        results = in_order(pool, partial(_predicted, classifier), read, 4 * classifier.streams)
        for done, result in enumerate(results, 1):
            rows.append(result)
            started = started or time.monotonic()  # not before: the listing up to the first may take minutes
            if done == MEASURED < left:
                rate = (done - 1) / (time.monotonic() - started)
                say(f"about {duration((left - done) / rate)} at {rate:,.0f} photographs a second")
            progress.advance(1)
            name, chunk = begun[0]
            if len(rows) == len(chunk):
                store.write(name, _part(chunk, rows, classifier, version))
                begun.popleft()
                rows = []


def _read(picture: Picture) -> bytes | OSError:
    try:
        return picture.read()
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        return error


def _predicted(classifier: Classifier, data: bytes | OSError) -> Classification | str:
    """A picture's class, or the sentence that says why it has none."""
    if isinstance(data, OSError):
        return f"it cannot be read: {data.strerror or data}"
    try:
        return classifier.classify(data)
    except image.BadImage as error:
        return str(error)


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


def _part(chunk: list[Picture], rows: list[Classification | str], classifier: Classifier, version: str) -> bytes:
    """Parquet of one chunk, a row a picture in the chunk's order."""
    classes = classifier.info.classes
    found = [None if isinstance(row, str) else row for row in rows]
    scores = [list(one.probabilities.values()) if one else None for one in found]
    shown = [picture.key.encode("utf-8", "replace").decode() for picture in chunk]
    table = pa.table(
        {
            "key": _texts(shown),
            "etag": _texts([picture.etag for picture in chunk]),
            "label": _texts([one.label if one else None for one in found]),
            "score": _floats([max(row) if row else None for row in scores]),
            "probabilities": _lists(scores),
            "typicality": _floats([one.knn_similarity if one else None for one in found]),
            "refusal": _texts([one.refusal if one else None for one in found]).dictionary_encode(),
            "reason": _texts([one.reason if one else None for one in found]),
            "error": _texts([row if isinstance(row, str) else None for row in rows]),
            "model_version": _texts([version] * len(rows)).dictionary_encode(),
            "model_digest": _texts([classifier.info.model_digest] * len(rows)).dictionary_encode(),
        },
        metadata={"classes": json.dumps(classes), "lineage": classifier.info.lineage.model_dump_json()},
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return bytes(sink.getvalue())


# Not by pa.array and pa.scalar, which import pandas, 25 MB of memory, to see whether a value is one of its own.


def _texts(values: Sequence[str | None]) -> pa.Array:
    builder = pa.lib.StringBuilder()
    builder.append_values(values)
    return builder.finish()


def _floats(values: Sequence[float | None]) -> pa.Array:
    numbers = np.array([0 if value is None else value for value in values], np.float32)
    return pa.Array.from_buffers(pa.float32(), len(values), [_present(values), pa.py_buffer(numbers)])


def _lists(rows: Sequence[Sequence[float] | None]) -> pa.Array:
    ends = pa.py_buffer(np.cumsum([0, *(len(row or ()) for row in rows)], dtype=np.int32))
    numbers = _floats([number for row in rows for number in row or ()])
    return pa.Array.from_buffers(pa.list_(pa.float32()), len(rows), [_present(rows), ends], children=[numbers])


def _present(values: Sequence[object]) -> pa.Buffer:
    return pa.py_buffer(np.packbits(np.array([value is not None for value in values], bool), bitorder="little"))


_EMPTY, _ZERO = _texts(["", "\0"])


def _version(classifier: Classifier | Unloaded) -> str:
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
        table = store.table(name, ["key", "label", "score"])
        errors += table["label"].null_count
        table = table.filter(table["label"].is_valid())
        if not len(table):
            continue  # of none pyarrow cannot say which are the least
        for found in table["label"].value_counts().to_pylist():
            labels[found["values"]] += found["counts"]
        least = table.take(pc.select_k_unstable(table, SHOWN, [("score", "ascending")])).to_pylist()
        unsure = heapq.nsmallest(SHOWN, [*unsure, *((row["score"], row["key"], row["label"]) for row in least)])
    least_sure = tuple((key, label, score) for score, key, label in unsure)
    return Summary(sum(labels.values()) + errors, dict(labels.most_common()), errors, least_sure, resumed)


@contextmanager
def _opened(where: str, suffixes: frozenset[str]) -> Iterator[Source]:
    shown = download.public_part(where).rstrip("/") if "://" in where else os.path.normpath(where)
    system, root = files.file_system(where) if where.startswith("s3://") else (None, where)
    with _explained(shown):
        if where.endswith(".parquet"):
            yield Source(shown, partial(_inventory, where), READERS)
        elif system or Path(where).is_dir():
            system = system or fsspec.filesystem("file")
            yield Source(shown, partial(_chunks, partial(_walk, system, root, suffixes)), READERS)
        else:
            with archives.opened(download.local(where).path) as archive:
                yield Source(shown, partial(_chunks, partial(_members, archive, suffixes)), 1, shared=False)


def _chunks(pictures: Callable[[], Iterator[Picture]], limit: int | None) -> Iterator[Chunk]:
    found = islice(pictures(), limit)
    while chunk := list(islice(found, CHUNK)):
        listed = "".join(f"{picture.key}\0{picture.etag}\0" for picture in chunk)
        yield Chunk(listed.encode("utf-8", "surrogateescape"), len(chunk), partial(list, chunk))


def _walk(system: Any, root: str, suffixes: frozenset[str]) -> Iterator[Picture]:
    """Files below a folder, folder by folder; one folder's names are in memory at a time. Not by `walk`, which passes
    over a folder that it cannot list."""
    top = system._strip_protocol(root).rstrip("/")
    folders = [top]
    while folders:
        folder = folders.pop()
        below, found = list[str](), dict[str, Any]()
        for info in system.ls(folder, detail=True):
            path = info["name"].rstrip("/")
            if path == folder or PurePosixPath(path).name.startswith("."):
                continue  # a bucket may have an object for the folder itself
            if info["type"] == "directory":
                below.append(path)
            elif PurePosixPath(path).suffix.lower() in suffixes:
                found[path] = info
        for path in sorted(found):
            info = found[path]
            etag = files.etag(info) or f"{info.get('size')}-{info.get('mtime', '')}"
            yield Picture(path.removeprefix(f"{top}/"), etag, _reader(system, path))
        folders += sorted(below, reverse=True)


def _members(archive: archives.Source, suffixes: frozenset[str]) -> Iterator[Picture]:
    """Files of an archive, in its own order."""
    for name, size in archive.files.items():
        path = PurePosixPath(name)
        if path.suffix.lower() in suffixes and not path.name.startswith("."):
            yield Picture(name, str(size), partial(archive.read, name))


def _inventory(where: str, limit: int | None) -> Iterator[Chunk]:
    """Rows of a Parquet file; of chunks that are done already no row becomes an object of Python."""
    with fsspec.open(where, "rb") as file:
        table = pq.ParquetFile(file, pre_buffer=False, buffer_size=BUFFER)  # else whole columns of a group are kept
        if "key" not in table.schema_arrow.names:
            raise PawprintError(f"{where} has no column `key`, but {', '.join(table.schema_arrow.names)}. Rename one.")
        columns = [name for name in ("key", "etag") if name in table.schema_arrow.names]
        left = table.metadata.num_rows if limit is None else limit
        for batch in table.iter_batches(CHUNK, columns=columns, use_threads=False):
            rows = batch.slice(0, left)
            left -= len(rows)
            if not len(rows):
                return
            keys = rows["key"].cast(pa.string())
            etags = rows["etag"].cast(pa.string()) if "etag" in columns else pa.repeat(_EMPTY, len(rows))
            pairs = pc.binary_join_element_wise(keys, etags, _EMPTY, _ZERO, null_handling="replace")
            listed = pairs.buffers()[2].slice(0, pc.sum(pc.binary_length(pairs)).as_py())
            yield Chunk(listed, len(rows), partial(_rows, where, keys, etags))


def _rows(where: str, keys: pa.Array, etags: pa.Array) -> list[Picture]:
    """Pictures of an inventory; a key that is no URL lies beside it, or in the bucket of a data/."""
    beside, systems, found = where.rpartition("/")[0], dict[str, Any](), []
    if "://" not in where and Path(where).name == INVENTORY:
        beside = str(description(Path(where).parent).get("source", beside)).rstrip("/")
    for key, etag in zip(keys.to_pylist(), etags.to_pylist(), strict=True):
        key = key or ""
        full = key if "://" in key or key.startswith("/") or not beside else f"{beside}/{key}"
        kind = full.partition("://")[0] if "://" in full else "file"
        if kind not in systems:
            try:
                systems[kind] = files.file_system(full)[0]
            except (ValueError, ImportError) as error:
                raise PawprintError(f"{where} names {download.public_part(full)}: {error}.") from None
        system = systems[kind]
        found.append(Picture(key, etag or "", _reader(system, system._strip_protocol(full))))
    return found


def _reader(system: Any, path: str) -> Callable[[], bytes]:
    """Reads one file; a bucket that does not answer is asked again."""
    if "file" in system.protocol:
        return partial(_file, path)
    return partial(_fetch, system, path)


def _file(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except (ValueError, OSError) as error:  # an inventory may have any key, and one such must not end a run for good
        if isinstance(error, OSError) and error.errno not in (errno.ENAMETOOLONG, errno.ENOTDIR, errno.ELOOP):
            raise
        raise FileNotFoundError(errno.ENOENT, "no file has such a name") from None


@inventory.retried
def _fetch(system: Any, path: str) -> bytes:
    import aiohttp

    try:
        return bytes(system.cat_file(path))
    except aiohttp.ClientResponseError as error:
        if error.status in (401, 403, 410):
            raise PermissionError(error.status, f"{error.status} {error.message}") from None
        raise OSError(f"{error.status} {error.message}") from None


@contextmanager
def _explained(shown: str) -> Iterator[None]:
    from botocore.exceptions import BotoCoreError

    try:
        yield
    except FileNotFoundError as error:
        raise PawprintError(f"{shown} does not exist ({error}).") from None
    except (OSError, pa.ArrowException, BotoCoreError) as error:
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

    def table(self, name: str, columns: list[str]) -> pa.Table:
        with self._system.open(f"{self._root}/{name}", "rb") as file:
            return pq.ParquetFile(file).read(columns, use_threads=False)

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

"""`pawprint batch`: every picture once, whatever happens on the way."""

import errno
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem
from typer.testing import CliRunner

from pawprint import batch, parallel
from pawprint.cli.main import app
from pawprint.data import archives, inventory
from pawprint.errors import PawprintError
from pawprint.inference import backends
from pawprint.inference.classifier import Classifier, Unloaded
from s3_server import s3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, pictures: dict[str, bytes]) -> Path:
    """30 pictures in two folders, one file that is none, one hidden and one of another suffix."""
    root = tmp_path_factory.mktemp("pictures")
    for number in range(30):
        name = ("red", "blue", "green")[number % 3]
        path = root / ("a" if number < 10 else "b c") / f"{number:02}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(pictures[name] + bytes(number))  # the same picture, another file
    (root / "broken.jpg").write_bytes(b"not a photograph")
    (root / "._a.jpg").write_bytes(b"what macOS leaves")
    (root / "notes.txt").write_text("no photograph")
    return root


@pytest.fixture(scope="module")
def classifier(toy_model: Path) -> Classifier:
    return Classifier(toy_model)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "CHUNK", 7)


def rows(out: Path) -> list[dict[str, object]]:
    manifest = json.loads((out / batch.MANIFEST).read_bytes())
    assert sorted(manifest["parts"]) == sorted(path.name for path in out.glob("*.parquet"))
    return [row for part in manifest["parts"] for row in pq.read_table(out / part).to_pylist()]


def test_a_row_for_every_picture_says_what_the_classifier_says(
    folder: Path, classifier: Classifier, tmp_path: Path
) -> None:
    done = batch.run(str(folder), str(tmp_path / "out"), classifier)
    found = rows(tmp_path / "out")
    expected = ["broken.jpg", *(f"a/{n:02}.jpg" for n in range(10)), *(f"b c/{n:02}.jpg" for n in range(10, 30))]
    assert [row["key"] for row in found] == expected
    assert (done.pictures, done.errors, done.labels) == (31, 1, {"red": 10, "blue": 10, "unknown": 10})
    assert [row["label"] for row in found[1:4]] == ["red", "blue", "unknown"]
    assert found[0]["label"] is None
    assert "not" in str(found[0]["error"])
    for row in found[1:]:
        alone = classifier.classify((folder / str(row["key"])).read_bytes())
        assert row["probabilities"] == pytest.approx(list(alone.probabilities.values()), abs=0, rel=1e-7)
        assert (row["label"], row["refusal"], row["reason"]) == (alone.label, alone.refusal, alone.reason)
        assert (row["model_version"], row["model_digest"]) == ("pawprint-colours/3", classifier.info.model_digest)
    assert json.loads((tmp_path / "out" / batch.MANIFEST).read_bytes())["model_version"] == "pawprint-colours/3"
    # the data set is read as one by other tools
    assert pq.read_table(tmp_path / "out").num_rows == 31


def test_a_second_run_predicts_what_is_new_only(
    folder: Path, classifier: Classifier, tmp_path: Path, pictures: dict[str, bytes]
) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    shutil.copytree(folder, source)
    assert batch.run(str(source), str(out), classifier).resumed == 0
    written = {path.name: path.stat().st_mtime_ns for path in out.glob("*.parquet")}
    assert batch.run(f"{source}/", f"{out}/", classifier).resumed == 31
    assert {path.name: path.stat().st_mtime_ns for path in out.glob("*.parquet")} == written
    # the last folder has one more, and a picture of it another content: only its chunks are predicted again
    (source / "b c" / "31.jpg").write_bytes(pictures["red"])
    (source / "b c" / "29.jpg").write_bytes(pictures["blue"])
    assert batch.run(str(source), str(out), classifier).resumed == 28
    found = {row["key"]: row["label"] for row in rows(out)}
    assert len(found) == 32
    assert (found["b c/29.jpg"], found["b c/31.jpg"]) == ("blue", "red")


def test_folders_are_taken_in_order_and_hidden_ones_are_not(
    classifier: Classifier, tmp_path: Path, pictures: dict[str, bytes]
) -> None:
    names = [f"{letter}/{number}.jpg" for letter in "zmabq" for number in range(2)]
    for name in (*names, ".hidden/0.jpg"):
        (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "source" / name).write_bytes(pictures["red"])
    batch.run(str(tmp_path / "source"), str(tmp_path / "out"), classifier)
    assert [row["key"] for row in rows(tmp_path / "out")] == sorted(names)


def test_a_folder_that_cannot_be_listed_is_not_passed_over(
    folder: Path, classifier: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ls = LocalFileSystem.ls

    def refused(self: LocalFileSystem, path: str, **how: Any) -> Any:
        if Path(path).name == "a":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return ls(self, path, **how)

    monkeypatch.setattr(LocalFileSystem, "ls", refused)
    with pytest.raises(PawprintError, match=r"cannot be read.*Permission denied.*/a"):
        batch.run(str(folder), str(tmp_path / "out"), classifier)


def test_a_run_with_a_limit_takes_nothing_of_a_whole_one(folder: Path, classifier: Classifier, tmp_path: Path) -> None:
    out = tmp_path / "out"
    batch.run(str(folder), str(out), classifier)
    with pytest.raises(PawprintError, match="predictions of another limit"):
        batch.run(str(folder), str(out), classifier, limit=3)
    assert len(rows(out)) == 31


def test_there_is_no_manifest_while_parts_are_missing(
    folder: Path, classifier: Classifier, tmp_path: Path, pictures: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    shutil.copytree(folder, source)
    batch.run(str(source), str(out), classifier)
    (source / "b c" / "31.jpg").write_bytes(pictures["red"])
    with monkeypatch.context() as patch, pytest.raises(PawprintError, match="No space left"):
        patch.setattr(batch, "_part", disk_full)
        batch.run(str(source), str(out), classifier)
    assert not (out / batch.MANIFEST).exists()
    batch.run(str(source), str(out), classifier)
    assert len(rows(out)) == 32


def disk_full(*_: object) -> bytes:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_every_part_names_the_version_that_predicted_it(
    folder: Path, toy_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Path(shutil.copytree(toy_model, tmp_path / "model"))
    record, part = json.loads((model / "champion.json").read_bytes()), batch._part

    def promoted(*given: object) -> bytes:
        (model / "champion.json").write_text(json.dumps(record | {"version": "4", "model_digest": "0" * 64}))
        return part(*given)

    monkeypatch.setattr(batch, "_part", promoted)
    classifier = Classifier(model)
    batch.run(str(folder), str(tmp_path / "out"), classifier)
    assert {row["model_version"] for row in rows(tmp_path / "out")} == {"pawprint-colours/3"}
    batch.run(str(folder), str(tmp_path / "again"), classifier)
    assert {row["model_version"] for row in rows(tmp_path / "again")} == {""}


def test_archives_and_inventories(
    folder: Path, classifier: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives.Source, "streams", None)  # goes through the names of all, which is too long for each
    with zipfile.ZipFile(tmp_path / "pets.zip", "w") as archive:
        for path in sorted(folder.rglob("*.jpg")):
            archive.write(path, path.relative_to(folder.parent))
    done = batch.run(str(tmp_path / "pets.zip"), str(tmp_path / "from-zip"), classifier, limit=20)
    assert done.pictures == 20
    keys = ["a/00.jpg", "a/01.jpg", str(folder / "a" / "02.jpg"), "a/gone.jpg"]
    pq.write_table(pa.table({"key": keys, "etag": ["1", "2", "3", "4"]}), folder / "inventory.parquet")
    done = batch.run(str(folder / "inventory.parquet"), str(tmp_path / "from-inventory"), classifier)
    assert (done.pictures, done.errors) == (4, 1)
    (gone,) = (row for row in rows(tmp_path / "from-inventory") if row["error"])
    assert (gone["key"], gone["etag"], gone["error"]) == (
        "a/gone.jpg", "4", "it cannot be read: No such file or directory",
    )  # fmt: skip


def test_a_key_that_no_file_can_have_is_an_error_of_its_row(
    folder: Path, classifier: Classifier, tmp_path: Path
) -> None:
    keys = ["a/00.jpg", "a/00.jpg/b.jpg", "a/\0.jpg", f"{'x' * 300}.jpg"]
    pq.write_table(pa.table({"key": keys}), folder / "odd.parquet")
    done = batch.run(str(folder / "odd.parquet"), str(tmp_path / "out"), classifier)
    assert (done.pictures, done.errors) == (4, 3)


def test_an_address_that_is_refused_is_an_error_of_its_row(
    classifier: Classifier, tmp_path: Path, folder: Path
) -> None:
    class Refusal(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(403 if "secret" in self.path else 500)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusal)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    keys = [str(folder / "a" / "00.jpg"), f"{address}/secret.jpg"]
    pq.write_table(pa.table({"key": keys}), tmp_path / "list.parquet")
    done = batch.run(str(tmp_path / "list.parquet"), str(tmp_path / "out"), classifier)
    assert (done.pictures, done.errors) == (2, 1)
    with pytest.raises(OSError, match="500 Internal Server Error"):  # not of the photograph: the run ends, and goes on
        batch._fetch.__wrapped__(fsspec.filesystem("http"), f"{address}/a.jpg")  # type: ignore[attr-defined]
    server.shutdown()
    pq.write_table(pa.table({"key": ["foo://a/b.jpg"]}), tmp_path / "foo.parquet")
    with pytest.raises(PawprintError, match="names foo://a/b"):
        batch.run(str(tmp_path / "foo.parquet"), str(tmp_path / "other"), classifier)


@pytest.mark.parametrize("group", [1000, 40_000])
def test_an_inventory_is_read_a_part_at_a_time(tmp_path: Path, group: int) -> None:
    draw, path = random.Random(2017), tmp_path / "list.parquet"
    rows = [{"key": f"{number}.jpg", "etag": draw.randbytes(300).hex()} for number in range(40_000)]
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=group)
    size, before, arrow, found = path.stat().st_size, pa.total_allocated_bytes(), 0, 0
    tracemalloc.start()
    for chunk in batch._inventory(str(path), None):
        found += chunk.size
        arrow = max(arrow, pa.total_allocated_bytes() - before)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == 40_000
    assert peak < size / 2
    assert arrow < size / 2


def test_a_limit_ends_within_a_part_of_an_inventory(tmp_path: Path) -> None:
    rows = [{"key": f"{number}.jpg", "etag": None if number % 2 else f"{number}"} for number in range(20)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "list.parquet", row_group_size=3)
    listed = [chunk for limit in (None, 16) for chunk in batch._inventory(str(tmp_path / "list.parquet"), limit)]
    assert [chunk.size for chunk in listed] == [7, 7, 6, 7, 7, 2]
    for chunk in listed:  # a part of an inventory has the name of one of a folder with these keys and etags
        pictures = chunk.pictures()
        (same,) = batch._chunks(partial(iter, pictures), None)
        assert (same.part("2"), same.size) == (chunk.part("2"), len(pictures))
    assert [(one.key, one.etag) for one in listed[5].pictures()] == [("14.jpg", "14"), ("15.jpg", "")]


def test_nothing_is_listed_after_the_last_part_that_is_missing(
    folder: Path, classifier: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, walk, listed = tmp_path / "out", batch._walk, [0]

    def counted(*given: Any) -> Iterator[batch.Picture]:
        for picture in walk(*given):
            listed[0] += 1
            yield picture

    monkeypatch.setattr(batch, "_walk", counted)
    batch.run(str(folder), str(out), classifier)
    for lost, more in ((0, 0), (1, 14)):
        for part in json.loads((out / batch.MANIFEST).read_bytes())["parts"][lost : 2 * lost]:
            (out / part).unlink()
        listed[0] = 0
        assert batch.run(str(folder), str(out), classifier).resumed == 31 - 7 * lost
        assert listed[0] == 31 + more


def test_a_source_that_changes_between_its_two_listings_is_named(
    folder: Path, classifier: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out, only = tmp_path / "source", tmp_path / "out", batch._only
    shutil.copytree(folder, source)

    def changed(*given: Any) -> Any:
        (source / "a" / "00.jpg").unlink()
        return only(*given)

    with monkeypatch.context() as patch, pytest.raises(PawprintError, match="source has changed meanwhile"):
        patch.setattr(batch, "_only", changed)
        batch.run(str(source), str(out), classifier)
    assert not (out / batch.MANIFEST).exists()
    assert batch.run(str(source), str(out), classifier).pictures == 30


def test_the_command_imports_no_pandas(folder: Path, toy_model: Path, tmp_path: Path) -> None:
    pq.write_table(pa.table({"key": ["a/00.jpg", "gone.jpg"]}), folder / "two.parquet")
    code = (
        "import sys; from pawprint.cli.main import app; app(standalone_mode=False); sys.exit('pandas' in sys.modules)"
    )
    words = ["batch", str(folder / "two.parquet"), str(tmp_path / "out"), "--model", str(toy_model)]
    subprocess.run([sys.executable, "-c", code, *words], check=True)
    table = pq.read_table(tmp_path / "out")
    assert table["etag"].to_pylist() == ["", ""]
    assert [len(row or ()) for row in table["probabilities"].to_pylist()] == [2, 0]
    assert table["score"].null_count == table["probabilities"].null_count == table["label"].null_count == 1


def test_from_bucket_to_bucket(
    folder: Path, classifier: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(folder, tmp_path / "buckets" / "photos" / "garden")
    with s3(tmp_path / "buckets", monkeypatch):
        inventory.write("s3://photos/garden", tmp_path / "data", None, write_once=True)
        listed = batch.run(str(tmp_path / "data" / "inventory.parquet"), str(tmp_path / "listed"), classifier)
        assert (listed.pictures, listed.errors) == (30, 0)
        assert batch.run("s3://photos/garden", "s3://photos/out", classifier).labels["red"] == 10
        (tmp_path / "buckets" / "photos" / "garden" / "a" / "00.jpg").unlink()
        assert batch.run("s3://photos/garden", "s3://photos/out", classifier).pictures == 30
        with pytest.raises(PawprintError, match="s3://photos/nothing"):
            batch.run("s3://photos/nothing", "s3://photos/other", classifier)
    assert [row["key"] for row in rows(tmp_path / "buckets" / "photos" / "out")][1] == "a/01.jpg"


def test_the_command_sums_up(folder: Path, toy_model: Path, tmp_path: Path) -> None:
    words = ["batch", str(folder), str(tmp_path / "out"), "--model", str(toy_model), "--where", "jpg", "--limit", "11"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert re.search(r"red +4 +36.4%", done.output)
    assert re.search(r"error +1 +9.1%", done.output)
    assert "11 predictions in" in done.output
    odd, model = tmp_path / "pictures" / "[old]", tmp_path / "[model]"
    shutil.copytree(folder / "a", odd)
    shutil.copytree(toy_model, model)
    about = model / "model.json"
    about.write_text(about.read_text().replace('"red"', '"red [x]"'))
    done = CliRunner().invoke(app, ["batch", str(odd.parent), str(tmp_path / "odd"), "--model", str(model)])
    assert re.search(r"red \[x\] +\d", done.output), done.output
    assert re.search(r"  red \[x\]  \[old\]/\d\d\.jpg", done.output), done.output


def test_on_a_cluster_the_command_itself_does_not_load_the_model(
    folder: Path, classifier: Classifier, toy_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch.run(str(folder), str(tmp_path / "local"), classifier)
    load = backends.load

    def refused(*_: object) -> None:
        raise AssertionError("the command loads the model")

    def tasks(make: Callable[[], Callable[[Any], int]], items: Iterable[Any]) -> Iterator[int]:
        with monkeypatch.context() as patch:
            patch.setattr(backends, "load", load)
            work = make()
        return map(work, items)

    monkeypatch.setattr(parallel, "on_ray", lambda: True)
    monkeypatch.setattr(parallel, "map", tasks)
    monkeypatch.setattr(backends, "load", refused)
    words = ["batch", str(folder), str(tmp_path / "out"), "--model"]
    done = CliRunner().invoke(app, [*words, str(toy_model)])
    assert done.exit_code == 0, done.output
    names = {path.name for path in (tmp_path / "local").iterdir()}
    assert len(names) > 5
    assert names == {path.name for path in (tmp_path / "out").iterdir()}
    for name in names:
        assert (tmp_path / "local" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()

    # what is wrong with its files is said before the source is opened, as by one that loads it
    words = ["batch", str(tmp_path / "nowhere"), str(tmp_path / "none"), "--model"]
    for name in ("model.json", "model.onnx", "ood.safetensors"):
        damaged = tmp_path / f"without-{name}"
        shutil.copytree(toy_model, damaged)
        for damage in (lambda path: path.write_bytes(path.read_bytes()[:-9]), Path.unlink):
            damage(damaged / name)
            with pytest.raises(PawprintError) as loaded:
                Classifier(damaged)
            assert str(CliRunner().invoke(app, [*words, str(damaged)]).exception) == str(loaded.value)
            assert name in str(loaded.value)


def test_an_archive_is_predicted_where_the_command_runs(
    folder: Path, toy_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(tmp_path / "pets.zip", "w") as archive:
        archive.write(folder / "a" / "00.jpg", "00.jpg")
    monkeypatch.setattr(parallel, "on_ray", lambda: True)
    assert batch.run(str(tmp_path / "pets.zip"), str(tmp_path / "out"), Unloaded(toy_model)).labels == {"red": 1}


def test_what_cannot_be_done_is_a_sentence(folder: Path, classifier: Classifier, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    with pytest.raises(PawprintError, match="does not exist"):
        batch.run(str(tmp_path / "nowhere"), out, classifier)
    (tmp_path / "empty").mkdir()
    with pytest.raises(PawprintError, match="holds no photographs"):
        batch.run(str(tmp_path / "empty"), out, classifier)
    with pytest.raises(PawprintError, match="predictions of another source"):
        batch.run(str(folder), out, classifier)
    with pytest.raises(PawprintError, match="holds other files"):
        batch.run(str(folder), str(folder), classifier)
    pq.write_table(pa.table({"path": ["a.jpg"]}), tmp_path / "list.parquet")
    with pytest.raises(PawprintError, match="no column `key`, but path"):
        batch.run(str(tmp_path / "list.parquet"), str(tmp_path / "other"), classifier)
    pq.write_table(pa.table({"key": ["a.jpg"], "etag": [["1"]]}), tmp_path / "list.parquet")
    with pytest.raises(PawprintError, match="Unsupported cast"):
        batch.run(str(tmp_path / "list.parquet"), str(tmp_path / "another"), classifier)


def killed_until_done(folder: Path, model: Path, out: Path, kills: int) -> None:
    """Run the command, and kill it `kills` times at random moments; then once more to its end."""
    code = (
        "import sys; from pathlib import Path; from pawprint import batch;"
        "from pawprint.inference.classifier import Classifier; batch.CHUNK = 3; print('ready', flush=True);"
        "batch.run(sys.argv[1], sys.argv[2], Classifier(Path(sys.argv[3])))"
    )
    command = [sys.executable, "-c", code, str(folder), str(out), str(model)]
    rng = random.Random(2017)
    for kill in range(kills + 1):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        if kill < kills:
            time.sleep(rng.uniform(0.05, 1))
            os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=120)
    assert process.returncode == 0


def test_ctrl_c_ends_with_how_to_go_on_and_what_is_done_stays(folder: Path, toy_model: Path, tmp_path: Path) -> None:
    for number in range(1500):
        path = tmp_path / "source" / f"{number:04}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.hardlink_to(folder / "a" / "00.jpg")
    code = "from pawprint import batch; batch.CHUNK = 3; from pawprint.cli.main import app; app()"
    out, words = tmp_path / "out", ["batch", str(tmp_path / "source"), str(tmp_path / "out"), "--model", str(toy_model)]
    command = [sys.executable, "-c", code, *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while not list(out.glob("*.parquet")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "the same command goes on from there" in said
    assert "Traceback" not in said
    done = len(list(out.glob("*.parquet")))
    assert 0 < done < 500
    assert not (out / batch.MANIFEST).exists()
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert f"{3 * done:,} of them predicted before" in said


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_kills_neither_lose_nor_double_a_picture(folder: Path, toy_model: Path, tmp_path: Path, kills: int) -> None:
    killed_until_done(folder, toy_model, tmp_path / "out", kills)
    keys = [row["key"] for row in rows(tmp_path / "out")]
    assert len(keys) == len(set(keys)) == 31
    assert not list((tmp_path / "out").glob(".*.partial"))

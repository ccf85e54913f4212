"""Segments of many replicas' traffic logs: nothing acknowledged is lost, nothing counts twice, all is read together."""

import asyncio
import json
import random
import shutil
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import httpx
import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from pawprint.cli.main import app
from pawprint.data.inbox import Inbox
from pawprint.errors import PawprintError
from pawprint.inference.classifier import ModelInfo
from pawprint.lineage import Champion
from pawprint.provenance import erase as erasing
from pawprint.review.harvest import Mix, harvest, harvest_logs
from pawprint.serving import segments, traffic
from pawprint.serving.kept import FOLDER, PictureStore
from pawprint.serving.report import summarize
from pawprint.serving.traffic import Record, TrafficLog
from photo_sources import small
from s3_server import s3
from service_process import ROOT, serving
from toy import prediction

TESTS = str(Path(__file__).parents[1])
DIGEST = "1" * 64  # of toy.prediction's model


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket that PAWPRINT_SEGMENTS names."""
    (tmp_path / "s3" / "bucket").mkdir(parents=True)
    monkeypatch.setenv("PAWPRINT_SEGMENTS", "s3://bucket/traffic")
    with s3(tmp_path / "s3", monkeypatch):
        yield "s3://bucket/traffic"


@pytest.fixture
def replica(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], TrafficLog]]:
    """Opens the log of a replica; closed at the end."""
    monkeypatch.setenv("PAWPRINT_SEGMENTS", str(tmp_path / "segments"))
    logs: list[TrafficLog] = []

    def open_log(name: str) -> TrafficLog:
        logs.append(TrafficLog(tmp_path / name / "toy.db", 1000))
        return logs[-1]

    yield open_log
    for log in logs:
        log.close()


def answer(log: TrafficLog, label: str = "dog", picture: str = "0" * 64) -> str:
    """A prediction of `cat` with feedback, both on disk; its id."""
    id = uuid.uuid4().hex
    log.add(Record.of(prediction(id), time.time(), picture, np.ones(4, np.float32)))
    assert asyncio.run(log.feedback(id, label)) == "cat"
    return id


def right_labels(where: str, *spools: Path) -> dict[str, str | None]:
    with segments.opened(where, "toy", 0, spools) as log:
        return {row["id"]: row["right_label"] for row in traffic.read(log, DIGEST, 0)[0]}


def test_feedback_reaches_its_prediction_wherever_both_are(
    tmp_path: Path, replica: Callable[[str], TrafficLog]
) -> None:
    one, other, to = replica("one"), replica("other"), str(tmp_path / "segments")
    first, second, third, fourth = (answer(one) for _ in range(4))
    assert segments.ship(one.path, to, "one") == 4
    assert segments.ship(one.path, to, "one") == 0
    assert asyncio.run(one.feedback(first, "cat")) == ""  # its row is in a segment
    assert asyncio.run(other.feedback(second, "cat")) == ""  # another replica made it
    assert asyncio.run(other.feedback(third, "")) == ""  # taken back
    assert asyncio.run(other.feedback(uuid.uuid4().hex, "cat")) == ""  # a prediction that nobody made
    assert asyncio.run(other.feedback("x'; DROP TABLE later", "cat")) is None
    expected = {first: "cat", second: "cat", third: None, fourth: "dog"}
    assert right_labels(to, one.path, other.path) == expected
    assert segments.ship(one.path, to, "one") == 1 and segments.ship(other.path, to, "other") == 3
    assert right_labels(to) == expected
    assert len(list((tmp_path / "segments/toy").glob("*/*.parquet"))) == 3


def test_feedback_that_comes_while_a_segment_is_written_is_kept(
    tmp_path: Path, replica: Callable[[str], TrafficLog], monkeypatch: pytest.MonkeyPatch
) -> None:
    log, to = replica("one"), str(tmp_path / "segments")
    changed, taken_back, kept = (answer(log) for _ in range(3))
    write = segments._write

    def slow(url: str, data: bytes) -> None:
        write(url, data)
        asyncio.run(log.feedback(changed, "cat"))
        asyncio.run(log.feedback(taken_back, ""))

    monkeypatch.setattr(segments, "_write", slow)
    segments.ship(log.path, to, "one")
    assert right_labels(to, log.path) == {changed: "cat", taken_back: None, kept: "dog"}


def test_a_bucket_that_does_not_answer_loses_nothing(tmp_path: Path, replica: Callable[[str], TrafficLog]) -> None:
    log = replica("one")
    id = answer(log)
    (tmp_path / "file").touch()
    with pytest.raises(OSError):
        segments.ship(log.path, str(tmp_path / "file"), "one")
    segments.ship(log.path, str(tmp_path / "segments"), "one")
    assert right_labels(str(tmp_path / "segments")) == {id: "dog"}
    with (
        pytest.raises(PawprintError, match="has no segments of other"),
        segments.opened(str(tmp_path / "segments"), "other"),
    ):
        pass


def test_a_segment_whose_upload_was_cut_off_is_passed_over(
    tmp_path: Path, replica: Callable[[str], TrafficLog], capsys: pytest.CaptureFixture[str]
) -> None:
    log, to = replica("one"), tmp_path / "segments"
    id = answer(log)
    segments.ship(log.path, str(to), "one")
    (segment,) = to.rglob("*.parquet")
    segment.with_name("torn.parquet").write_bytes(segment.read_bytes()[:-100])
    assert right_labels(str(to)) == {id: "dog"}
    assert "torn.parquet is not whole" in "".join(capsys.readouterr())


def test_harvest_takes_pictures_of_what_is_in_segments(
    tmp_path: Path, pictures: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAWPRINT_TRAFFIC", str(tmp_path))
    monkeypatch.setenv("PAWPRINT_SEGMENTS", str(tmp_path / "segments"))
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "champion").mkdir()
    champion = Champion(
        model="toy", version="1", run_id="", candidate="", model_digest=DIGEST, dataset="toy", metrics={}
    )
    (tmp_path / "champion" / "champion.json").write_text(champion.model_dump_json())
    log, id = TrafficLog(tmp_path / "toy.db", 100, PictureStore(tmp_path / "pictures", 30, 10)), uuid.uuid4().hex
    log.add(Record.of(prediction(id), time.time(), "0" * 64, np.ones(4, np.float32)), pictures["red"])
    asyncio.run(log.feedback(id, "dog"))
    log.close()
    assert segments.ship(log.path, str(tmp_path / "segments"), "one") == 1
    assert harvest_logs(tmp_path, Mix(), days=0) == {"feedback": 1}


WRITER = f"""
import asyncio, sys, time, uuid
from pathlib import Path

import numpy as np

sys.path.insert(0, {TESTS!r})
from pawprint.serving.problems import RequestError
from pawprint.serving.traffic import Record, TrafficLog
from toy import prediction

log, mine = TrafficLog(Path(sys.argv[1]), 100_000), []

def judge(id, label):
    try:
        asyncio.run(log.feedback(id, label))
    except RequestError:  # 503: it is not acknowledged
        return
    print(id, label, flush=True)

while True:
    mine.append(uuid.uuid4().hex)
    log.add(Record.of(prediction(mine[-1]), time.time(), "0" * 64, np.ones(4, np.float32)))
    judge(mine[-1], "dog")
    if len(mine) % 3 == 0:
        judge(mine[-3], "cat")  # it may be in a segment by now
"""


SHIPPER = """
import sys, threading
from pathlib import Path
from pawprint.serving import segments

segments.keep_shipping(Path(sys.argv[1]), sys.argv[2], "pod", 0.05, threading.Event())
"""


@pytest.mark.slow
def test_kills_of_service_and_shipper_lose_nothing_acknowledged(tmp_path: Path, bucket: str) -> None:
    """Twelve times either is killed at a random moment; then the rest is shipped."""
    rng, spools, said = random.Random(15), [tmp_path / name / "toy.db" for name in ("a", "b")], dict[str, str]()
    for _ in range(3):
        writers = [
            subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
            for path in spools
        ]
        shippers = [
            subprocess.Popen([sys.executable, "-c", SHIPPER, str(path.parent), bucket], stderr=subprocess.DEVNULL)
            for path in spools
        ]
        for writer in writers:
            assert writer.stdout and writer.stdout.readline()
        before = len(list((tmp_path / "s3").rglob("*.parquet")))
        deadline = time.monotonic() + 60  # until each has begun to ship
        while len(list((tmp_path / "s3").rglob("*.parquet"))) < before + 4 and time.monotonic() < deadline:
            time.sleep(0.05)
        for process in rng.sample([*writers, *shippers], 4):
            time.sleep(rng.uniform(0, 0.5))
            process.kill()
        for writer in writers:
            assert writer.stdout
            said |= dict(line.split() for line in writer.stdout if line.endswith("\n"))
            writer.wait()
        for shipper in shippers:
            shipper.wait()
    shipped = right_labels(bucket)
    assert shipped  # some of it, while it went on
    found = right_labels(bucket, *spools)
    assert len(said) > 20
    for id, label in said.items():  # a later word may be on disk, and its writer killed before it could say so
        assert found.get(id) in ({"dog": ("dog", "cat"), "cat": ("cat",)})[label]
    for path in spools:
        segments.ship(path, bucket, "pod")
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("SELECT count(*) FROM predictions").fetchone() == (0,)
    assert right_labels(bucket) == found


def test_the_report_reads_two_replicas_and_erasing_rewrites_segments(
    tmp_path: Path, bucket: str, toy_model: Path, pictures: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two real services; a client whose feedback goes to the other one; `pawprint traffic ship` and `report`."""
    ids: list[str] = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        env = {"PAWPRINT_MODEL": str(toy_model), "PAWPRINT_TRAFFIC": str(tmp_path / name)}
        with serving(tmp_path / name / "service.log", env) as (url, _):
            for picture in pictures.values():
                answered = httpx.post(f"{url}/predict", content=picture).json()
                ids.append(answered["id"])
                judged = httpx.post(f"{url}/feedback", json={"id": ids[0], "label": "blue"})
                assert judged.status_code == 200, judged.text
        monkeypatch.setenv("PAWPRINT_TRAFFIC", str(tmp_path / name))
        done = CliRunner().invoke(app, ["traffic", "ship"])
        assert done.exit_code == 0 and f"rows to {bucket}" in done.output
    monkeypatch.setenv("PAWPRINT_TRAFFIC", str(tmp_path / "none"))
    out = tmp_path / "page.html"
    words = ["traffic", "report", "--model", str(toy_model), "--out", str(out), "--no-mlflow"]
    done = CliRunner().invoke(app, words)
    assert "pawprint-colours/3: 6 predictions" in done.output, done.output
    with segments.opened(bucket, "pawprint-colours") as log:
        found = summarize(log, toy_model, 0, 1)
        rows, _ = traffic.read(log, ModelInfo.read(toy_model).model_digest, 0)
    assert found.pictures == 3 and len(found.judged) == 1  # three pictures came twice; one feedback, the last

    digest = rows[0]["picture_sha256"]
    places = erasing.find(tmp_path, digest, [], bucket)
    assert any("2 traffic segments" in place.what and place.count == 2 for place in places)
    assert erasing.erase(places)
    files = sorted((tmp_path / "s3").rglob("*.parquet"))
    assert digest not in {one for file in files for one in pq.read_table(file)["picture_sha256"].to_pylist()}
    assert json.loads(rows[0]["probabilities"]).keys() == {"blue", "red"}
    assert "4 predictions" in CliRunner().invoke(app, words).output


def test_kept_pictures_go_to_the_bucket_too_and_are_harvested_and_erased_there(tmp_path: Path, bucket: str) -> None:
    pod, picture = tmp_path / "pod", small(1)
    log = TrafficLog(pod / "pets.db", 100, PictureStore(pod / FOLDER, 30, 100))
    log.add(Record.of(prediction("a" * 32), time.time(), "0" * 64, np.ones(4, np.float32)), picture)
    log.close()
    assert segments.ship(log.path, bucket, "pod") == 1
    shutil.rmtree(pod)
    store, inbox = segments.Pictures(tmp_path / "none", bucket), Inbox(tmp_path / "inbox")
    with segments.opened(bucket, "pets") as rows:
        assert harvest([rows], store, inbox, Mix(), (), seed=1).total() == 1
    (one,) = inbox
    assert inbox.file(one).read_bytes() == picture
    places = list(erasing._segments(one.hash, bucket))
    assert [place.count for place in places] == [1, 1] and erasing.erase(places)
    assert store.read(one.hash) is None and list(erasing._segments(one.hash, bucket)) == []

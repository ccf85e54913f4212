"""The review page's server: who may ask, what is hidden, and that a decision is on disk before it is answered."""

import hashlib
import os
import re
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

import make_sample
import pytest
from fastapi.testclient import TestClient

from odd_pictures import photograph
from pawprint.config import load_params
from pawprint.data import ingest
from pawprint.data.build import prepare
from pawprint.data.inbox import Inbox, Incoming, folder_of_pictures
from pawprint.data.labels import TESTED, Labels
from pawprint.review import queues
from pawprint.review.app import Review, create_app
from photo_sources import unpacked
from prepared_set import ROOT

TOKEN = "open sesame"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose pipeline has run up to prepared/, with a head's predictions out of the fold."""
    root = tmp_path_factory.mktemp("project")
    shutil.copy(ROOT / "params.yaml", root)
    make_sample.write(root / "data", per_class=20)
    shutil.copy(root / "data/cat/000.jpg", root / "data/dog/copy.jpg")
    prepare(ingest.dataset(root / "data"), root / "data", root / "prepared", load_params(ROOT / "params.yaml"))
    rows = queues.everything(root).items
    folds = root / "models" / "head" / "folds.csv"
    folds.parent.mkdir(parents=True)
    folds.write_text("hash,class,cat,dog\n" + "".join(f"{one.hash},{one.label},0.9,0.1\n" for one in rows))
    return root


@pytest.fixture
def root(prepared: Path, tmp_path: Path) -> Path:
    shutil.copytree(prepared, tmp_path / "project", symlinks=True)
    return tmp_path / "project"


def client(root: Path, queue: queues.Queue, token: str = TOKEN, who: str = "Ann", model: Path | None = None):  # type: ignore[no-untyped-def]
    app = create_app(Review(root, queue, Labels(root / "labels.csv"), who, model), TOKEN)
    return TestClient(
        app,
        base_url="http://127.0.0.1:3100",
        headers={"Authorization": f"Bearer {token}"},
        raise_server_exceptions=True,
    )


@pytest.fixture
def page(root: Path) -> Iterator[TestClient]:
    with client(root, queues.everything(root)) as opened:
        yield opened


def of(page: TestClient, **view: object) -> list[dict]:  # type: ignore[type-arg]
    answer = page.post("/items", params={"limit": 1000}, json=view)
    assert answer.status_code == 200, answer.text
    return answer.json()["items"]  # type: ignore[no-any-return]


def test_who_has_no_token_or_comes_under_another_name_sees_nothing(root: Path, page: TestClient) -> None:
    one = of(page)[0]["hash"]
    paths = ("/facts", f"/picture/{one}", f"/heat/{one}")
    with client(root, queues.everything(root), token="guess") as stranger:
        assert {stranger.get(path).status_code for path in paths} == {401}
        assert stranger.post("/decisions", json={"hashes": [one], "decision": "drop"}).status_code == 401
        assert stranger.post("/items", json={}).status_code == 401
    for path in paths:  # a page that made its own name mean 127.0.0.1
        assert page.get(path, headers={"Host": "evil.example:3100"}).json()["reason"] == "unknown_host"
    foreign = page.post(
        "/decisions", json={"hashes": [one], "decision": "drop"}, headers={"Origin": "https://evil.example"}
    )
    assert (foreign.status_code, foreign.json()["reason"]) == (403, "cross_site")
    assert page.post("/decisions", content=bytes(2**20 + 1)).status_code == 413
    assert not (root / "labels.csv").exists()
    assert "default-src 'none'" in page.get("/").headers["Content-Security-Policy"]


def test_a_decision_is_on_disk_before_it_is_answered(
    root: Path, page: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (synced.append(file), real(file))[1])
    one, other = of(page)[:2]
    answer = page.post("/decisions", json={"hashes": [one["hash"], other["hash"]], "decision": "class", "label": "dog"})
    assert synced
    assert (answer.json()["decided"], answer.json()["changed"]) == (2, 2)
    assert Labels(root / "labels.csv").standing()[one["hash"]].who == "Ann"
    # undo brings back what stood before
    page.post("/decisions", json={"hashes": [one["hash"]], "decision": "drop"})
    assert page.post("/undo").json()["items"][0]["decision"] == {"decision": "class", "label": "dog", "who": "Ann"}
    assert page.post("/undo").json()["decided"] == 0
    assert page.post("/undo").json()["reason"] == "nothing"
    assert Labels(root / "labels.csv").standing() == {}


def test_a_disk_that_cannot_be_written_is_a_sentence_and_no_decision(root: Path, page: TestClient) -> None:
    one, other = (found["hash"] for found in of(page)[:2])
    page.post("/decisions", json={"hashes": [one], "decision": "drop"})
    before = (root / "labels.csv").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 20, limits[1]))  # a disk that is full in mid-line
    try:
        answer = page.post("/decisions", json={"hashes": [other], "decision": "drop"})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert answer.status_code == 422 and "nothing was decided" in answer.json()["error"]
    assert page.get("/facts").json()["decided"] == 1
    assert (root / "labels.csv").read_bytes() == before
    assert page.post("/decisions", json={"hashes": [other], "decision": "drop"}).json()["decided"] == 2


BAD = {
    "a photograph that is not there": {"hashes": ["0" * 64], "decision": "drop"},
    "no hash": {"hashes": ["../../etc/passwd"], "decision": "drop"},
    "no photographs": {"hashes": [], "decision": "drop"},
    "a class that no folder can be": {"decision": "class", "label": "a/b"},
    "a class without a name": {"decision": "class"},
    "a decision that is none": {"decision": "burn"},
}


@pytest.mark.parametrize("name", BAD)
def test_a_decision_that_cannot_be_changes_nothing(root: Path, page: TestClient, name: str) -> None:
    asked = {"hashes": [of(page)[0]["hash"]]} | BAD[name]
    answer = page.post("/decisions", json=asked)
    assert answer.status_code in (404, 422) and answer.json()["error"]
    assert not (root / "labels.csv").exists()


def test_of_test_photographs_nothing_is_shown_that_a_model_said(page: TestClient) -> None:
    shown = of(page, split="test")
    assert shown and all(one["says"] is None and one["hidden"] and one["reason"] == TESTED for one in shown)
    assert all(one["says"] for one in of(page, split="train"))
    # and the order gives nothing away
    assert [one["hash"] for one in of(page, split="test", order="disagree")] == [one["hash"] for one in shown]
    first = shown[0]["hash"]
    assert page.get(f"/heat/{first}").json()["reason"] == "hidden"
    after = page.post("/decisions", json={"hashes": [first], "decision": "keep"}).json()["items"][0]
    assert after["says"] == {"label": "cat", "confidence": 0.9} and not after["hidden"]


def test_filters_orders_and_rejected_photographs(root: Path, page: TestClient) -> None:
    everything = of(page)
    assert len(everything) == 40  # one content has two files
    assert {one["split"] for one in everything} == {"train", "validation", "test", "rejected"}
    assert [one["file"] for one in of(page, split="rejected")] == ["cat/000.jpg"]
    assert {one["label"] for one in of(page, label="dog")} == {"dog"}
    assert [one["file"] for one in of(page, text="DOG/00")] == [f"dog/00{n}.jpg" for n in range(10)]
    wrong = of(page, order="disagree", split="train")
    assert wrong[0]["label"] == "dog" and wrong[-1]["label"] == "cat"  # the model says cat of all
    page.post("/decisions", json={"hashes": [wrong[0]["hash"]], "decision": "keep"})
    page.post("/decisions", json={"hashes": [wrong[1]["hash"]], "decision": "drop"})
    assert [len(of(page, state=state, version=1)) for state in ("open", "decided", "changed")] == [38, 2, 1]
    assert len(queues.duplicates(root).items) >= 1


def test_a_view_stands_still_while_it_is_worked_through(page: TestClient) -> None:
    """Who pages through what is not decided yet misses nothing: decided ones stay in their place."""
    seen = []
    for offset in range(0, 40, 10):
        view = page.post("/items", params={"offset": offset, "limit": 10}, json={"state": "open", "version": 7}).json()
        seen += [one["hash"] for one in view["items"]]
        page.post("/decisions", json={"hashes": [one["hash"] for one in view["items"]], "decision": "keep"})
    assert len(set(seen)) == 40
    assert of(page, state="open", version=8) == []


def test_pictures_and_heat_maps(root: Path, toy_model: Path) -> None:
    with client(root, queues.everything(root), model=toy_model) as page:
        one = next(one for one in of(page) if one["split"] == "train")
        small = page.get(f"/picture/{one['hash']}")
        full = page.get(f"/picture/{one['hash']}", params={"size": "full"})
        assert small.headers["Content-Type"] == "image/jpeg" and len(small.content) < 100_000
        assert full.content == (root / "data" / one["file"]).read_bytes()
        assert page.get(f"/heat/{one['hash']}").content.startswith(b"\x89PNG")
        (root / "data" / one["file"]).write_bytes(photograph(5))
        changed = page.get(f"/picture/{one['hash']}", params={"size": "full"})
        assert (changed.status_code, changed.json()["reason"]) == (404, "another")
        assert page.get(f"/picture/{one['hash']}").status_code == 200  # the prepared one is still there
        assert page.get(f"/picture/{'0' * 64}").status_code == 404


def test_a_heat_map_keeps_the_limit_of_pixels_of_the_project(root: Path, toy_model: Path) -> None:
    params = root / "params.yaml"
    params.write_text(re.sub(r"max_pixels: \w+", "max_pixels: 1", params.read_text(), count=1))
    with client(root, queues.everything(root), model=toy_model) as page:
        one = next(one for one in of(page) if one["split"] == "train")
        assert page.get(f"/heat/{one['hash']}").json()["reason"] == "too_large"


def test_conflicts_are_shown_with_both_and_settled(root: Path) -> None:
    one, other = queues.everything(root).items[:2]
    texts = []
    for who, verb, label in (("Ann", "drop", ""), ("Bob", "class", "dog")):
        labels = Labels(root / f"{who}.csv")
        labels.add([one.hash], verb, label, who, "data")  # type: ignore[arg-type]
        labels.add([other.hash], "keep", "cat", who, "data")
        texts.append(labels.path.read_text())
    (root / "labels.csv").write_text("".join(texts))
    queue = queues.conflicts(root, Labels(root / "labels.csv"))
    with client(root, queue, who="Cleo") as page:
        (shown,) = of(page)
        assert shown["hash"] == one.hash
        assert shown["hidden"] or shown["reason"] == "Ann: dropped; Bob: class dog"
        page.post("/decisions", json={"hashes": [one.hash], "decision": "drop"})
    settled = Labels(root / "labels.csv")
    assert settled.conflicts() == {} and settled.standing()[one.hash].who == "Cleo"


def test_a_decision_that_came_meanwhile_and_was_not_seen_is_a_conflict(root: Path, page: TestClient) -> None:
    one, other = (found["hash"] for found in of(page)[:2])
    Labels(root / "labels.csv").add([one, other], "drop", "", "Bob", "data")  # as by a merge
    page.post("/decisions", json={"hashes": [one], "decision": "keep"})
    assert {line.who for line in Labels(root / "labels.csv").conflicts()[one]} == {"Ann", "Bob"}
    shown = {found["hash"]: found["decision"] for found in of(page)}
    assert shown[other]["who"] == "Bob"  # now it is seen, and Ann's next word replaces it
    page.post("/decisions", json={"hashes": [other], "decision": "keep"})
    settled = Labels(root / "labels.csv")
    assert settled.standing()[other].who == "Ann" and set(settled.conflicts()) == {one}


def test_pictures_of_the_inbox_with_what_was_said_of_them(root: Path, tmp_path: Path) -> None:
    inbox = Inbox(root / "inbox")
    for number in range(30):
        picture = photograph(900 + number, width=64, height=48)
        row = Incoming(
            hashlib.sha256(picture).hexdigest(), "", "traffic pets/3", f"{number:032x}", "dog", "cat", "feedback", "0.8"
        )
        inbox.add([inbox.keep(picture, row)])
    queue = queues.waiting(root)
    assert queue.about == "Photographs that are not in data/ yet: 30 feedback."
    with client(root, queue) as page:
        shown = of(page)
        new = next(one for one in shown if one["split"] == "new")
        assert new["says"] == {"label": "dog", "confidence": 0.8} and "feedback: cat" in new["reason"]
        tested = [one for one in shown if one["split"] == "test"]
        assert tested and all(one["says"] is None and one["reason"] == TESTED for one in tested)
        # nobody has seen what the model says of it: that is no label of a test photograph
        blind = page.post("/decisions", json={"hashes": [tested[0]["hash"]], "decision": "keep"})
        assert blind.status_code == 422 and "name a class" in blind.json()["error"]
        assert page.get(f"/picture/{new['hash']}").content.startswith(b"\xff\xd8")
        page.post("/decisions", json={"hashes": [new["hash"]], "decision": "class", "label": "cat"})
        two = [one for one in shown if one["split"] == "new"][1:3]  # together, and each with its own answer
        page.post("/decisions", json={"hashes": [one["hash"] for one in two], "decision": "drop"})
    standing = Labels(root / "labels.csv").standing()
    assert [standing[one["hash"]].why for one in (new, *two)] == [
        f"harvest: answer {one['file']}, dog; feedback cat" for one in (new, *two)
    ]


def test_a_file_that_is_no_picture_has_its_sentence(root: Path, tmp_path: Path) -> None:
    folder = unpacked(tmp_path / "new", {"bad.jpg": b"\xff\xd8\xff no picture"})
    Inbox(root / "inbox").add(folder_of_pictures(folder))
    with client(root, queues.waiting(root, "new")) as page:
        (one,) = of(page)
        answer = page.get(f"/picture/{one['hash']}")
        assert answer.status_code == 422 and "known format" in answer.json()["error"]

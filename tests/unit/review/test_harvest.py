"""What is taken from the service's traffic into the review queue: which pictures, once each, with their provenance."""

import asyncio
import time
from pathlib import Path

import numpy as np
import pytest

from pawprint.data.inbox import Inbox
from pawprint.review.harvest import Mix, harvest
from pawprint.serving.kept import PictureStore
from pawprint.serving.schema import Prediction
from pawprint.serving.traffic import Record, TrafficLog
from photo_sources import small
from toy import prediction


class Service:
    """A traffic log that is written as the service writes it."""

    def __init__(self, folder: Path) -> None:
        self.path, self.store = folder / "pets.db", PictureStore(folder / "pictures", days=30, mb=100)
        self.log = TrafficLog(self.path, 1000, self.store)
        self.rng = np.random.default_rng(2017)

    def answer(self, id: str, cat: float = 0.9, typicality: float = 0.8, label: str = "", seed: int = -1) -> bytes:
        picture = small(int(id[1:]) if seed < 0 else seed)
        given = prediction(id, label or ("cat" if cat > 0.5 else "dog"))
        changed = {"probabilities": {"cat": cat, "dog": 1 - cat}, "typicality": typicality}
        one = Prediction.model_validate(given.model_dump() | changed)
        embedding = np.random.default_rng(int(id[1:])).normal(size=32).astype(np.float32)
        self.log.add(Record.of(one, time.time(), "0" * 64, embedding), picture)
        return picture

    def feedback(self, id: str, label: str) -> None:
        assert asyncio.run(self.log.feedback(id, label))


@pytest.fixture
def service(tmp_path: Path) -> Service:
    """40 answers: a0 to a4 corrected, a5 to a9 refused, a10 to a14 unsure, a15 to a19 novel, the others plain."""
    service = Service(tmp_path / "traffic")
    for number in range(40):
        kind = number // 5
        service.answer(
            f"a{number}",
            cat=0.55 + 0.01 * (number % 5) if kind == 2 else 0.95,
            typicality=0.3 + 0.01 * (number % 5) if kind == 3 else 0.8,
            label="unknown" if kind == 1 else "",
        )
    for number in range(5):
        service.feedback(f"a{number}", "dog")
    service.feedback("a20", "cat")  # as the model said: nothing to learn
    service.log.close()
    return service


def take(service: Service, inbox: Inbox, mix: Mix, known: tuple[str, ...] = ()) -> list[str]:
    before = {one.hash for one in inbox}
    harvest([service.path], service.store, inbox, mix, known, seed=2017)
    return [one.name for one in inbox if one.hash not in before]


def test_the_mix_is_what_was_asked_and_each_kind_the_best_of_it(service: Service, tmp_path: Path) -> None:
    inbox = Inbox(tmp_path / "inbox")
    counts = harvest([service.path], service.store, inbox, Mix(3, 3, 3, 3, 3), (), seed=2017)
    assert counts == {"feedback": 3, "refused": 3, "unsure": 3, "novel": 3, "random": 3}
    names = {kind: {one.name for one in inbox if one.why == kind} for kind in counts}
    assert names["feedback"] <= {f"a{n}" for n in range(5)}
    assert names["refused"] <= {f"a{n}" for n in range(5, 10)}
    assert names["unsure"] == {"a10", "a11", "a12"} and names["novel"] == {"a15", "a16", "a17"}
    one = next(one for one in inbox if one.why == "feedback")
    assert (one.source, one.answer, one.feedback, one.score) == ("traffic pets/3", "cat", "dog", "0.9500")
    assert inbox.file(one).read_bytes() == small(int(one.name[1:]))
    assert inbox.file(one).suffix == ".jpg"


def test_nothing_is_taken_twice_nor_what_is_known(service: Service, tmp_path: Path) -> None:
    inbox = Inbox(tmp_path / "inbox")
    first = take(service, inbox, Mix(3, 0, 0, 0, 0))
    second = take(service, Inbox(tmp_path / "inbox"), Mix(9, 0, 0, 0, 0))
    assert sorted(first + second) == [f"a{n}" for n in range(5)]
    everything = Inbox(tmp_path / "other")
    known = tuple(one.hash for one in Inbox(tmp_path / "inbox"))
    assert len(take(service, everything, Mix(0, 0, 0, 0, 99), known)) == 35


def test_of_one_scene_one_picture_is_enough(tmp_path: Path) -> None:
    service = Service(tmp_path / "traffic")
    for number in range(6):
        service.log.add(
            Record.of(prediction(f"a{number}"), time.time(), "0" * 64, np.ones(32, np.float32) + 0.001 * number),
            small(number),
        )
    service.answer("a7")
    service.log.close()
    assert len(take(service, Inbox(tmp_path / "inbox"), Mix(0, 0, 0, 0, 9))) == 2


def test_pictures_that_are_not_kept_any_more_are_left_out(service: Service, tmp_path: Path) -> None:
    for path in (tmp_path / "traffic" / "pictures").glob("??/*"):
        path.unlink()
    assert take(service, Inbox(tmp_path / "inbox"), Mix(9, 9, 9, 9, 9)) == []


def test_a_picture_that_came_twice_is_taken_with_its_feedback(tmp_path: Path) -> None:
    service = Service(tmp_path / "traffic")
    service.answer("a1", seed=5)
    service.feedback("a1", "dog")
    service.answer("a2", seed=5)
    service.log.close()
    assert take(service, Inbox(tmp_path / "inbox"), Mix(9, 0, 0, 0, 9)) == ["a1"]

"""Labels from nothing: after the first pictures of each class the model suggests the others."""

import time
from pathlib import Path

import make_sample

from pawprint.data.inbox import Inbox, folder_of_pictures
from pawprint.data.labels import Labels
from pawprint.review.suggest import FIRST, Suggester
from prepared_set import params


def test_it_suggests_after_the_first_pictures_of_each_class(tmp_path: Path) -> None:
    make_sample.write(tmp_path / "drawn", per_class=30)
    pictures = folder_of_pictures(tmp_path / "drawn")
    inbox, labels = Inbox(tmp_path / "inbox"), Labels(tmp_path / "labels.csv")
    inbox.add(pictures)
    right = {one.hash: one.name.split("/")[0] for one in pictures}
    files = {one.hash: inbox.file(one) for one in pictures}
    suggester = Suggester(files, params("efficientnet_lite0"), "efficientnet_lite0")
    try:
        decided = {name: [one for one, label in right.items() if label == name][:FIRST] for name in ("cat", "dog")}
        labels.add(decided["cat"], "class", "cat", "Ann", "pictures")
        labels.add(decided["dog"][:-1], "class", "dog", "Ann", "pictures")
        suggester.learn(labels.standing())
        wait(lambda: "20 cat, 19 dog" in suggester.state())
        assert not suggester.says
        labels.add(decided["dog"][-1:], "class", "dog", "Ann", "pictures")
        suggester.learn(labels.standing())
        wait(lambda: len(suggester.says) == 60)
        others = [one for one in right if one not in labels.standing()]
        hits = sum(suggester.says[one].label == right[one] for one in others)
        assert hits >= 16, f"{hits} of {len(others)}"
    finally:
        suggester.close()


def wait(until) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + 120
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.05)

"""Decisions of labels.csv become data: all or nothing, the test side by itself, versioned and undone by DVC and git."""

import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pawprint import dvc
from pawprint.config import load_params
from pawprint.data import corrections
from pawprint.data.corrections import Applied
from pawprint.data.inbox import Inbox, Incoming, folder_of_pictures
from pawprint.data.ingest import ingest
from pawprint.data.labels import Labels
from pawprint.data.splits import split_of
from pawprint.errors import PawprintError
from photo_sources import contents, pets, small, unpacked

ROOT = Path(__file__).resolve().parents[3]
PETS = pets()
HASH = {name: hashlib.sha256(content).hexdigest() for name, content in PETS.items()}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """data/ with three cats and three dogs, their origins known."""
    ingest(unpacked(tmp_path / "pets", PETS), tmp_path / "work" / "data")
    return tmp_path / "work" / "data"


@pytest.fixture
def labels(data: Path) -> Labels:
    return Labels(data.parent / "labels.csv")


def apply(data: Path, labels: Labels, *tested: str, **options: bool) -> Applied:
    """Apply; photographs named in `tested` are the test side."""
    test = {HASH[name] for name in tested}
    return corrections.apply(labels, data, Inbox(data.parent / "inbox"), test.__contains__, **options)


def decide(labels: Labels, verb: str, *names: str, label: str = "", who: str = "Ann") -> None:
    labels.add([HASH[name] for name in names], verb, label, who, "audit")  # type: ignore[arg-type]


def pawprint(work: Path, *words: str, fails: bool = False) -> str:
    done = subprocess.run(
        [sys.executable, "-c", "from pawprint.cli.main import main; main()", *words],
        cwd=work, env=os.environ | {"PYTHONPATH": str(ROOT / "src")}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stdout + done.stderr


def origins(data: Path) -> dict[str, dict[str, str]]:
    with (data / "origins.csv").open(newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def test_decisions_become_a_version_and_git_takes_it_back(data: Path, tmp_path: Path) -> None:
    work = data.parent
    git = ("git", "-c", "user.name=Ann", "-c", "user.email=t@example.org")
    shutil.copy(ROOT / "params.yaml", work)
    shutil.copy(ROOT / "dvc.yaml", work)
    for words in (("init", "-q"), ("config", "user.name", "Ann"), ("add", "-A"), ("commit", "-qm", "photographs")):
        if words[0] == "add":
            subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=work, check=True)
            dvc.add(work, "data")
        subprocess.run([*git, *words], cwd=work, check=True)
    before = contents(data)
    params = load_params(ROOT / "params.yaml")
    learned = [name for name, digest in HASH.items() if split_of(digest, params.seed, params.split) != "test"]
    cat, dog = (next(name for name in learned if name.startswith(kind)) for kind in ("cat", "dog"))
    assert "1 decisions in labels.csv" in pawprint(work, "photos", "decide", f"data/{cat}", "--label", "dog")
    assert "`dgo` is a new class; those of data/ are cat, dog" in pawprint(
        work, "photos", "decide", f"data/{cat}", "--label", "dgo"
    )
    pawprint(work, "photos", "decide", f"data/{cat}", "--label", "dog")
    pawprint(work, "photos", "decide", dog, "--drop", "--why", "a house", "--as", "Bob")
    output = pawprint(work, "photos", "apply")
    assert "1 cat -> dog, 1 dropped.\nNext: git add labels.csv data.dvc" in output
    after = contents(data)
    assert set(before) - set(after) == {cat, dog}
    (moved,) = set(after) - set(before)
    assert moved.startswith("dog/")
    assert after[moved] == before[cat]
    known = origins(data)
    assert (known[f"pets/{cat}"]["file"], known[f"pets/{cat}"]["class"]) == (moved, "cat")
    assert known[f"pets/{dog}"]["file"] == ""
    assert "Nothing to change." in pawprint(work, "photos", "apply")
    # from the photograph to who decided
    traced = pawprint(work, "trace", HASH[dog])
    assert "dropped (Bob, 2" in traced and "a house" in traced
    # the same source, added again, undoes nothing
    again = ingest(tmp_path / "pets", data, add=True)
    assert (again.changed, again.dropped, len(again.contradictions)) == (False, 1, 1)
    assert "data.dvc" in subprocess.run([*git, "diff", "--name-only"], cwd=work, capture_output=True, text=True).stdout
    # back
    pawprint(work, "photos", "undo")
    assert contents(data) == before


def test_the_test_side_is_corrected_by_itself_and_counted(data: Path, labels: Labels) -> None:
    decide(labels, "class", "cat/0.jpg", "cat/1.jpg", label="dog")
    decide(labels, "keep", "dog/1.jpg", label="dog")
    first = apply(data, labels, "cat/1.jpg", "dog/1.jpg")
    assert (len(first.relabelled), first.waiting) == (1, 1)
    assert "1 decisions on test photographs wait" in first.summary()
    assert "test_side" not in json.loads((data / "dataset.json").read_bytes())
    second = apply(data, labels, "cat/1.jpg", "dog/1.jpg", test_side=True)
    assert (len(second.relabelled), second.waiting) == (1, 0)
    assert json.loads((data / "dataset.json").read_bytes())["test_side"] == 1
    assert not apply(data, labels, "cat/1.jpg").changed and not apply(data, labels, "cat/1.jpg", test_side=True).changed
    assert len(contents(data / "dog")) == 5


def test_two_files_of_one_content_and_two_classes_become_one(tmp_path: Path) -> None:
    same = {"cat/0.jpg": PETS["cat/0.jpg"], "dog/same.jpg": PETS["cat/0.jpg"]}
    data = unpacked(tmp_path / "data", PETS | same)
    labels = Labels(tmp_path / "labels.csv")
    decide(labels, "class", "cat/0.jpg", label="dog")
    assert apply(data, labels).relabelled == {"cat/0.jpg": "dog/same.jpg"}
    assert "cat/0.jpg" not in contents(data) and contents(data)["dog/same.jpg"] == PETS["cat/0.jpg"]
    assert not apply(data, labels).changed


def test_conflicts_and_who_is_unsure_change_nothing(data: Path, labels: Labels) -> None:
    before = contents(data)
    one, other = Labels(data.parent / "one.csv"), Labels(data.parent / "other.csv")
    decide(one, "drop", "cat/0.jpg")
    decide(other, "class", "cat/0.jpg", label="dog", who="Bob")
    labels.path.write_text(one.path.read_text() + other.path.read_text())
    decide(labels, "unsure", "cat/1.jpg")
    decide(labels, "drop", "dog/2.jpg")
    decide(labels, "undo", "dog/2.jpg")
    applied = apply(data, labels)
    assert not applied.changed and "1 photographs in conflict stay" in applied.summary()
    assert contents(data) == before


REFUSED = {
    "a class that would be empty": ("class", [f"cat/{n}.jpg" for n in range(3)], "dog", "left in cat"),
    "a whole class dropped": ("drop", [f"dog/{n}.jpg" for n in range(3)], "", "left in dog"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_decision_that_cannot_be_is_named_and_nothing_changes(data: Path, labels: Labels, name: str) -> None:
    verb, names, label, output = REFUSED[name]
    decide(labels, verb, *names, label=label)
    before = contents(data)
    with pytest.raises(PawprintError, match=output):
        apply(data, labels)
    assert contents(data) == before


def test_a_new_class_begins_and_decisions_on_what_is_not_here_are_counted(data: Path, labels: Labels) -> None:
    decide(labels, "class", "cat/0.jpg", label="fox")
    labels.add(["0" * 64], "class", "dog", "Ann", "audit")
    applied = apply(data, labels)
    assert applied.missing == 1 and "fox/0.jpg" in contents(data)


def test_pictures_of_a_folder_become_a_set_with_two_classes(tmp_path: Path) -> None:
    pictures = unpacked(tmp_path / "My Walks", {f"a/{n}.jpg": small(n) for n in range(4)} | {"copy.jpg": small(0)})
    inbox, labels, data = Inbox(tmp_path / "inbox"), Labels(tmp_path / "labels.csv"), tmp_path / "data"
    assert inbox.add(folder_of_pictures(pictures)) == 4
    hashes = [one.hash for one in inbox]
    labels.add(hashes[:2], "class", "oak", "Ann", "pictures")
    with pytest.raises(PawprintError, match="only oak would be there"):
        corrections.apply(labels, data, Inbox(tmp_path / "inbox"), lambda _: False)
    assert not data.exists()
    labels.add(hashes[2:3], "class", "elm", "Ann", "pictures")
    labels.add(hashes[3:], "drop", "", "Ann", "pictures")
    applied = corrections.apply(labels, data, inbox, lambda _: True)  # a first version is all of it
    assert sorted(applied.added.values()) == sorted(name for name in contents(data) if name.endswith(".jpg"))
    assert len(contents(data / "oak")) == 2 and len(contents(data / "elm")) == 1
    assert json.loads((data / "dataset.json").read_bytes())["name"] == "my-walks"
    assert len(contents(pictures)) == 5
    assert not corrections.apply(labels, data, Inbox(tmp_path / "inbox"), lambda _: False).changed


def test_a_picture_that_changed_since_it_was_looked_at_is_refused(data: Path, labels: Labels, tmp_path: Path) -> None:
    pictures = unpacked(tmp_path / "more", {"1.jpg": small(70)})
    inbox = Inbox(data.parent / "inbox")
    inbox.add(folder_of_pictures(pictures))
    (one,) = inbox
    labels.add([one.hash], "class", "cat", "Ann", "pictures")
    (pictures / "1.jpg").write_bytes(small(71))
    before = contents(data)
    with pytest.raises(PawprintError, match="is not the photograph you looked at"):
        corrections.apply(labels, data, inbox, lambda _: False)
    assert contents(data) == before


def test_an_answer_s_picture_keeps_where_it_came_from(data: Path, labels: Labels) -> None:
    inbox, picture = Inbox(data.parent / "inbox"), small(80)
    row = Incoming(hashlib.sha256(picture).hexdigest(), "", "traffic pets/3", "f" * 32, "dog", "cat", "feedback")
    inbox.add([inbox.keep(picture, row)])
    labels.add([row.hash], "class", "cat", "Ann", "harvest")
    applied = corrections.apply(labels, data, Inbox(data.parent / "inbox"), lambda _: False)
    assert list(applied.added.values()) == [f"cat/{'f' * 32}.jpg"]
    assert origins(data)["f" * 32]["source"] == "traffic pets/3"


def test_what_was_applied_is_applied_again_after_git_has_undone_it(data: Path, labels: Labels, tmp_path: Path) -> None:
    """Its picture is forgotten when the version after it is made."""
    shutil.copytree(data, tmp_path / "before")
    place, picture = tmp_path / "inbox", small(80)
    row = Incoming(hashlib.sha256(picture).hexdigest(), "", "traffic pets/3", "f" * 32, "dog", "cat", "feedback")
    inbox = Inbox(place)
    inbox.add([inbox.keep(picture, row)])
    labels.add([row.hash], "class", "cat", "Ann", "harvest")
    for _ in range(2):
        applied = corrections.apply(labels, data, Inbox(place), lambda _: False)
        assert list(applied.added.values()) == [f"cat/{'f' * 32}.jpg"]
        shutil.rmtree(data)
        shutil.copytree(tmp_path / "before", data)
    corrections.apply(labels, data, Inbox(place), lambda _: False)
    decide(labels, "drop", "cat/1.jpg")
    corrections.apply(labels, data, Inbox(place), lambda _: False)
    assert not list(Inbox(place)) and not contents(place / "pictures")


def test_pictures_do_not_come_among_drawings_but_in_their_place(data: Path, labels: Labels, tmp_path: Path) -> None:
    (data / "dataset.json").write_text('{"name": "sample", "drawn": true}')
    inbox = Inbox(data.parent / "inbox")
    inbox.add(folder_of_pictures(unpacked(tmp_path / "new", {"1.jpg": small(90), "2.jpg": small(91)})))
    for label, one in zip(("oak", "elm"), inbox, strict=True):
        labels.add([one.hash], "class", label, "Ann", "pictures")
    with pytest.raises(PawprintError, match="--replace"):
        corrections.apply(labels, data, inbox, lambda _: False)
    corrections.apply(labels, data, inbox, lambda _: True, replace=True)
    assert {name.split("/")[0] for name in contents(data)} == {"oak", "elm", "dataset.json", "origins.csv"}
    assert not json.loads((data / "dataset.json").read_bytes())["drawn"]


def test_decisions_hold_for_photographs_that_never_had_an_origin(tmp_path: Path) -> None:
    data = unpacked(tmp_path / "data", PETS | {"cat/odd.jpg": small(77)})
    labels = Labels(tmp_path / "labels.csv")
    labels.add([hashlib.sha256(small(77)).hexdigest()], "drop", "", "Ann", "audit")
    assert corrections.apply(labels, data, Inbox(tmp_path / "inbox"), lambda _: False).dropped == ["cat/odd.jpg"]
    assert ingest(
        unpacked(tmp_path / "more", {"cat/odd2.jpg": small(77), "dog/n.jpg": small(78)}), data, add=True
    ).dropped


def test_an_import_in_their_place_says_that_decisions_go(data: Path, labels: Labels, tmp_path: Path) -> None:
    decide(labels, "class", "cat/0.jpg", label="dog")
    decide(labels, "drop", "dog/1.jpg")
    apply(data, labels)
    assert "2 earlier decisions gone (--add keeps them)" in ingest(tmp_path / "pets", data).summary()
    assert "gone" not in ingest(tmp_path / "pets", data).summary()


def test_the_import_command_adds_and_says_what_contradicts(data: Path, tmp_path: Path) -> None:
    more = unpacked(
        tmp_path / "more", {"dog/9.jpg": pets()["cat/1.jpg"], "dog/8.jpg": small(77), "cat/0.jpg": small(78)}
    )
    output = pawprint(data.parent, "photos", "import", str(more), "--add").splitlines()
    assert output[0] == "more/dog/9.jpg is called dog; cat/1.jpg has the same content and stays"
    assert output[1].startswith("pets: 8 files in 2 classes (2 new, 1 under another class). ")
    refused = pawprint(data.parent, "photos", "import", "nowhere.zip", fails=True)
    assert refused.startswith("error: nowhere.zip does not exist. Name a zip, tar or folder, an http(s) or s3 URL, or")
    assert len(refused.splitlines()) == 1


def test_groups_of_a_table_are_kept_with_the_photographs(data: Path, tmp_path: Path) -> None:
    table = tmp_path / "animals.csv"
    table.write_text("file,group,camera\ncat/0.jpg,tom,a\npets/cat/1.jpg,tom,b\ndog/0.jpg,rex,a\ndog/1.jpg,,a\n")
    before = {name: content for name, content in contents(data).items() if name != "origins.csv"}
    assert "3 photographs are in 2 groups now. Next: dvc add data" in pawprint(
        data.parent, "photos", "group", str(table)
    )
    groups = {row["file"]: row["group"] for row in origins(data).values() if row["group"]}
    assert groups == {"cat/0.jpg": "tom", "cat/1.jpg": "tom", "dog/0.jpg": "rex"}
    assert {name: content for name, content in contents(data).items() if name != "origins.csv"} == before
    name = "cat/1.jpg"
    decide(Labels(data.parent / "labels.csv"), "class", name, label="dog")  # a decision keeps it
    apply(data, Labels(data.parent / "labels.csv"))
    assert sorted(row["group"] for row in origins(data).values()) == ["", "", "", "rex", "tom", "tom"]
    table.write_text("file,group\ncat/0.jpg,tom\n")
    assert corrections.group(table, data) == (1, 1)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("file,group\ncat/0.jpg,tom\ncat/99.jpg,tom\n", r"animals.csv, line 3: 'cat/99.jpg' is no photograph of data/"),
        ("file,animal\ncat/0.jpg,tom\n", "has the columns file, animal; file and group are needed"),
        ("file,group\ncat/0.jpg,tom\npets/cat/0.jpg,rex\n", "is of the group 'rex', and of 'tom' before"),
        ("", "has the columns none; file and group are needed"),
        ("file,group\ncat/0.jpg\n\n", ""),
    ],
)
def test_a_table_of_groups_that_does_not_match_is_an_error_and_changes_nothing(
    data: Path, tmp_path: Path, text: str, error: str
) -> None:
    table, before = tmp_path / "animals.csv", contents(data)
    table.write_text(text)
    if error:
        with pytest.raises(PawprintError, match=error):
            corrections.group(table, data)
    else:
        assert corrections.group(table, data) == (0, 0)
    assert contents(data) == before
    with pytest.raises(PawprintError, match="cannot be read"):
        corrections.group(tmp_path / "none.csv", data)

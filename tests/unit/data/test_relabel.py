"""Relabel and drop: a person's decisions, applied all or nothing, versioned and undone by DVC."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pawprint import dvc
from pawprint.data import relabel
from pawprint.data.ingest import ingest
from pawprint.data.relabel import Decision
from pawprint.errors import PawprintError
from photo_sources import contents, pets, small, unpacked

ROOT = Path(__file__).resolve().parents[3]
HEADER = "rank,file,label,decision,guess,reason,doubt,unlikeness,hash\n"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """data/ with three cats and three dogs, their origins known."""
    ingest(unpacked(tmp_path / "pets", pets()), tmp_path / "work" / "data")
    return tmp_path / "work" / "data"


def pawprint(work: Path, *words: str, fails: bool = False) -> str:
    done = subprocess.run(
        [sys.executable, "-c", "from pawprint.cli.main import main; main()", "photos", *words],
        cwd=work, env=os.environ | {"PYTHONPATH": str(ROOT / "src")}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode != 0) == fails, done.stderr
    return done.stdout + done.stderr


def origins(data: Path) -> dict[str, dict[str, str]]:
    with (data / "origins.csv").open(newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def test_the_audit_s_list_with_decisions_is_applied_and_dvc_takes_it_back(data: Path, tmp_path: Path) -> None:
    work = data.parent
    git = ("git", "-c", "user.name=t", "-c", "user.email=t@example.org")
    for words in (("init", "-q"), ("add", "-A"), ("commit", "-qm", "photographs")):
        if words[0] == "add":
            subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=work, check=True)
            dvc.add(work, "data")
        subprocess.run([*git, *words], cwd=work, check=True)
    before = contents(data)
    listed = tmp_path / "audit.csv"
    listed.write_text(
        HEADER
        + f"1,cat/1.jpg,cat,dog,dog,called cat,0.9,0.3,{origins(data)['pets/cat/1.jpg']['hash']}\n"
        + "2,dog/0.jpg,dog,drop,dog,unlike,0.1,0.6,\n3,dog/1.jpg,dog,,dog,unlike,0.1,0.6,\n"
    )
    assert "1 of 1 photographs have another class now" in pawprint(work, "relabel", str(listed))
    assert "1 photographs dropped. Next: dvc add data" in pawprint(work, "drop", str(listed))
    after = contents(data)
    assert set(before) - set(after) == {"cat/1.jpg", "dog/0.jpg"}
    moved = next(iter(set(after) - set(before)))
    assert moved.startswith("dog/1-")  # dog/1.jpg is another photograph
    assert after[moved] == before["cat/1.jpg"]
    known = origins(data)
    assert (known["pets/cat/1.jpg"]["file"], known["pets/cat/1.jpg"]["class"]) == (moved, "cat")
    assert known["pets/dog/0.jpg"]["file"] == ""
    # the same source, added again, undoes nothing
    again = ingest(tmp_path / "pets", data, add=True)
    assert (again.changed, again.dropped, len(again.contradictions)) == (False, 1, 1)
    dvc.add(work, "data")
    assert "data.dvc" in subprocess.run([*git, "diff", "--name-only"], cwd=work, capture_output=True, text=True).stdout
    # back
    subprocess.run([*git, "checkout", "-q", "data.dvc"], cwd=work, check=True)
    subprocess.run([sys.executable, "-m", "dvc", "checkout", "-q"], cwd=work, check=True)
    assert contents(data) == before


def test_plain_lists_and_photographs_by_name(data: Path, tmp_path: Path) -> None:
    work = data.parent
    (tmp_path / "to.csv").write_text("data/cat/0.jpg,dog\n\ncat/1.jpg, dog\n")
    pawprint(work, "relabel", str(tmp_path / "to.csv"))
    pawprint(work, "relabel", "dog/2.jpg", "--to", "cat")
    (tmp_path / "gone.txt").write_text(f"{data / 'dog' / '0.jpg'}\n")
    pawprint(work, "drop", str(tmp_path / "gone.txt"), "data/cat/2.jpg")
    wanted = pets()
    assert {content for name, content in contents(data).items() if name.startswith("dog")} == {
        wanted["cat/0.jpg"], wanted["cat/1.jpg"], wanted["dog/1.jpg"],
    }  # fmt: skip
    assert {content for name, content in contents(data).items() if name.startswith("cat/")} == {wanted["dog/2.jpg"]}


REFUSED = {
    "relabel to a class that is none": ("relabel", "cat/0.jpg,dgo\n", "no class `dgo`; there are cat, dog"),
    "relabel of what is not there": ("relabel", "cat/0.jpg,dog\ncat/77.jpg,dog\n", "cat/77.jpg is not there"),
    "relabel without a class": ("relabel", "cat/0.jpg\n", "line 1: write a photograph, a comma"),
    "two classes for one": ("relabel", "cat/0.jpg,dog\ncat/0.jpg,cat\n", "two classes"),
    "a class that would be empty": ("relabel", "".join(f"cat/{n}.jpg,dog\n" for n in range(3)), "left in cat"),
    "drop of what is not there": ("drop", "cat/0.jpg\ncat/77.jpg\n", "cat/77.jpg is not there"),
    "drop of a whole class": ("drop", "".join(f"dog/{n}.jpg\n" for n in range(3)), "left in dog"),
    "drop out of data": ("drop", "../pets/cat/0.jpg\n", "not there"),
    "an audit without decisions": ("drop", HEADER + "1,cat/0.jpg,cat,,dog,x,0.9,0.3,\n", "decides nothing for drop"),
    "another photograph than the one that was looked at": (
        "drop", HEADER + f"1,cat/0.jpg,cat,drop,dog,x,0.9,0.3,{'0' * 64}\n", "not the photograph that was looked at"
    ),
    "an empty list": ("drop", "\n", "is empty"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_decision_that_cannot_be_is_named_and_nothing_changes(data: Path, tmp_path: Path, name: str) -> None:
    verb, text, output = REFUSED[name]
    (tmp_path / "list.csv").write_text(text)
    before = contents(data.parent)
    with pytest.raises(PawprintError, match=output):
        decided = relabel.decisions(tmp_path / "list.csv", verb, data)  # type: ignore[arg-type]
        relabel.relabel(decided, data) if verb == "relabel" else relabel.drop(decided, data)
    assert contents(data.parent) == before


def test_a_list_that_is_none_is_named(data: Path) -> None:
    assert "nowhere.csv cannot be read" in pawprint(data.parent, "drop", "nowhere.csv", fails=True)
    with pytest.raises(PawprintError, match=r"0\.jpg cannot be read"):
        relabel.decisions(data / "cat" / "0.jpg", "relabel", data)


def test_decisions_hold_for_photographs_that_never_had_an_origin(tmp_path: Path) -> None:
    data = unpacked(tmp_path / "data", pets() | {"cat/odd.jpg": small(77)})
    assert relabel.drop([Decision("cat/odd.jpg")], data) == 1
    assert ingest(
        unpacked(tmp_path / "more", {"cat/odd2.jpg": small(77), "dog/n.jpg": small(78)}), data, add=True
    ).dropped


def test_an_import_in_their_place_says_that_decisions_go(data: Path, tmp_path: Path) -> None:
    relabel.relabel([Decision("cat/0.jpg", "dog")], data)
    relabel.drop([Decision("dog/1.jpg")], data)
    assert "2 earlier decisions gone (--add keeps them)" in ingest(tmp_path / "pets", data).summary()
    assert "gone" not in ingest(tmp_path / "pets", data).summary()


def test_what_replaces_the_sample_no_longer_points_at_its_remote(data: Path, tmp_path: Path) -> None:
    pointer = data.parent / "data.dvc"
    pointer.write_text(f"outs:\n- md5: {'0' * 32}.dir\n  hash: md5\n  path: data\n  remote: sample\n  push: false\n")
    pawprint(data.parent, "drop", "cat/0.jpg")
    assert "sample" not in pointer.read_text() and "push" not in pointer.read_text()


def test_the_import_command_adds_and_says_what_contradicts(data: Path, tmp_path: Path) -> None:
    more = unpacked(
        tmp_path / "more", {"dog/9.jpg": pets()["cat/1.jpg"], "dog/8.jpg": small(77), "cat/0.jpg": small(78)}
    )
    output = pawprint(data.parent, "import", str(more), "--add").splitlines()
    assert output[0] == "more/dog/9.jpg is called dog; cat/1.jpg has the same content and stays"
    assert output[1].startswith("pets: 8 files in 2 classes (2 new, 1 under another class). ")
    refused = pawprint(data.parent, "import", "nowhere.zip", fails=True)
    assert refused.startswith("error: nowhere.zip does not exist. Name a zip, tar or folder, an http(s) or s3 URL, or")
    assert len(refused.splitlines()) == 1

"""labels.csv: two people's decisions merge by git without a conflict, and what differs is found."""

import shutil
import subprocess
from pathlib import Path

import pytest

from pawprint.data.labels import HEADER, Decision, Labels
from pawprint.errors import PawprintError

ROOT = Path(__file__).resolve().parents[3]
A, B, C, D = (letter * 64 for letter in "abcd")


@pytest.fixture
def labels(tmp_path: Path) -> Labels:
    return Labels(tmp_path / "labels.csv")


def git(work: Path, *words: str) -> str:
    who = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    done = subprocess.run(["git", *who, *words], cwd=work, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def outcomes(labels: Labels) -> dict[str, str]:
    return {digest[0]: one.outcome for digest, one in labels.standing().items()}


def test_a_line_a_decision_and_the_last_of_one_person_stands(labels: Labels) -> None:
    labels.add([A, B], "class", "dog", "Ann", "audit")
    labels.add([A], "drop", "", "Ann", "audit\nsecond look")
    labels.add([B], "undo", "", "Ann", "audit")
    lines = labels.path.read_text().splitlines()
    assert lines[0] == HEADER == "hash,decision,class,who,when,why,replaces"
    assert len(lines) == 5
    assert outcomes(labels) == outcomes(Labels(labels.path)) == {"a": "dropped"}
    assert [one.decision for one in labels.of(A)] == ["class", "drop"]
    assert labels.of(A)[1].why == "audit second look"


def test_odd_class_names_and_people(labels: Labels) -> None:
    for number, label in enumerate(("drop", 'a,"b"', "Ärger; ☂", "undo", "#", "=1+1")):
        labels.add([f"{number:064x}"], "class", label, 'Ann, "the first"', "a,b")
    found = Labels(labels.path).standing()
    assert [one.label for one in found.values()] == ["drop", 'a,"b"', "Ärger; ☂", "undo", "#", "=1+1"]
    assert {one.who for one in found.values()} == {'Ann, "the first"'}
    for label in ("", "a/b", ".hidden", "unknown", "a\nb"):
        with pytest.raises(PawprintError):
            labels.add([A], "class", label, "Ann", "audit")
    assert A not in labels.standing()


@pytest.mark.parametrize("begun", [True, False], ids=["a file that both had", "a file that both began"])
def test_two_people_s_work_merges_without_a_conflict(tmp_path: Path, begun: bool) -> None:
    work = tmp_path / "work"
    work.mkdir()
    shutil.copy(ROOT / ".gitattributes", work)
    git(work, "init", "-q", "-b", "main")
    if begun:
        Labels(work / "labels.csv").add([A], "keep", "cat", "Ann", "audit")
    git(work, "add", "-A")
    git(work, "commit", "-qm", "start")
    git(work, "checkout", "-qb", "bob")
    bob = Labels(work / "labels.csv")
    bob.add([A], "class", "dog", "Bob", "audit")
    bob.add([B, C], "drop", "", "Bob", "audit")
    bob.add([D], "class", "cat", "Bob", "audit")
    git(work, "add", "-A")
    git(work, "commit", "-qm", "bob")
    git(work, "checkout", "-q", "main")
    ann = Labels(work / "labels.csv")
    ann.add([A], "drop", "", "Ann", "second look")
    ann.add([B], "drop", "", "Ann", "audit")
    ann.add([C], "unsure", "", "Ann", "audit")
    ann.add([D], "keep", "cat", "Ann", "audit")
    git(work, "add", "-A")
    git(work, "commit", "-qm", "ann")
    git(work, "merge", "-q", "bob", "-m", "merge")
    assert git(work, "status", "--porcelain") == ""
    merged = Labels(work / "labels.csv")
    # the same said twice, or by one who is unsure, is no conflict; dog and dropped is
    assert outcomes(merged) == {"b": "dropped", "c": "dropped", "d": "class cat"}
    assert {one.who: one.outcome for one in merged.conflicts()[A]} == {"Ann": "dropped", "Bob": "class dog"}
    # settled in sight of both: also where both settle it, and differently, it is found again
    git(work, "checkout", "-qb", "bob2")
    merged.add([A], "class", "dog", "Bob", "conflicts")
    assert merged.conflicts() == {} and outcomes(merged)["a"] == "class dog"
    git(work, "commit", "-qam", "bob settles")
    git(work, "checkout", "-q", "main")
    merged.add([A], "drop", "", "Ann", "conflicts")
    git(work, "commit", "-qam", "ann settles")
    git(work, "merge", "-q", "bob2", "-m", "merge")
    assert {one.who for one in merged.conflicts()[A]} == {"Ann", "Bob"}
    merged.add([A], "drop", "", "Cleo", "conflicts")
    assert merged.conflicts() == {} and outcomes(Labels(work / "labels.csv"))["a"] == "dropped"


def test_the_clocks_of_two_machines_decide_nothing(labels: Labels) -> None:
    early = Decision(A, "class", "dog", "Ann", "2030-01-01T00:00:00.000Z", "audit")
    late = Decision(A, "drop", "", "Bob", "2020-01-01T00:00:00.000Z", "audit", early.id)  # his clock is ten years slow
    labels.path.write_text(HEADER + "\n" + late.line() + early.line())
    assert outcomes(labels) == {"a": "dropped"}


def test_a_line_that_a_loss_of_power_cut_off_is_nobody_s_decision(labels: Labels) -> None:
    labels.add([A], "class", "dog", "Ann", "audit")
    whole = labels.path.read_bytes()
    cut = Decision(B, "class", "cat", "Ann", "2026-01-01T00:00:00.000Z", "audit").line().encode()[:70]
    labels.path.write_bytes(whole + cut)
    again = Labels(labels.path)
    assert outcomes(again) == {"a": "class dog"}
    again.add([C], "drop", "", "Ann", "audit")
    assert outcomes(Labels(labels.path)) == {"a": "class dog", "c": "dropped"}
    labels.path.write_bytes(labels.path.read_bytes().removesuffix(b"\n"))  # an editor's last line without its end
    labels.add([D], "drop", "", "Ann", "audit")
    assert outcomes(Labels(labels.path)) == {"a": "class dog", "c": "dropped", "d": "dropped"}


DAMAGED = {
    "a hash that is none": (f"{HEADER}\nabc,drop,,Ann,2026,audit,\n", "line 2 is no decision"),
    "a decision that is none": (f"{HEADER}\n{A},burn,,Ann,2026,audit,\n", "line 2 is no decision"),
    "a class without its name": (f"{HEADER}\n{A},class,,Ann,2026,audit,\n", "line 2 is no decision"),
    "conflict markers": (f"{HEADER}\n<<<<<<< HEAD\n", "put `labels.csv merge=union` into .gitattributes"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_line_is_named(labels: Labels, name: str) -> None:
    text, message = DAMAGED[name]
    labels.path.write_text(text)
    with pytest.raises(PawprintError, match=message):
        Labels(labels.path)

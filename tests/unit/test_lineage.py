"""The record of where a model comes from, on real git repositories."""

import subprocess
from pathlib import Path

from pawprint import lineage


def git(folder: Path, *words: str) -> None:
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", "-C", str(folder), *who, *words], check=True, capture_output=True)


def test_a_changed_file_makes_the_tree_dirty_but_what_a_run_writes_does_not(tmp_path: Path) -> None:
    assert lineage.git_state(tmp_path) == ("", True)  # nothing says what the code was
    assert "is no git repository" in lineage.why_no_commit(tmp_path)
    git(tmp_path, "init")
    for name in ("code.py", *lineage.RECORDS):
        (tmp_path / name).write_text("1")
    assert lineage.git_state(tmp_path) == ("", True)
    assert "there is no commit yet" in lineage.why_no_commit(tmp_path)
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    commit, dirty = lineage.git_state(tmp_path)
    assert len(commit) == 40
    assert not dirty
    assert not lineage.uncommitted_record(tmp_path)
    for name in (*lineage.RECORDS, "labels.csv"):  # decisions of a review are in a file that git does not know yet
        (tmp_path / name).write_text("2")
        assert name in lineage.uncommitted_record(tmp_path)
    (tmp_path / "untracked").write_text("")
    assert lineage.git_state(tmp_path) == (commit, False)
    (tmp_path / "code.py").write_text("2")
    assert lineage.git_state(tmp_path) == (commit, True)


def test_why_a_commit_that_a_record_names_is_not_there(tmp_path: Path) -> None:
    (whole := tmp_path / "whole").mkdir()
    git(whole, "init")
    for text in ("1", "2"):
        (whole / "code.py").write_text(text)
        git(whole, "add", ".")
        git(whole, "commit", "-m", text)
    first = lineage.commit_of(whole, "HEAD~1")
    git(tmp_path, "clone", "--depth", "1", whole.as_uri(), "shallow")
    assert not lineage.commit_of(tmp_path / "shallow", first)
    assert "`git fetch --unshallow`" in lineage.why_unknown(tmp_path / "shallow", first)
    assert lineage.why_unknown(whole, "0" * 40) == "not in this repository"
    assert lineage.why_unknown(whole, "") == "git told no commit"
    (tmp_path / "none").mkdir()
    assert "is no git repository" in lineage.why_unknown(tmp_path / "none", first)

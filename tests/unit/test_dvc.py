"""The calls to DVC, against a real DVC repository under tmp."""

import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from pawprint import dvc
from pawprint.errors import PawprintError


def run_dvc(root: Path, *words: str) -> None:
    subprocess.run([sys.executable, "-m", "dvc", *words], cwd=root, check=True, capture_output=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DVC project with one stage and two remotes, to be copied: DVC takes seconds to make one."""
    folder = tmp_path_factory.mktemp("made") / "project"
    folder.mkdir()
    run_dvc(folder, "init", "--no-scm")
    run_dvc(folder, "remote", "add", "sample", str(folder.parent / "sample"))
    run_dvc(folder, "remote", "add", "team", str(folder.parent / "team"))
    (folder / "dvc.yaml").write_text(
        "stages:\n  copy:\n    cmd: python -c \"print('copying'); open('out', 'w').write(open('data/a').read())\"\n"
        "    deps: [data]\n    outs: [out]\n"
    )
    (folder / "data").mkdir()
    (folder / "data" / "a").write_text("1")
    dvc.add(folder, "data")
    return folder


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    """That project in a folder of the test's own, its remotes beside it."""
    folder = Path(shutil.copytree(made, tmp_path / "project"))
    config = folder / ".dvc" / "config"
    assert config.read_text().count(f"{made.parent}/") == 2
    config.write_text(config.read_text().replace(f"{made.parent}/", f"{tmp_path}/"))
    return folder


def test_repro_streams_what_stages_say_and_then_nothing_is_stale(root: Path) -> None:
    assert dvc.status(root)
    assert list(dvc.repro(root)) == ["copying"]  # and nothing that DVC itself has to say
    assert dvc.status(root) == {}
    (root / "data" / "a").write_text("2")
    assert dvc.status(root)
    assert "Running stage 'copy':" in list(dvc.repro(root, verbose=True))


def test_dvc_draws_no_bars_where_a_terminal_would_show_them(root: Path) -> None:
    list(dvc.repro(root))
    (root / "out").unlink()  # comes out of DVC's cache
    assert list(dvc.repro(root, environment={"DVC_IGNORE_ISATTY": "1"})) == []
    assert (root / "out").read_text() == "1"


def test_the_index_is_where_nobody_else_can_write(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DVC_SITE_CACHE_DIR", raising=False)
    index = root / ".dvc" / "tmp" / "site"
    shutil.rmtree(index)
    assert not dvc.index_is_private(root)
    dvc.status(root)  # our own command, without any setting
    kept = list((index / "repo").iterdir())
    assert kept
    dvc.keep_index_private(root)  # and one typed anywhere in the project
    run_dvc(root / "data", "status")
    assert list((index / "repo").iterdir()) == kept
    assert stat.S_IMODE(index.stat().st_mode) == 0o700
    assert dvc.index_is_private(root)


def test_a_run_keeps_the_index_of_a_clone_and_of_a_copy_private(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """.dvc/config.local is in no commit, and names an absolute path."""
    monkeypatch.delenv("DVC_SITE_CACHE_DIR", raising=False)
    with dvc.lock(root):
        pass
    copy = root.parent / "copy"
    shutil.copytree(root, copy)
    for project in (root, copy):
        with dvc.lock(project):
            pass
        settings = (project / ".dvc" / "config.local").read_text()
        assert settings.count("site_cache_dir") == 1
        assert str(project / ".dvc" / "tmp" / "site") in settings
        assert dvc.index_is_private(project)


def test_a_project_without_git_is_named_with_the_remedy(root: Path) -> None:
    config = root / ".dvc" / "config"
    config.write_text(config.read_text().replace("no_scm = True", ""))
    with pytest.raises(PawprintError, match=r"is no git repository .*: `git init && git add -A"), dvc.lock(root):
        pass
    with pytest.raises(PawprintError, match="is no git repository"):
        dvc.status(root)
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    with dvc.lock(root):
        assert dvc.status(root)


def test_a_stage_that_fails_is_a_sentence(root: Path) -> None:
    (root / "dvc.yaml").write_text("stages:\n  bad:\n    cmd: 'false'\n    outs: [out]\n")
    with pytest.raises(PawprintError, match="The pipeline stopped"):
        list(dvc.repro(root))


def test_dvc_s_own_errors_are_shown(root: Path) -> None:
    (root / "dvc.yaml").write_text("stages:\n  bad:\n    cmd: echo\n    deps: [nowhere]\n")
    lines = []
    with pytest.raises(PawprintError, match="The pipeline stopped"):
        lines.extend(dvc.repro(root))
    with pytest.raises(PawprintError):
        for line in dvc.repro(root):
            lines.append(line)  # noqa: PERF402  the end is an error
    assert "nowhere" in "".join(lines)


def test_a_run_that_is_stopped_at_any_moment_leaves_dvc_lock_whole(root: Path) -> None:
    stage = "  s{0}:\n    cmd: echo {0}; sleep 0.4; cp data/a o{0}\n    outs: [o{0}]\n"
    (root / "dvc.yaml").write_text("stages:\n" + "".join(stage.format(number) for number in range(6)))
    for stop in (1, 3, 4):
        (root / "data" / "a").write_text(str(stop))
        (root / "dvc.lock").unlink(missing_ok=True)
        lines = dvc.repro(root, "--no-run-cache")
        for _ in range(stop):
            next(lines)
        lines.close()  # what a closed pipe, Ctrl-C and a time-out come to
        assert not dvc.is_damaged(root), stop
        assert dvc.status(root)
    assert (root / "dvc.lock").exists()


@pytest.mark.parametrize("cut", [b"", b"schema: '2.0'\nsta", b"\xff"], ids=["empty", "cut off", "no text"])
def test_a_damaged_dvc_lock_is_put_back_by_the_next_command(root: Path, cut: bytes) -> None:
    list(dvc.repro(root))
    with dvc.lock(root):
        pass
    whole = (root / "dvc.lock").read_bytes()
    (root / "dvc.lock").write_bytes(cut)
    assert dvc.is_damaged(root)
    with dvc.lock(root):
        assert (root / "dvc.lock").read_bytes() == whole
        assert dvc.status(root) == {}
    (root / "dvc.lock").write_bytes(cut)
    (root / ".dvc" / "tmp" / "dvc.lock.kept").unlink()
    with dvc.lock(root):
        list(dvc.repro(root))
    assert dvc.status(root) == {}


def test_nothing_is_pushed_to_the_sample_and_nowhere_by_accident(root: Path, tmp_path: Path) -> None:
    with pytest.raises(PawprintError, match="no default remote"):
        dvc.push(root)
    with pytest.raises(PawprintError, match="nothing is pushed to it"):
        dvc.push(root, "sample")
    run_dvc(root, "remote", "default", "sample")
    with pytest.raises(PawprintError, match="nothing is pushed to it"):
        dvc.push(root)
    assert not (tmp_path / "sample").exists()
    assert dvc.push(root, "team") == "team"
    assert any((tmp_path / "team").rglob("*"))


def test_what_is_added_in_the_sample_s_place_no_longer_points_at_its_remote(root: Path, tmp_path: Path) -> None:
    pointer = root / "data.dvc"
    pointer.write_text(pointer.read_text() + "  remote: sample\n  push: false\n")
    run_dvc(root, "push", "--remote", "sample", "data.dvc")
    assert not (tmp_path / "sample").exists()
    (root / "data" / "b").write_text("a photograph of one's own")
    dvc.add(root, "data")
    assert "sample" not in pointer.read_text()
    assert dvc.status(root).keys() == {"copy"}
    dvc.push(root, "team")
    assert not (tmp_path / "sample").exists()


def test_a_pull_that_cannot_be_is_a_sentence(root: Path) -> None:
    with pytest.raises(PawprintError, match=r"`dvc pull nowhere\.dvc` failed"):
        dvc.pull(root, "nowhere.dvc")


def test_data_hash_is_what_data_dvc_names(tmp_path: Path) -> None:
    (tmp_path / "data.dvc").write_text("outs:\n- md5: 0123abc.dir\n  path: data\n")
    assert dvc.data_hash(tmp_path) == "0123abc.dir"
    for broken in ("", "outs: []", "outs: [", "- 1"):
        (tmp_path / "data.dvc").write_text(broken)
        with pytest.raises(PawprintError, match=r"data\.dvc is missing or names no photographs"):
            dvc.data_hash(tmp_path)


def test_a_remote_that_the_environment_names_becomes_the_default_and_keeps_its_keys(root: Path) -> None:
    run_dvc(root, "remote", "modify", "--local", "team", "jobs", "2")
    for url in ("s3://dvc/store", "s3://dvc/store", "s3://dvc/moved"):
        dvc.use_remote(root, url)
        assert dvc.default_remote(root) == "team"
        assert dvc.remote(root, "team") == {"url": url, "jobs": "2"}
    assert "s3" not in (root / ".dvc" / "config").read_text()


def test_an_undo_brings_back_photographs_that_no_commit_names(root: Path) -> None:
    with pytest.raises(PawprintError, match="no photographs of before"):
        dvc.undo(root)
    mine, pointer = root / "data" / "a", root / "data.dvc"
    mine.write_text("mine, changed and never versioned")
    before = dvc.snapshot(root)
    mine.unlink()
    (root / "data" / "b").write_text("of another source")
    dvc.keep(root, before)
    dvc.undo(root)
    assert mine.read_text() == "mine, changed and never versioned"
    assert not (root / "data" / "b").exists()
    assert pointer.read_bytes() == before
    dvc.undo(root)  # and forward again
    assert (root / "data" / "b").read_text() == "of another source"
    assert not mine.exists()


def test_an_undo_that_cannot_be_leaves_all_as_it_is(root: Path) -> None:
    mine = root / "data" / "a"
    before = dvc.snapshot(root)
    mine.write_text("2")
    dvc.keep(root, before)
    run_dvc(root, "push", "--remote", "team")
    run_dvc(root, "add", "data")
    run_dvc(root, "gc", "--workspace", "--force")
    with pytest.raises(PawprintError, match=r"no longer has the list of .* `dvc gc`\. data/ stays .* photos import"):
        dvc.undo(root)
    assert mine.read_text() == "2"
    assert dvc.status(root).keys() == {"copy"}
    run_dvc(root, "remote", "default", "team")
    dvc.undo(root)  # what was pushed comes back
    assert mine.read_text() == "1"


def test_an_undo_names_the_photographs_that_are_gone(root: Path) -> None:
    (root / "data" / "b").write_text("b")
    before = dvc.snapshot(root)
    (root / "data" / "b").unlink()
    dvc.keep(root, before)
    gone = {path for name, path in dvc.objects(root).items() if path.read_bytes() == b"b"}
    (root / "data" / "c").write_text("c")
    for path in gone:
        path.unlink()
    with pytest.raises(PawprintError, match=r"no longer has 1 of 2 files \(b\)"):
        dvc.undo(root)
    assert sorted(path.name for path in (root / "data").iterdir()) == ["a", "c"]


def test_data_behind_a_link_is_named_before_dvc_meets_it(root: Path, tmp_path: Path) -> None:
    (root / "data").rename(tmp_path / "larger")
    (root / "data").symlink_to(tmp_path / "larger")
    (tmp_path / "larger" / "b").write_text("2")
    for versioned in (dvc.add, dvc.snapshot):
        with pytest.raises(PawprintError, match=r"data is a link to .*larger, and DVC versions no folder"):
            versioned(root)

"""An import is all or nothing, wherever it is killed; two at a time do not mix."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pawprint import files
from pawprint.data.class_folders import dataset
from pawprint.data.ingest import ingest
from pawprint.errors import PawprintError
from pawprint.files import recover, replace_folder
from photo_sources import contents, pets, unpacked

ROOT = Path(__file__).resolve().parents[2]
IMPORT = """
import sys; from pathlib import Path; from pawprint.data.ingest import ingest
ingest(sys.argv[1], Path("data"))
"""
# Kill this process for real, by signal argv[4], before or after the folder whose path ends in argv[2] is renamed.
KILLED = """
import os, pathlib, signal, sys
rename = pathlib.Path.rename
def killed(self, target):
    here = str(self).endswith(sys.argv[2])
    if here and sys.argv[3] == "before": os.kill(os.getpid(), int(sys.argv[4]))
    rename(self, target)
    if here and sys.argv[3] == "after": os.kill(os.getpid(), int(sys.argv[4]))
pathlib.Path.rename = killed
"""
FOLDERS = ("/building", "data", "/ready")
STEPS = [
    *((step, when, signal.SIGKILL) for step in FOLDERS for when in ("before", "after")),
    ("data", "after", signal.SIGINT),
    ("/incoming", "after", signal.SIGKILL),
]


def start(work: Path, code: str, *arguments: str) -> subprocess.Popen[bytes]:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    return subprocess.Popen([sys.executable, "-c", code, *arguments], cwd=work, env=environment)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """work/data with some photographs, and more/ beside it."""
    unpacked(tmp_path / "more", pets(100, 4))
    ingest(unpacked(tmp_path / "pets", pets()), tmp_path / "work" / "data")
    return tmp_path / "work"


@pytest.mark.parametrize(("step", "when", "by"), STEPS)
def test_killed_at_any_rename_data_is_the_old_or_the_new(work: Path, step: str, when: str, by: signal.Signals) -> None:
    data = work / "data"
    old = contents(data)
    ingest(work.parent / "more", work.parent / "wanted" / "data")
    new = contents(work.parent / "wanted" / "data")
    killed = start(work, KILLED + IMPORT, "../more", step, when, str(by.value))
    assert killed.wait() == -by
    # 1. the next one who reads finds a whole set
    assert dataset(data).classes == ("cat", "dog")
    assert contents(data) in (old, new)
    # 2. the next import goes through and leaves nothing behind
    ingest(work.parent / "more", data)
    assert contents(data) == new
    assert [entry.name for entry in work.iterdir()] == ["data"]


def test_a_second_import_at_the_same_time_is_refused(work: Path) -> None:
    with replace_folder(work / "data"):
        with pytest.raises(PawprintError, match=r"Another process is writing"):
            ingest(work.parent / "more", work / "data")
        recover(work / "data")  # and the one that runs is not disturbed
    assert contents(work / "data") == {}


def test_a_full_disk_is_a_sentence_and_data_stays(work: Path) -> None:
    before = contents(work / "data")
    with pytest.raises(PawprintError, match="No space left"), replace_folder(work / "data") as fresh:
        (fresh / "full").symlink_to("/dev/full")
        (fresh / "full").write_bytes(b"x")
    assert contents(work / "data") == before


@pytest.mark.slow
def test_killed_at_random_moments_again_and_again(work: Path) -> None:
    """Two sets take turns and each import is killed; data/ is always one of the two, whole."""
    sets = []
    for number in (0, 1):
        source = unpacked(work.parent / f"set{number}", pets(number * 2000, 150))
        ingest(source, work.parent / f"wanted{number}" / "data")
        sets.append(contents(work.parent / f"wanted{number}" / "data"))
    ingest(work.parent / "set0", work / "data")
    began = time.monotonic()
    assert start(work, IMPORT, "../set1").wait() == 0
    whole = time.monotonic() - began
    rng = random.Random(2017)
    ends = 0
    for number in range(40):
        process = start(work, IMPORT, f"../set{number % 2}")
        time.sleep(rng.uniform(0.3, 1.05) * whole)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            ends += 1
        assert process.wait() in (0, -signal.SIGKILL)
        recover(work / "data")
        assert contents(work / "data") in sets
    assert ends > 10
    ingest(work.parent / "set0", work / "data")
    assert contents(work / "data") == sets[0]
    assert [entry.name for entry in work.iterdir()] == ["data"]


def test_a_text_in_markdown_stands_for_itself() -> None:
    assert files.in_markdown("a|b <i> *x* `y` \\ 99 % [97, 99] # _z_") == (
        "a\\|b \\<i> \\*x\\* \\`y\\` \\\\ 99 % [97, 99] # _z_"
    )

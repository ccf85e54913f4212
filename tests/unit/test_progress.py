"""What is reported, where nobody reads it, where a program does, and on a terminal of 80 columns."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pawprint import progress

WORK = """
import time
from pawprint import progress
progress.PATIENCE = 0
UNIT = "photographs that do not fit beside all the other things that are shown"
with progress.stage("train mlp"):
    for epoch in (1, 2):
        with progress.Progress(f"a rather long candidate name epoch {epoch}/2", 30_000, unit=UNIT) as bar:
            for _ in range(6):
                bar.advance(5_000)
                time.sleep(0.15)
        progress.say(f"epoch {epoch}", epoch=epoch, loss=0.5)
"""


def on_a_terminal(columns: int, work: str = WORK) -> str:
    """All that `work` writes to a terminal of so many columns."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"COLUMNS": str(columns), "TERM": "xterm"}
    with subprocess.Popen([sys.executable, "-c", work], stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        output = b""
        while True:
            try:
                piece = os.read(ours, 4096)
            except OSError:
                break
            output += piece
        assert process.wait() == 0
    os.close(ours)
    return output.decode()


def test_a_stage_is_one_live_line_that_fits_the_window() -> None:
    output = on_a_terminal(80)
    shown = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line) for line in re.split(r"[\r\n]+", output)]
    assert max(map(len, shown)) <= 80
    assert any("a rather long candidate" in line for line in shown)
    assert not re.search(r"\x1b\[1A\x1b\[2K\x1b\[1A", output)  # never more than one line is drawn again
    assert [line.split() for line in shown if line.startswith(("epoch", "✓"))][:2] == [["epoch", "1"], ["epoch", "2"]]
    assert re.search(r"✓ train mlp +\d+\.\d s", shown[-2])


def test_a_long_sentence_breaks_between_words_and_stays_as_it_is() -> None:
    """Also with no stage at work; what looks like rich's markup or its emoji is a class's name."""
    sentence = "pets: 200 files in 2 classes (200 new). The source has 2 classes ([red] 100, :cat: 100)."
    shown = on_a_terminal(80, f"from pawprint import progress; progress.say({sentence!r})").splitlines()
    assert max(map(len, shown)) <= 80
    assert " ".join(line.strip() for line in shown) == sentence


def test_elsewhere_it_is_a_few_plain_lines() -> None:
    done = subprocess.run([sys.executable, "-c", WORK], capture_output=True, text=True, check=True)
    assert re.fullmatch(r"epoch 1\nepoch 2\ntrain mlp: done in \d\.\d s\n", done.stdout)
    assert "\x1b" not in done.stderr
    assert len(done.stderr.splitlines()) <= 4


def test_for_a_program_each_line_is_an_object() -> None:
    environment = os.environ | {"PAWPRINT_OUTPUT": "json"}
    done = subprocess.run([sys.executable, "-c", WORK], capture_output=True, text=True, check=True, env=environment)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert {"epoch": 1, "loss": 0.5} in lines
    assert (lines[-1]["stage"], lines[-1]["ok"]) == ("train mlp", True)
    assert done.stderr == ""


def test_lines_of_a_stage_stay_objects(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PAWPRINT_OUTPUT", "json")
    for line in ('{"epoch": 1}', "MLflow does not answer.", "{not JSON", ""):
        progress.relay(line)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines == [{"epoch": 1}, {"message": "MLflow does not answer."}, {"message": "{not JSON"}]


def test_work_goes_on_when_nobody_reads_it(tmp_path: Path) -> None:
    code = f"""
from pawprint.progress import say
for number in range(100_000):
    say(f"line {{number}}")
open({str(tmp_path)!r} + "/end", "w").close()
"""
    done = subprocess.run(["bash", "-c", f"{sys.executable} -c '{code.replace(chr(39), chr(34))}' | head -1"],
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert (done.stdout, done.stderr) == ("line 0\n", "")
    assert (tmp_path / "end").exists()


@pytest.mark.parametrize(
    ("seconds", "shown"), [(4.12, "4.1 s"), (38.4, "38 s"), (125, "2 min 05 s"), (3599.6, "60 min 00 s")]
)
def test_durations_are_for_people(seconds: float, shown: str) -> None:
    assert progress.duration(seconds) == shown

"""The journal of a run on disk; tests/integration/test_journal.py uploads it."""

import math
from pathlib import Path

from pawprint.tracking.journal import LINKED, Journal


def test_a_line_that_a_full_disk_has_cut_off_costs_no_other_line(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "run")
    journal.append("params", values={"epochs": "5"})
    with (journal.folder / "journal.jsonl").open("ab") as file:
        file.write(b'{"method":"metrics","argum')
    assert [call.method for call in journal.calls()] == ["params"]
    journal.append("metrics", values={"train_loss": math.inf, "validation_loss": 0.5}, step=1, at=2.0)
    params, metrics = journal.calls()
    assert params.arguments == {"values": {"epochs": "5"}}
    assert metrics.arguments == {"values": {"train_loss": math.inf, "validation_loss": 0.5}, "step": 1, "at": 2.0}


def test_files_are_kept_as_they_were(tmp_path: Path) -> None:
    journal, folder = Journal(tmp_path / "run"), tmp_path / "model"
    folder.mkdir()
    small, large = folder / "model.json", folder / "model.onnx"
    small.write_text("one")
    large.write_bytes(bytes(LINKED + 1))
    journal.append("model", folder)
    small.write_text("two")
    large.unlink()
    kept = Path(journal.waiting()[0].arguments["path"])
    assert (kept / "model.json").read_text() == "one"
    assert (kept / "model.onnx").stat().st_size == LINKED + 1
    journal.remove()
    assert not journal.folder.exists()

"""The alias `champion` under two registrations at once, and a rollback: real processes, a real MLflow database."""

import subprocess
import sys
from pathlib import Path

import mlflow
import pytest

from pawprint.errors import PawprintError
from pawprint.tracking import registry, server
from pawprint.tracking.registry import Champion

PROJECT = Path(__file__).parents[3]
NAME = "pawprint-race"

PROMOTE = """
import sys
from pathlib import Path
from pawprint.tracking import registry
root, version, go = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
mine, reigning = registry.find(root, f"pawprint-race/{version}"), registry.champion(root, "pawprint-race")
print("ready", flush=True)
sys.stdin.readline()
print("won" if registry.promote(root, mine, "faster", over=reigning) else "lost")
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace whose registry has three versions; the first reigns."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    server.connect(tmp_path)
    client = mlflow.MlflowClient()
    client.create_registered_model(NAME)
    run_id = client.create_run(client.create_experiment("race", artifact_location=str(tmp_path / "a"))).info.run_id
    for number in "123":
        client.create_model_version(NAME, source=str(tmp_path), run_id=run_id, tags={"model_digest": number * 64})
    assert registry.promote(tmp_path, version(tmp_path, 1), "the first", over=None)
    return tmp_path


def version(root: Path, number: int) -> Champion:
    found = registry.find(root, f"{NAME}/{number}")
    assert found is not None
    return found


def test_of_two_registrations_at_once_exactly_one_wins(root: Path, tmp_path: Path) -> None:
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", PROMOTE, str(root), number, ""],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=PROJECT,
            env={"PYTHONPATH": str(PROJECT / "src"), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        )
        for number in "23"
    ]  # fmt: skip
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"  # both have seen version 1 reign
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("\n")
        racer.stdin.flush()
    said = [racer.communicate(timeout=120)[0].strip() for racer in racers]
    assert sorted(said) == ["lost", "won"]
    reigning = registry.champion(root, NAME)
    assert reigning == version(root, 2 if said[0] == "won" else 3)


def test_a_rollback_puts_the_previous_one_back_and_marks_the_other(root: Path) -> None:
    assert registry.promote(root, version(root, 2), "better", over=version(root, 1))
    assert registry.promote(root, version(root, 3), "better still", over=version(root, 2))
    gone, now = registry.roll_back(root, NAME, "it calls foxes dogs")
    assert (gone.version, now.version) == ("3", "2")
    assert registry.champion(root, NAME) == now
    assert "it calls foxes dogs" in registry.rolled_back(root, gone)
    assert registry.rolled_back(root, now) == ""
    assert registry.roll_back(root, NAME, "this one too")[1].version == "1"
    with pytest.raises(PawprintError, match="version 1 is the first that reigned"):
        registry.roll_back(root, NAME, "again")
    assert registry.champion(root, NAME) == version(root, 1)


def test_a_promotion_over_somebody_who_reigns_no_longer_moves_nothing(root: Path) -> None:
    assert registry.promote(root, version(root, 2), "better", over=version(root, 1))
    assert not registry.promote(root, version(root, 3), "better than 1", over=version(root, 1))
    assert registry.champion(root, NAME) == version(root, 2)


def test_versions_are_found_by_number_and_alias(root: Path) -> None:
    for word in (f"{NAME}/1", f"{NAME}/v1", f"{NAME}@champion", f"models:/{NAME}/1", f"models:/{NAME}@champion"):
        assert registry.find(root, word) == version(root, 1), word
    for word in ("nobody", f"{NAME}/9", f"{NAME}@nobody", "nobody/1"):
        assert registry.find(root, word) is None, word
    assert registry.aliases(root, version(root, 1)) == ["champion"]
    assert {entry.version for entry in registry.versions(root)} == {"1", "2", "3"}

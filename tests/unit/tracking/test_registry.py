"""The alias `champion` under two registrations at once, and a rollback: real processes, a real MLflow database."""

import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest

from pawprint.errors import PawprintError
from pawprint.lineage import Champion
from pawprint.tracking import server
from pawprint.tracking.registry import Registry
from pawprint.tracking.tracker import Tracker

PROJECT = Path(__file__).parents[3]
NAME = "pawprint-race"

PROMOTE = """
import sys
from pathlib import Path
from pawprint.tracking.tracker import Tracker
registry, version = Tracker(Path(sys.argv[1])).registry, sys.argv[2]
mine, current = registry.find(f"pawprint-race/{version}"), registry.current_champion("pawprint-race")
print("ready", flush=True)
sys.stdin.readline()
print("won" if registry.promote(mine, "faster", over=current) else "lost")
"""


@pytest.fixture
def registry(tmp_path: Path, empty_runs: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """A registry of three versions; the first is the champion."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(empty_runs, tmp_path / "mlflow.db")
    server.connect(tmp_path)
    client = mlflow.MlflowClient()
    client.create_registered_model(NAME)
    run_id = client.create_run(client.create_experiment("race", artifact_location=str(tmp_path / "a"))).info.run_id
    for number in "123":
        client.create_model_version(NAME, source=str(tmp_path), run_id=run_id, tags={"model_digest": number * 64})
    registry = Tracker(tmp_path).registry
    assert registry.promote(version(registry, 1), "the first", over=None)
    return registry


def version(registry: Registry, number: int) -> Champion:
    found = registry.find(f"{NAME}/{number}")
    assert found is not None
    return found


def test_of_two_registrations_at_once_exactly_one_wins(registry: Registry, tmp_path: Path) -> None:
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", PROMOTE, str(tmp_path), number, ""],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=PROJECT,
            env={"PYTHONPATH": str(PROJECT / "src"), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        )
        for number in "23"
    ]  # fmt: skip
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"  # for both version 1 is the champion
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("\n")
        racer.stdin.flush()
    output = [racer.communicate(timeout=120)[0].strip() for racer in racers]
    assert sorted(output) == ["lost", "won"]
    current = registry.current_champion(NAME)
    assert current == version(registry, 2 if output[0] == "won" else 3)


def test_a_rollback_puts_the_previous_one_back_and_marks_the_other(registry: Registry) -> None:
    assert registry.promote(version(registry, 2), "better", over=version(registry, 1))
    assert registry.promote(version(registry, 3), "better still", over=version(registry, 2))
    gone, now = registry.roll_back(NAME, "it calls foxes dogs")
    assert (gone.version, now.version) == ("3", "2")
    assert registry.current_champion(NAME) == now
    assert "it calls foxes dogs" in registry.rolled_back(gone)
    assert registry.rolled_back(now) == ""
    assert registry.roll_back(NAME, "this one too")[1].version == "1"
    with pytest.raises(PawprintError, match="version 1 is the first champion that was not rolled back"):
        registry.roll_back(NAME, "again")
    assert registry.current_champion(NAME) == version(registry, 1)


def by_hand(number: int) -> None:
    """Move the alias as the MLflow UI does."""
    mlflow.MlflowClient().set_registered_model_alias(NAME, "champion", str(number))


def test_a_rollback_knows_who_was_champion_before_a_move_by_hand(registry: Registry) -> None:
    assert registry.promote(version(registry, 2), "better", over=version(registry, 1))
    by_hand(3)
    gone, now = registry.roll_back(NAME, "moved by mistake")
    assert (gone.version, now.version) == ("3", "2")
    by_hand(1)  # a champion of before, by hand
    assert registry.roll_back(NAME, "that one is worse")[1].version == "2"


def test_a_registry_of_before_the_history_was_kept_is_rolled_back_too(registry: Registry) -> None:
    assert registry.promote(version(registry, 2), "better", over=version(registry, 1))
    mlflow.MlflowClient().delete_registered_model_tag(NAME, "champions")
    by_hand(3)
    assert registry.roll_back(NAME, "moved by mistake")[1].version == "2"


def test_a_version_registered_by_hand_replaces_nothing_and_a_rollback_leaves_it(
    registry: Registry, tmp_path: Path
) -> None:
    client = mlflow.MlflowClient()
    run_id = client.get_model_version(NAME, "1").run_id
    assert client.create_model_version(NAME, source=str(tmp_path), run_id=run_id).version == 4
    by_hand(4)
    (tmp_path / "cache" / "registry" / "other").mkdir(parents=True)
    with pytest.raises(PawprintError, match=r"version 4 was registered by hand: .* \(`pawprint rollback`"):
        registry.folder(version(registry, 4))
    assert registry.roll_back(NAME, "not made here")[1].version == "1"
    assert registry.current_champion(NAME) == version(registry, 1)


def test_a_promotion_over_a_champion_of_before_moves_nothing(registry: Registry) -> None:
    assert registry.promote(version(registry, 2), "better", over=version(registry, 1))
    assert not registry.promote(version(registry, 3), "better than 1", over=version(registry, 1))
    assert registry.current_champion(NAME) == version(registry, 2)


def test_versions_are_found_by_number_and_alias(registry: Registry) -> None:
    for word in (f"{NAME}/1", f"{NAME}/v1", f"{NAME}@champion", f"models:/{NAME}/1", f"models:/{NAME}@champion"):
        assert registry.find(word) == version(registry, 1), word
    for word in ("nobody", f"{NAME}/9", f"{NAME}@nobody", "nobody/1"):
        assert registry.find(word) is None, word
    assert registry.aliases(version(registry, 1)) == ["champion"]
    assert {entry.version for entry in registry.versions()} == {"1", "2", "3"}


def test_each_model_that_is_compared_on_a_test_side_is_one_look_at_it(registry: Registry) -> None:
    side, fresh = "a" * 64, "b" * 64
    assert [registry.count_look(version(registry, number), side) for number in (2, 3, 2)] == [1, 2, 2]
    assert registry.count_look(version(registry, 2), fresh) == 1
    assert registry.count_look(version(registry, 1), side) == 3

"""Where work runs, and on how many cores. tests/integration/test_cluster.py is the cluster itself."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pawprint import parallel
from pawprint.errors import PawprintError


def doubled() -> Callable[[int], int]:
    return lambda number: 2 * number


def test_results_come_in_order_and_items_are_taken_only_as_they_are_needed() -> None:
    taken: list[int] = []
    results = parallel.map(doubled, (taken.append(number) or number for number in range(10_000)))
    assert [next(results) for _ in range(5)] == [0, 2, 4, 6, 8]
    assert len(taken) < 10 + 2 * parallel.AHEAD * parallel.cores()
    assert list(results) == list(range(10, 20_000, 2))


def test_an_exception_of_one_item_is_raised() -> None:
    def fails() -> Callable[[int], float]:
        return lambda number: 1 / (number - 50)

    with pytest.raises(ZeroDivisionError):
        list(parallel.map(fails, range(100)))


@pytest.mark.parametrize(
    ("engine", "address", "sentence"),
    [
        ("spark", "", "PAWPRINT_ENGINE is spark, and can be local or ray"),
        ("ray", "", "RAY_ADDRESS .not set. names no cluster"),
        ("ray", "somewhere", "RAY_ADDRESS .somewhere. names no cluster"),
        ("ray", "127.0.0.1:1", "nothing answers at 127.0.0.1:1"),
    ],
)
def test_an_engine_that_cannot_be_used_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, engine: str, address: str, sentence: str
) -> None:
    monkeypatch.setenv("PAWPRINT_ENGINE", engine)
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(PawprintError, match=sentence):
        list(parallel.map(doubled, [1]))


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu.max": "nonsense"}, None),
        ({}, None),
    ],
)
def test_a_container_has_the_cores_of_its_limit(tmp_path: Path, files: dict[str, str], limit: float | None) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert parallel._container_limit(tmp_path) == limit
    assert 1 <= parallel.cores() <= (os.cpu_count() or 1)

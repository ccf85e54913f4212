"""benchmarks/scale.py, small: rows without photographs, and a cluster whose machines are taken away."""

import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))


def test_a_row_is_a_function_of_its_number_and_all_are_sorted() -> None:
    import scale

    rows = list(scale.drawn(70_000))
    assert [row.hash for row in rows] == sorted({row.hash for row in rows})
    assert len(rows) == 70_000
    assert rows == list(scale.drawn(70_000))
    assert rows[69_000:] == list(scale.drawn(70_000, 69_000, 70_000))
    shares = Counter(row.split for row in rows)
    assert {name: round(count / 70_000, 2) for name, count in shares.items()} == {
        "train": 0.7, "validation": 0.15, "test": 0.15,
    }  # fmt: skip
    assert len({row.label for row in rows}) == 1000
    assert max(Counter(row.shard for row in rows).values()) <= 1024 * 1.2


def test_rows_go_through_each_step() -> None:
    import scale

    assert set(scale.rows_through(5_000)) >= {"open", "digest", "near-copies"}


def test_a_cluster_that_loses_nothing_is_busy_and_one_that_does_does_little_again() -> None:
    import scale

    busy, again, hours = scale.simulate(2, 1, [10.0], 3600, 1e-12)
    assert (busy, again, hours) == (pytest.approx(1), 0, pytest.approx(1))
    busy, again, hours = scale.simulate(50, 4, [20.0, 30.0], 3600, 0.5 / 3600)
    assert 0.85 < busy < 1
    assert 0 < again < 0.03
    # what the closed forms say: half a task is lost with a machine, and BOOT until there is another
    rate, length = 0.5 / 3600, 25.0
    assert again == pytest.approx(rate * length / 2, rel=0.5)
    assert busy == pytest.approx(1 / (1 + rate * scale.BOOT) - rate * length / 2, abs=0.02)
    assert hours == pytest.approx(1 / busy, rel=0.02)  # no work is lost or invented
    worse, more, longer = scale.simulate(50, 4, [20.0, 30.0], 3600, 20 / 3600)
    assert worse < busy
    assert more > again
    assert longer > hours
    assert more == pytest.approx(20 / 3600 * length / 2, rel=0.3)
    # a task that no machine's life is long enough for would be done again and again
    assert scale.simulate(50, 4, [250.0], 3600, 20 / 3600)[1] > 5 * more

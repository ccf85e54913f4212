"""Where work runs, and on how many cores. tests/integration/test_cluster.py is the cluster itself."""

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
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


def test_ray_s_own_words_are_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    lost = "A worker died or was killed. To troubleshoot, check the logs. Lease ID: 1\n    [state-dump] a page"
    parallel._relay({"lines": [lost], "pid": "raylet", "is_err": False}, ignore_prefix=False)
    parallel._relay({"lines": ["Task _work failed. There are infinite retries remaining."]}, ignore_prefix=False)
    assert capsys.readouterr().out == "cluster: A worker died or was killed\n"


@pytest.mark.skipif(find_spec("ray") is None, reason="the extra `cluster` is not installed")
def test_a_local_cluster_that_does_not_start_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.cluster_utils import Cluster

    def slow(*_: object, **__: object) -> None:
        raise RuntimeError("The current node timed out during startup.")

    monkeypatch.setattr(Cluster, "add_node", slow)
    monkeypatch.setenv("RAY_TMPDIR", "")
    with pytest.raises(PawprintError, match=r"The cluster did not start: .* timed out"), parallel.local_cluster(2):
        pass


V1, V2 = "4:memory:/\n3:cpu,cpuacct:/kubepods/pod1/abc\n", "0::/kubepods/pod1/abc\n"


@pytest.mark.parametrize(
    ("own", "files", "limit"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),  # a container with a name space of its own
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        (V2, {"cpu.max": "150000 100000\n"}, 1.5),  # without: its group is mounted as the root
        (V2, {"kubepods/pod1/abc/cpu.max": "max 100000", "kubepods/pod1/cpu.max": "50000 100000"}, 0.5),  # the pod's
        (V2, {"kubepods/pod1/abc/cpu.max": "100000 100000", "kubepods/cpu.max": "800000 100000"}, 1),
        (V1, {"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
        (V1, {"cpu/kubepods/pod1/cpu.cfs_quota_us": "300000", "cpu/kubepods/pod1/cpu.cfs_period_us": "100000"}, 3),
        (V1, {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ("4:memory:/\n", {"cpu.max": "nonsense"}, None),
        ("nonsense", {}, None),
    ],
)
def test_a_container_has_the_cores_of_its_limit(
    tmp_path: Path, own: str, files: dict[str, str], limit: float | None
) -> None:
    for name, text in {**files, "own": own}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(text)
    assert parallel._container_limit(tmp_path, tmp_path / "own") == limit
    assert parallel._container_limit(tmp_path, tmp_path / "none") is None
    assert 1 <= parallel.cores() <= (os.cpu_count() or 1)


def in_a_control_group(quota: int) -> Path | None:
    """A new control group with a limit of CPU time; None where this user cannot make one."""
    for root, limit in (("cpu", "cpu.cfs_quota_us"), ("", "cpu.max")):
        group = Path("/sys/fs/cgroup", root, f"pawprint-test-{os.getpid()}")
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / limit).write_text(str(quota))
            return group
        except OSError:
            group.rmdir()
    return None


def test_a_service_in_a_real_control_group_takes_its_limit() -> None:
    group = in_a_control_group(100_000)
    if group is None or parallel.cores() < 2:
        pytest.skip("no control group of its own with a limit below this machine's cores can be made here")
    program = (
        f"import os, pathlib; pathlib.Path({str(group / 'cgroup.procs')!r}).write_text(str(os.getpid()))\n"
        "from pawprint import parallel\nfrom pawprint.config import Serving\n"
        "from pawprint.serving.app import AppState\n"
        "print(parallel.cores(), AppState(Serving(max_images=8)).max_in_flight)"
    )
    try:
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert done.stdout == "1 50\n"
    finally:
        group.rmdir()

"""Work on many photographs: by the cores of this machine, or by a Ray cluster. docs/cluster.md is for users.

    for packed in parallel.map(partial(Packer, data, params), batches):    # results in the order of the batches
        ...
    with parallel.local_cluster(3) as cluster:                             # three nodes of one machine, to try it
        print(cluster.address)

PAWPRINT_ENGINE (local or ray) and RAY_ADDRESS say where work runs. They are no parameters: the results are the same
bytes. On Ray each item is a task that runs again elsewhere when its node dies, so any number of nodes may come and go.
"""

import hashlib
import logging
import os
import secrets
import shutil
import socket
import tempfile
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeVar, cast

from pawprint.errors import PawprintError

Item = TypeVar("Item")
Result = TypeVar("Result")
AHEAD = 4  # items for each core that are begun before the first is taken: bounds the memory
SHARED = ("MLFLOW_TRACKING_URI", "PAWPRINT_CACHE")  # variables that hold on every node
RESTARTS = 10  # of the processes of a training, after one has died
STORE_BYTES = 500_000_000  # of a local node, for results that are on their way
_made: dict[str, Callable[[Any], Any]] = {}  # in a process of Ray: what `make` gave, for the map that it works for
_in_task = False  # is this a process of Ray that runs tasks?


def map(make: Callable[[], Callable[[Item], Result]], items: Iterable[Item], gpus: int = 0) -> Iterator[Result]:
    """`make()(item)` of every item, in order; an exception of one is raised here.

    `make` is called once here, or once in each process of a cluster, where paths must lead to the same files: it loads
    what all items need. On Ray it, the items and the results are pickled, and each item has a core and `gpus`.
    """
    if on_ray():
        yield from _on_ray(make, items, gpus)
    else:
        yield from in_order(ThreadPoolExecutor(cores()), make(), items, AHEAD * cores())


def on_ray() -> bool:
    """Does PAWPRINT_ENGINE name Ray? PawprintError where it names something else."""
    engine = os.environ.get("PAWPRINT_ENGINE") or "local"
    if engine not in ("local", "ray"):
        raise PawprintError(f"PAWPRINT_ENGINE is {engine}, and can be local or ray.")
    return engine == "ray" and not _in_task


def processes() -> int:
    """Processes of a training on a cluster: PAWPRINT_PROCESSES; 1, so none on the cluster, where it is not set."""
    asked = os.environ.get("PAWPRINT_PROCESSES") or "1"
    if not on_ray():
        return 1
    if not asked.isdecimal() or asked == "0":
        raise PawprintError(f"PAWPRINT_PROCESSES is {asked}, and can be a number from 1.")
    return int(asked)


def in_order(
    pool: ThreadPoolExecutor, work: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Iterator[Result]:
    """`work` of every item, in order; at most `ahead` are begun, so that memory does not grow with their number."""
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(work, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:  # who stops early does not wait for what was not begun
        pool.shutdown(wait=False, cancel_futures=True)


def cores() -> int:
    """Cores that this process may use: of its affinity and of its container's limit; one in a task of Ray."""
    return 1 if _in_task else _cores()


@cache
def _cores() -> int:
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, round(_container_limit(Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")) or allowed)))


def _container_limit(mounted: Path, own: Path) -> float | None:
    """Cores' worth of time that this process may use; None without a limit.

    Version 2 of control groups has cpu.max, version 1 cpu.cfs_*. `own` names the process's group as the host sees it.
    A container often has that group alone mounted, as the root, so what is not there is passed over. The groups above
    count too: the lowest limit holds.
    """
    limits = []
    with suppress(OSError, ValueError):
        for line in own.read_text().splitlines():
            _, controllers, name = line.split(":", 2)
            folder = mounted / "cpu" if controllers else mounted
            if not controllers or "cpu" in controllers.split(","):
                for group in (PurePosixPath(name), *PurePosixPath(name).parents):
                    with suppress(OSError, ValueError):
                        limits.append(_limit(folder / str(group).lstrip("/")))
    return min((limit for limit in limits if limit is not None), default=None)


def _limit(group: Path) -> float | None:
    if (group / "cpu.max").exists():
        quota, period = (group / "cpu.max").read_text().split()
    else:
        quota, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
    return None if quota == "max" or int(quota) < 0 else int(quota) / int(period)


def _on_ray(make: Callable[[], Callable[[Item], Result]], items: Iterable[Item], gpus: int) -> Iterator[Result]:
    ray = _connected()
    # Not actors: a task goes to any node that is there, an actor to as many as there were.
    task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=-1, scheduling_strategy="SPREAD")(_work)
    shared, about = ray.put(make), (uuid.uuid4().hex, _here())
    items, pending = iter(items), deque[Any]()
    try:
        while True:
            window = AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))
            pending += [task.remote(about, shared, item) for item in islice(items, window - len(pending))]
            if not pending:
                return
            for _ in range(max(1, len(pending) - window // 2)):
                yield ray.get(pending.popleft())
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    finally:
        for one in pending:
            ray.cancel(one)


class _Messages:
    """An actor beside the command: what the first process of a training has for it."""

    def __init__(self) -> None:
        self.found: list[Any] = []
        self.ended = False

    def put(self, message: Any, last: bool) -> None:
        self.ended = self.ended or last
        self.found.append(message)

    def take(self) -> list[Any]:
        found, self.found = self.found, []
        return found

    def is_ended(self) -> bool:
        return self.ended


def together(
    work: Callable[[Callable[[Any], None]], Result],
    processes: int,
    folder: Path,
    received: Callable[[Any], None],
    gpus: bool = False,
) -> Result:
    """`work(send)` in several processes of the cluster at once, by Ray's TorchTrainer: the result of the first.

    Each has a core, or a GPU; they are one group of torch.distributed, with torchrun's variables in the environment.
    Where one dies, all start again, RESTARTS times. What the first sends is given to `received` here. Ray keeps its
    own notes in `folder`, which every node sees.

    Raises:
        PawprintError: `work` raised it, the cluster has too few cores or GPUs, or too many processes died.
    """
    ray = _connected()
    there = int(ray.cluster_resources().get("GPU" if gpus else "CPU", 0))
    if there < processes:
        raise PawprintError(
            f"PAWPRINT_PROCESSES is {processes}, and the cluster has {there} {'GPUs' if gpus else 'cores'}. Ask for "
            "fewer, or add nodes."
        )
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    logging.getLogger("ray.train").setLevel(logging.ERROR)
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    messages = ray.remote(num_cpus=0, scheduling_strategy=here)(_Messages).remote()
    each = {"GPU": 1} if gpus else {"CPU": 1}
    trainer = TorchTrainer(
        _one_of_several,
        train_loop_config={"work": work, "about": _here(), "messages": messages},
        scaling_config=ScalingConfig(num_workers=processes, use_gpu=gpus, resources_per_worker=each),
        run_config=RunConfig(storage_path=str(folder.absolute()), failure_config=FailureConfig(max_failures=RESTARTS)),
    )
    folder.mkdir(parents=True, exist_ok=True)
    try:
        # A thread that does not keep the command from ending: Ctrl-C is for the loop below.
        ended: Future[Any] = Future()
        threading.Thread(target=_into, args=(ended, trainer.fit), daemon=True).start()
        outcome: dict[str, Any] = {}
        while True:
            over = ended.done()  # asked before the messages are taken, so that none is left behind
            for kind, message in ray.get(messages.take.remote()):
                if kind == "message":
                    received(message)
                else:
                    outcome.setdefault(kind, message)
            if over:
                break
            wait([ended], 0.5)
        if "error" in outcome:
            raise outcome["error"]
        if "result" not in outcome:
            reason = str(ended.exception()).strip().partition("\n")[0]
            raise PawprintError(f"The training on the cluster failed ({reason}). The same command resumes it.")
        return cast(Result, outcome["result"])
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _into(ended: "Future[Any]", call: Callable[[], Any]) -> None:
    try:
        ended.set_result(call())
    except BaseException as error:
        ended.set_exception(error)


def _one_of_several(given: dict[str, Any]) -> None:
    """`work` of `together`, in a process of Ray."""
    global _in_task
    _in_task = True
    import ray

    messages = given["messages"]
    if ray.get(messages.is_ended.remote()):  # a failure that another start would repeat
        return

    def send(message: Any, kind: str = "message") -> None:
        ray.get(messages.put.remote((kind, message), kind != "message"))

    try:
        _be_like(given["about"])
        result = given["work"](send)
    except PawprintError as error:
        send(error, "error")
        raise
    if os.environ["RANK"] == "0":
        send(result, "result")


def _work(about: tuple[str, "_Place"], make: Callable[[], Callable[[Any], Any]], item: Any) -> Any:
    """One item, in a process of Ray."""
    global _in_task
    _in_task = True
    name, command = about
    if name not in _made:
        _be_like(command)
        _made.clear()
        _made[name] = make()
    return _made[name](item)


class _Place(NamedTuple):
    """What a process of a cluster has in common with the command."""

    folder: str
    code: str
    environment: dict[str, str]


def _here() -> _Place:
    shared = {name: os.environ[name] for name in SHARED if name in os.environ}
    return _Place(str(Path.cwd()), code_digest(), shared)


def _be_like(command: _Place) -> None:
    """Make this process one like the command's; PawprintError where it has other code."""
    with suppress(OSError):  # relative paths mean the same here, where the folder is there
        os.chdir(command.folder)
    os.environ.update(command.environment)
    if command.code != code_digest():
        raise PawprintError(
            f"{socket.gethostname()} has other code of pawprint than the machine that started this. Install the "
            "same version on every node."
        )


@cache
def code_digest() -> str:
    """SHA-256 of pawprint's code as it is installed here."""
    found, root = hashlib.sha256(), Path(__file__).parent
    for path in sorted(root.rglob("*.py")):
        found.update(f"{path.relative_to(root).as_posix()}\0".encode())
        found.update(path.read_bytes())
    return found.hexdigest()


def _connected() -> Any:
    """Ray's module, connected to the cluster of RAY_ADDRESS."""
    address = os.environ.get("RAY_ADDRESS", "")
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise PawprintError(
            f"PAWPRINT_ENGINE is ray, and RAY_ADDRESS ({address or 'not set'}) names no cluster. Set it to HOST:PORT "
            "of its head; `pawprint cluster up --local 2` starts one to try and prints it."
        )
    reason = f"nothing answers at {address}"
    with suppress(OSError):
        socket.create_connection((host, int(port)), 5).close()  # at once; Ray itself tries for minutes
        reason = ""
    if not reason:
        if _only_here(host, int(port)):
            _stay_here()
        ray = _ray()
        if ray.is_initialized():
            return ray
        try:
            _check_token(ray, address)
            ray._private.worker.print_to_stdstream = _relay
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
            return ray
        except Exception as error:  # Ray's own kinds for a wrong token, another version
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    raise PawprintError(
        f"The Ray cluster cannot be used: {reason}. Check RAY_ADDRESS, that the cluster runs, and that "
        "~/.ray/auth_token (or RAY_AUTH_TOKEN) is the same here and there."
    )


def _check_token(ray: Any, address: str) -> None:
    """PawprintError where the cluster has another token, an error of Ray's where there is none here.

    `init` would ask for the cluster's identity for 20 s, and print a line of Ray's log each time it is refused.
    """
    from ray._private.authentication.authentication_token_setup import ensure_token_if_auth_enabled

    ensure_token_if_auth_enabled(create_token_if_missing=False)  # a client that finds none ends the process
    client = ray._raylet.GcsClient(address=address, cluster_id="1" * 56)  # given any identity, it asks for none
    try:
        client.check_alive([], timeout=5)
    except Exception as error:  # with the right token one that says that the identity is wrong
        if "InvalidAuthToken" in str(error):
            raise PawprintError("it has another token") from None


def _relay(message: dict[str, Any], **_: bool) -> None:
    """What Ray has to say of the cluster, a sentence of it: where a node dies it would print a page of its log."""
    from pawprint.progress import say  # which a Bento has not

    for text in message["lines"]:
        sentence = text.strip().partition("\n")[0].partition(". ")[0]
        if not sentence.startswith("Task "):  # which follows what is said of its process
            say(f"cluster: {sentence}")


def _ray() -> Any:
    """Ray's module: with tokens, and without its statistics, which it would send to its makers."""
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        import ray
    except ImportError:
        raise PawprintError("Ray is not installed. `uv pip install ray==2.60.0` brings the locked version.") from None
    return ray


def make_token() -> None:
    """Make the token that a cluster asks for, in ~/.ray/auth_token, where there is none yet."""
    if not any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")):
        path = Path.home() / ".ray" / "auth_token"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            path.touch(0o600)
            path.write_text(secrets.token_hex(32))


def _only_here(host: str, port: int) -> bool:
    """Does a cluster on this machine listen on 127.0.0.1 alone?"""
    import psutil

    if host not in ("127.0.0.1", "localhost"):
        return False
    found = [one.address for card in psutil.net_if_addrs().values() for one in card if one.family == socket.AF_INET]
    for other in found:
        with suppress(OSError):
            if not other.startswith("127."):
                socket.create_connection((other, port), 1).close()
                return False
    return True


def _stay_here() -> None:
    """Let Ray use 127.0.0.1 and nothing else: this switch of its own does so on Linux too, and nothing else does."""
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    _ray()._private.ray_constants.ENABLE_RAY_CLUSTER = False  # it read the switch, if it was imported before


@dataclass(frozen=True)
class LocalCluster:
    """A cluster of processes on this machine."""

    address: str  # of its head
    nodes: tuple[int, ...]  # process of each node; the first is the head


@contextmanager
def local_cluster(nodes: int, cpus: int = 1) -> Iterator[LocalCluster]:
    """`nodes` nodes of `cpus` cores each, that listen on 127.0.0.1 alone and end with the block (or this process)."""
    _stay_here()
    import ray
    from ray.cluster_utils import Cluster

    with tempfile.TemporaryDirectory(prefix="ray-") as folder:  # its own, not /tmp/ray, which may be another user's
        os.environ["RAY_TMPDIR"] = folder  # it notes the address below, in a folder that it expects to be there
        Path(folder, "ray").mkdir()
        about = {
            "num_cpus": cpus,
            "object_store_memory": STORE_BYTES,
            "node_ip_address": "127.0.0.1",
            "temp_dir": folder,
        }
        cluster = Cluster()
        try:
            try:
                started = [cluster.add_node(**about, include_dashboard=False)]
                started += [cluster.add_node(wait=False, **about) for _ in range(nodes - 1)]
                cluster.wait_for_nodes()
            except Exception as error:  # Ray's own, such as a time-out on a machine with much else to do
                raise PawprintError(f"The cluster did not start: {error}") from None
            yield LocalCluster(cluster.address, tuple(one.all_processes["raylet"][0].process.pid for one in started))
        finally:
            ray.shutdown()  # a cluster does not end while this process is its driver
            cluster.shutdown()

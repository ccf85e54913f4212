"""How a stage runs: `flow` and `step` make functions Prefect's flows and tasks, `run` starts a flow.

With a Prefect server configured (PREFECT_API_URL or a profile) a stage is a flow run on it and each step a
task run. With none it is a plain function call with the same retries: starting Prefect's temporary server
costs ten seconds, and a `dvc repro` of six stages must not pay that six times. Prefect, which takes more than a second
to import, is then not even imported. See docs/decisions/prefect-and-dvc.md.
"""

import atexit
import contextlib
import errno
import functools
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

import tenacity

from flows import ROOT
from pawprint import progress
from pawprint.errors import PawprintError, explain, without_password

if TYPE_CHECKING:
    import prefect

SERVER_STARTS = 180.0  # seconds that Prefect's temporary server may take, on a busy machine with a new database
_interrupted = threading.Event()
P = ParamSpec("P")
R = TypeVar("R")


class Flow(Generic[P, R]):
    """A function that is a Prefect flow where it is called, and is itself as `fn`."""

    def __init__(self, function: Callable[P, R], name: str, flow_run_name: str) -> None:
        self.fn, self.name, self.flow_run_name = function, name, flow_run_name

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        from prefect import flow as as_flow

        return as_flow(name=self.name, flow_run_name=self.flow_run_name)(self.fn)(*args, **kwargs)


def flow(*, name: str, flow_run_name: str) -> Callable[[Callable[P, R]], Flow[P, R]]:
    """Prefect's `flow`, which imports Prefect at the first call."""
    return lambda function: Flow(function, name, flow_run_name)


def step(*, retries: int = 0, delay: float = 1.0) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A named part of a stage: a Prefect task inside a flow run, a plain call outside; `retries` in both.

    Retry only what can go better the second time (a network, a server). A PawprintError is a person's to mend
    and is never tried again.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.cache
        def as_task() -> "prefect.Task[P, R]":
            from prefect import task
            from prefect.cache_policies import NO_CACHE

            return task(
                retries=retries,
                retry_delay_seconds=delay,
                retry_condition_fn=lambda _task, _run, state: not _is_for_a_person(state),
                cache_policy=NO_CACHE,
            )(function)

        plain = tenacity.retry(
            stop=tenacity.stop_after_attempt(retries + 1),
            wait=tenacity.wait_fixed(delay),
            retry=tenacity.retry_if_not_exception_type(PawprintError),
            reraise=True,
        )(function)

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            return as_task()(*args, **kwargs) if _in_flow_run() else plain(*args, **kwargs)

        return call

    return decorate


def run(flow: "Flow[..., Any] | prefect.Flow[..., Any]", *args: Any, own_server: bool = False, **kwargs: Any) -> None:
    """Run a stage to its end; on a PawprintError one sentence and exit code 1.

    It is a flow run where a Prefect server is configured (or, with `own_server`, one is started for as long as
    it takes); else the plain function.
    """
    with explained():
        if is_local() or (not own_server and not _names_server()):
            flow.fn(*args, **kwargs)
            return
        server = _start_server() if own_server and not _names_server() else None  # beside the imports that follow
        from prefect import tags
        from prefect.context import refresh_global_settings_context
        from prefect.settings import get_current_settings

        for name in ("prefect.flow_runs", "prefect.task_runs", "prefect.engine"):
            logging.getLogger(name).addFilter(_without_traceback)
        if server:
            _await_server(server, os.environ["PREFECT_API_URL"])
            refresh_global_settings_context()  # `_names_server` may have had them read without the server
        else:
            _check_server(str(get_current_settings().api.url))
        with tags(*filter(None, [os.environ.get("PAWPRINT_PIPELINE_RUN")])):
            flow(*args, **kwargs)


def _names_server() -> bool:
    """Does the environment, a profile or a file of the project name a Prefect server? Prefect is asked if one may."""
    if "PREFECT_API_URL" in os.environ:
        return bool(os.environ["PREFECT_API_URL"])
    home = Path(os.environ.get("PREFECT_HOME", Path.home() / ".prefect"))
    profiles = Path(os.environ.get("PREFECT_PROFILES_PATH", home / "profiles.toml"))
    places = {profiles: "PREFECT_API_URL", ROOT / ".env": "PREFECT_API_URL", ROOT / "pyproject.toml": "tool.prefect"}
    if not (ROOT / "prefect.toml").exists() and not any(
        path.is_file() and word in path.read_text(encoding="utf-8", errors="replace") for path, word in places.items()
    ):
        return False
    from prefect.settings import get_current_settings

    return bool(get_current_settings().api.url)


def _in_flow_run() -> bool:
    if "prefect" not in sys.modules:
        return False
    from prefect.context import FlowRunContext

    return FlowRunContext.get() is not None


def is_local() -> bool:
    """Was Prefect ruled out, by `pawprint run --local`?"""
    return os.environ.get("PAWPRINT_LOCAL") == "1"


def run_stage(flow: Flow[..., Any], name: str, *args: Any) -> None:
    """Run a stage of dvc.yaml as `run` does, with a line that shows how it goes."""
    if int(os.environ.get("RANK", "0")) > 0:  # another process of torchrun; the first one reports
        run(flow, *args)
        return
    with explained(), progress.stage(name):
        run(flow, *args)


def _start_server() -> "subprocess.Popen[bytes]":
    """Start Prefect's temporary server and name it in PREFECT_API_URL; it ends with this process.

    Prefect starts one by itself, but imports it all here first. Ctrl-C and a closed terminal do not reach it: a run
    that is stopped must be able to tell it.

    Raises:
        PawprintError: Its database cannot be kept.
    """
    home = Path(os.environ.get("PREFECT_HOME", Path.home() / ".prefect"))
    try:
        home.mkdir(parents=True, exist_ok=True)
        if not os.access(home, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise PawprintError(
            f"Prefect cannot keep its database in {home} ({error.strerror}). Set PREFECT_HOME to a folder that can be "
            "written, or run without Prefect: `pawprint run --local`."
        ) from None
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "uvicorn",
        "--factory",
        "prefect.server.api.server:create_app",
        "--port",
        str(port),
    ]
    names = ("PREFECT__SERVER_EPHEMERAL", "PREFECT__SERVER_FINAL")  # as Prefect starts it: without page and schedules
    environment = os.environ | dict.fromkeys(names, "1") | {"PREFECT_UI_ENABLED": "0"}
    server = subprocess.Popen(command, env=environment, start_new_session=True)
    atexit.register(_stop_server, server)
    os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
    return server


def _await_server(server: "subprocess.Popen[bytes]", url: str) -> None:
    """Wait until the temporary server answers.

    Raises:
        PawprintError: It does not, or has ended.
    """
    import httpx

    deadline = time.monotonic() + SERVER_STARTS
    while server.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/health", timeout=10).is_success:
                return
        time.sleep(0.05)
    why = f"it takes more than {SERVER_STARTS:.0f} s" if server.poll() is None else f"exit code {server.returncode}"
    raise PawprintError(
        f"Prefect's temporary server does not start ({why}). Run again when the machine is less busy, or without "
        "Prefect: `pawprint run --local`."
    )


def _stop_server(server: "subprocess.Popen[bytes]") -> None:
    """End it, after Prefect's own exit handlers. Who typed Ctrl-C does not wait: what it was told is committed."""
    (server.kill if _interrupted.is_set() else server.terminate)()
    try:
        server.wait(timeout=5)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def _check_server(url: str) -> None:
    """Refuse a server that does not answer at once; Prefect itself would try for minutes.

    Raises:
        PawprintError: see above.
    """
    import httpx

    try:
        httpx.get(f"{url.rstrip('/')}/health", timeout=10).raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise PawprintError(
            f"The Prefect server at {without_password(url)} does not answer ({str(error).splitlines()[0]}). Start it, "
            "correct or unset PREFECT_API_URL (`prefect config view` shows where it is set), or run without Prefect: "
            "`pawprint run --local`."
        ) from None


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turn what a person can mend into one sentence and exit code 1; a traceback with PAWPRINT_DEBUG=1."""
    try:
        yield
    except KeyboardInterrupt as error:
        _interrupted.set()
        if not os.environ.get("PAWPRINT_PIPELINE_RUN"):  # else the pipeline reports it
            progress.say(str(error) or "Stopped. The same command resumes.", stopped=True)
        sys.exit(130)
    except Exception as error:
        sentence = explain(error)
        if sentence is None or os.environ.get("PAWPRINT_DEBUG") == "1":
            raise
        progress.error(sentence)
        sys.exit(1)


def _is_for_a_person(state: Any) -> bool:
    try:
        state.result()
    except Exception as error:
        return explain(error) is not None
    return False


def _without_traceback(record: logging.LogRecord) -> bool:
    """Prefect logs every failure with its traceback; an error with a one-sentence message needs none."""
    error = record.exc_info[1] if record.exc_info else None
    if error is not None and explain(error) and os.environ.get("PAWPRINT_DEBUG") != "1":
        record.exc_info = record.exc_text = None
    return True

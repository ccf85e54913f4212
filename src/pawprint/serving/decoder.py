"""Pictures decoded in processes that can be killed: every one that `structure.is_quick` does not vouch for.

    decoders = Decoders(params, streams=2)
    job = decoders.submit(data, "squash", 95, 300)      # (a 300x300 JPEG, seconds), or BadImage

A process stays warm from one picture to the next. The kernel ends it where a picture takes more of a core's time or
memory than one of its size may (setitimer, RLIMIT_AS), and the next picture gets another. A decoder that a hostile file
crashes ends a process and not the service (docs/decisions/decoding.md).
"""

import ctypes
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from multiprocessing import Pipe
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from pawprint import image
from pawprint.config import Serving
from pawprint.image import BadImage
from pawprint.serving import decoder_process, metrics, structure
from pawprint.serving.access_log import CLIENT
from pawprint.serving.decoder_process import BAD, FITS, HEAD, UNREADABLE
from pawprint.serving.problems import RequestError

_P = ParamSpec("_P")
_T = TypeVar("_T")
_LIGHT = 192 * 2**20  # bytes that a picture of ordinary size takes at most: 8 megapixels with alpha, 12 without
_WARM = 2  # processes that are kept: one, and one for when a picture ends it; a rush has as many as cores
_IDLE, _TIDY = 10.0, 5.0  # seconds: until a process that is not used ends, and between two looks
_STEADY, _PER_BYTE, _LONGEST = 0.5, 1 / 150e6, 3.0  # seconds of a core: always, a byte of memory, at most


class FairPool:
    """Threads whose clients take turns: who sends many pictures at once waits for them, and nobody else does."""

    def __init__(self, threads: int, name: str) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._waiting: dict[str, deque[tuple[Future[Any], Callable[[], Any]]]] = {}  # by client, in the order of turns
        self._lock = threading.Lock()

    def submit(self, work: Callable[_P, _T], *args: _P.args, **options: _P.kwargs) -> "Future[_T]":
        """The job; what waits is counted, also where it is cancelled, and logs with the request's id."""
        job: Future[_T] = Future()
        metrics.QUEUE.inc()
        job.add_done_callback(lambda job: metrics.QUEUE.dec() if job.cancelled() else None)
        with self._lock:
            jobs = self._waiting.setdefault(CLIENT.get(), deque())
            jobs.append((job, partial(copy_context().run, work, *args, **options)))
        self._threads.submit(self._next)
        return job

    def shutdown(self) -> None:
        """Finish what was accepted."""
        self._threads.shutdown()

    def _next(self) -> None:
        """In a thread, once for each job."""
        with self._lock:
            client = next(iter(self._waiting))
            jobs = self._waiting.pop(client)
            job, work = jobs.popleft()
            if jobs:
                self._waiting[client] = jobs  # behind the others
        if job.set_running_or_notify_cancel():
            metrics.QUEUE.dec()
            try:
                job.set_result(work())
            except BaseException as error:
                job.set_exception(error)
                del job, work  # else the error would hold the picture, and itself


def too_late(seconds: float) -> RequestError:
    """The response to a request that waits for too long."""
    message = f"there was no answer within {seconds:g} seconds; try again, or send a smaller photograph"
    return RequestError(504, "no_answer_in_time", message, {"Retry-After": "1"})


class Decoders:
    """The processes. As many pictures of ordinary size are decoded at once as there are cores, and one large one."""

    def __init__(self, params: Serving, streams: int) -> None:
        self._params = params
        self._most = params.max_decode_mb * 2**20
        self._idle: list[_Process] = []  # the last one was used last
        self._lock, self._closing = threading.Lock(), threading.Event()
        self._light, self._heavy = FairPool(streams, "decode"), FairPool(1, "decode-large")
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="decode-start")
        for _ in range(_WARM):
            self._starter.submit(self._start)
        threading.Thread(target=self._tidy, name="decode-tidy", daemon=True).start()

    def submit(self, data: bytes, fit: image.Fit, quality: int, size: int) -> "Future[tuple[bytes, float]]":
        """(the picture as `image.pack` makes it, seconds). BadImage, also where it takes more than one of its size may.

        RequestError 504 where it is not done `answer_seconds` from now.
        """
        memory = structure.memory(data)
        if memory > self._most:
            raise BadImage(
                "too_large",
                f"decoding the photograph takes up to {memory / 2**20:,.0f} MB of memory, "
                f"{self._params.max_decode_mb} MB are allowed; send it smaller, or as a JPEG",
            )
        pool, limit = (self._light, _LIGHT) if memory <= _LIGHT else (self._heavy, self._most)
        seconds = min(_LONGEST, _STEADY + (memory or _LIGHT) * _PER_BYTE)
        head = HEAD.pack(seconds, limit, self._params.max_pixels, quality, size, FITS.index(fit))
        return pool.submit(self._decode, head, data, seconds, time.monotonic() + self._params.answer_seconds)

    def close(self) -> None:
        """Finish what was accepted, then end the processes."""
        self._closing.set()
        for pool in (self._light, self._heavy, self._starter):
            pool.shutdown()
        for process in self._idle:
            process.end()

    def _decode(self, head: bytes, data: bytes, seconds: float, deadline: float) -> tuple[bytes, float]:
        with self._lock:
            process = self._idle.pop() if self._idle else None
        try:
            process = process or _Process()
        except (OSError, EOFError):
            raise RequestError(503, "overloaded", "no process can be started", {"Retry-After": "1"}) from None
        started = time.monotonic()
        try:
            if started > deadline:  # it has waited for a process to start
                raise too_late(self._params.answer_seconds)
            reply = process.request(head, data, deadline - started)
        except (EOFError, OSError, TimeoutError) as error:
            status = process.end()
            metrics.ENDED.inc()
            self._starter.submit(self._start)
            if isinstance(error, TimeoutError):
                raise too_late(self._params.answer_seconds) from None
            if status == -signal.SIGPROF:
                message = f"decoding takes more than {seconds:.1f} s of a core, which no photograph of its size needs"
                raise BadImage("too_slow_to_decode", message) from None
            raise BadImage("unreadable", UNREADABLE) from None
        finally:
            if not process.ended:
                self._put(process)
        if reply[:1] == BAD:
            raise BadImage(**json.loads(reply[1:]))
        return reply[1:], time.monotonic() - started

    def _start(self) -> None:
        """One more where few are idle: pictures that ended theirs may have waited for others meanwhile."""
        with self._lock:
            enough = len(self._idle) >= _WARM
        if not enough:
            self._put(_Process())

    def _put(self, process: "_Process") -> None:
        process.used = time.monotonic()
        with self._lock:
            self._idle.append(process)

    def _tidy(self) -> None:
        """Give back what a rush has left: idle processes but the warm ones, cycles of references, what malloc keeps."""
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
        while not self._closing.wait(_TIDY):
            with self._lock:
                before = time.monotonic() - _IDLE
                surplus = [each for each in self._idle[: max(0, len(self._idle) - _WARM)] if each.used < before]
                self._idle = [each for each in self._idle if each not in surplus]
            for process in surplus:
                process.end()
            gc.collect()
            if trim:
                trim(0)


class _Process:
    """One process, and the pipe to it."""

    ended = False
    used = 0.0  # when it became idle

    def __init__(self) -> None:
        self._pipe, theirs = Pipe()
        root = str(Path(image.__file__).resolve().parents[1])
        one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
        # glibc gives blocks of more than a megabyte back at once.
        returned = {"MALLOC_MMAP_THRESHOLD_": "1048576", "MALLOC_TRIM_THRESHOLD_": "1048576"}
        # The supervisor sends its signal to all processes below it; this one ends when what was accepted is decoded.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", decoder_process.__name__, str(theirs.fileno())],
                env={**os.environ, "PYTHONPATH": root, **one_thread, **returned},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        theirs.close()
        self._pipe.recv_bytes()  # it is ready

    def request(self, head: bytes, data: bytes, seconds: float) -> bytes:
        """The reply; EOFError or OSError where the process has ended, TimeoutError after `seconds`."""
        self._pipe.send_bytes(head)
        self._pipe.send_bytes(data)
        if not self._pipe.poll(seconds):
            raise TimeoutError
        return self._pipe.recv_bytes()

    def end(self) -> int:
        """Its exit status; it is killed where it still runs."""
        self.ended = True
        self._pipe.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(0.1)
        self._process.kill()
        return self._process.wait()

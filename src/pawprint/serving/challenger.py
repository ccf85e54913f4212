"""A second model beside the one in service: it answers a share of the traffic, in the open or in the shadow.

    challenger = Challenger(engine, params.challenger, traffic)
    await challenger.takes(data)             # canary: this picture's answer is the challenger's
    challenger.shadow(*results)              # shadow: answer what the champion has answered, later, for the log alone

Which pictures are its share is a function of their content, so the same picture gets the same model. In the shadow it
works in one thread of the lowest priority, on the pixels that the champion has decoded, after the response has gone;
what does not fit into its short queue is left out and counted. An error is never the client's: the champion answers
then. Too many errors, or too slow, and it is switched off, which `pawprint_challenger_up` says.
"""

import asyncio
import contextlib
import hashlib
import logging
import os
import queue
import statistics
import threading
import time
from collections import deque
from dataclasses import replace
from pathlib import Path

from pawprint.config import Challenger as Params
from pawprint.errors import PawprintError
from pawprint.serving import metrics
from pawprint.serving.champion import challenger_folder
from pawprint.serving.engine import Engine, Result
from pawprint.serving.traffic import Record, TrafficLog

_WAITING = 64  # pictures that wait for the shadow, 270 kB each
_SEEN = 200  # answers that the limits look back on
_FEWEST = 20  # answers, before a limit ends anything
_LOWEST = 19  # the priority of Unix's `nice`

logger = logging.getLogger(__name__)


def load(params: Params, champion: Engine, traffic: TrafficLog) -> "Challenger | None":
    """The challenger that lies beside the champion. None where the mode is `off`, or there is none that can serve.

    The service starts without it, whatever is wrong with its folder: the log says what.
    """
    if params.mode == "off":
        return None
    folder = challenger_folder()
    if folder is None:
        logger.warning("serving.challenger.mode is %s, and there is no challenger/ to load", params.mode)
        return None
    try:
        challenger = Challenger(folder, params, champion, traffic)
    except PawprintError as error:
        logger.error("the challenger is not loaded: %s", error)
        return None
    if challenger.engine.name.digest == champion.name.digest:
        challenger.close()
        return None
    return challenger


class Challenger:
    """The model in `folder`, beside `champion`. PawprintError where it cannot serve."""

    def __init__(self, folder: Path, params: Params, champion: Engine, traffic: TrafficLog) -> None:
        self.params, self._champion, self._traffic = params, champion, traffic
        self.ended = ""  # why it was switched off
        self._closing = False
        self._queue: queue.Queue[Result | None] = queue.Queue(_WAITING)
        self._outcomes: deque[bool] = deque(maxlen=_SEEN)  # was it an error?
        self._times: tuple[deque[float], deque[float]] = deque(maxlen=_SEEN), deque(maxlen=_SEEN)  # its, the champion's
        self._engine: Engine | None = None
        self._problem: PawprintError | None = None
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(folder, ready), name="shadow", daemon=True)
        self._thread.start()
        ready.wait()
        if self._problem:
            raise self._problem
        ours, champions = self.engine.classifier.info, champion.classifier.info
        if params.mode == "shadow" and ours.prepared != champions.prepared:
            raise PawprintError(
                f"{folder} was trained on pictures of another fit or size ({ours.fit}, {ours.size}); name mode: canary."
            )
        self._up = metrics.CHALLENGER.labels(self.engine.name.name, self.engine.name.version, params.mode)
        self._up.set(1)

    @property
    def engine(self) -> Engine:
        assert self._engine is not None
        return self._engine

    async def takes(self, data: bytes) -> bool:
        """Is the answer for these bytes the challenger's?"""
        if self.params.mode != "canary" or self.ended:
            return False
        # in a thread: 20 MB take 13 ms, for which the event loop would answer nobody
        return self._is_in_share((await asyncio.to_thread(hashlib.sha256, data)).hexdigest())

    def shadow(self, *results: Result) -> None:
        """Answer pictures that the champion has answered, some time later."""
        for result in results:
            if not self.ended and self._is_in_share(result.sha256):
                try:
                    self._queue.put_nowait(result)
                except queue.Full:
                    metrics.CHALLENGER_SKIPPED.inc()

    def answered(self, result: Result) -> None:
        """A canary's answer counts for the limits."""
        self._note(False, result.prediction.milliseconds.inference)

    def failed(self, error: Exception) -> None:
        """So does an error."""
        logger.error("the challenger failed", exc_info=error)
        metrics.CHALLENGER_ERRORS.inc()
        self._note(True)

    def champion_answered(self, result: Result) -> None:
        """What its time is compared with."""
        self._times[1].append(result.prediction.milliseconds.inference)

    def close(self) -> None:
        """End its thread. What waits is not answered."""
        self._closing = True
        with contextlib.suppress(queue.Full):  # it looks after each picture too
            self._queue.put_nowait(None)

    def _is_in_share(self, sha256: str) -> bool:
        return int(sha256[:8], 16) < self.params.share * 2**32

    def _run(self, folder: Path, ready: threading.Event) -> None:
        """The thread: it loads the model too, so that the threads of the model's engine have its priority."""
        if self.params.mode == "shadow" and hasattr(os, "setpriority"):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST)
        try:
            self._engine = self._champion.beside(folder)
        except PawprintError as error:
            self._problem = error
        finally:
            ready.set()
        while self._engine and (one := self._queue.get()) is not None and not self._closing:
            try:
                self._answer(one)
            except Exception as error:
                self.failed(error)

    def _answer(self, champion: Result) -> None:
        result = self.engine.again(champion)
        record = Record.of(result.prediction, time.time(), champion.sha256, result.outputs.embedding[0])
        self._traffic.add(replace(record, shadow_of=champion.prediction.id))
        metrics.CHALLENGER_ANSWERS.labels(str(result.prediction.label == champion.prediction.label).lower()).inc()
        metrics.answered("shadow", result.prediction.label, result.prediction.milliseconds.inference)
        self._note(False, result.prediction.milliseconds.inference)

    def _note(self, failed: bool, milliseconds: float | None = None) -> None:
        self._outcomes.append(failed)
        if milliseconds is not None:
            self._times[0].append(milliseconds)
        if self.ended or len(self._outcomes) < _FEWEST:
            return
        share = sum(self._outcomes) / len(self._outcomes)
        if share > self.params.max_errors:
            self._end(f"{share:.0%} of its last {len(self._outcomes)} answers were errors")
        elif min(map(len, self._times)) >= _FEWEST:
            # The lower quartile: in the shadow it waits for whatever else runs, and that is no fault of its own.
            its, champions = (statistics.quantiles(times)[0] for times in self._times)
            if its > self.params.max_slowdown * champions:
                self._end(f"it takes {its:.1f} ms, the champion {champions:.1f}")

    def _end(self, reason: str) -> None:
        self.ended = reason
        self._up.set(0)
        logger.error("the challenger %s is switched off: %s", self.engine.headers["X-Pawprint-Model"], reason)

"""One batch at a time: whatever waits when the model comes free goes through it together.

A request that comes alone is never held back for company, and under load the batches grow by themselves. One
thread runs the model, which uses all cores; a second thread in the same model would only contend with it.
"""

import asyncio
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pawprint.image import Pixels
from pawprint.runtime import Answer, Classifier


@dataclass(frozen=True)
class Outcome:
    """One picture's share of a batch."""

    answer: Answer
    embedding: NDArray[np.float32]  # [d]
    activation: NDArray[np.float32]  # [classes or 1, h, w]
    batch: int  # how many pictures went through together
    wait: float  # seconds between asking and the batch's start
    inference: float  # seconds of the whole batch in the model


@dataclass(frozen=True)
class _Waiting:
    pixels: Pixels
    future: asyncio.Future[Outcome]
    since: float


class Batcher:
    """Feeds `classifier` from one event loop; at most `batch` pictures go together."""

    def __init__(self, classifier: Classifier, batch: int) -> None:
        self.classifier = classifier
        self._batch = batch
        self._waiting: deque[_Waiting] = deque()
        self._busy = False
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")

    async def submit(self, pixels: Pixels) -> Outcome:
        """uint8 [300, 300, 3] -> its outcome, from the next batch that has room."""
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(pixels, future, time.perf_counter()))
        self._start()
        return await future

    def close(self) -> None:
        """Waits for the batch in the model; nothing may be submitted after."""
        self._thread.shutdown()

    def _start(self) -> None:
        if self._busy:
            return
        batch: list[_Waiting] = []
        while self._waiting and len(batch) < self._batch:
            item = self._waiting.popleft()
            if not item.future.done():  # else its client has gone
                batch.append(item)
        if not batch:
            return
        self._busy = True
        work = asyncio.get_running_loop().run_in_executor(self._thread, self._run, batch)
        work.add_done_callback(lambda done: self._finish(batch, done))

    def _run(self, batch: list[_Waiting]) -> list[Outcome]:
        started = time.perf_counter()
        predictions = self.classifier.predict(np.stack([item.pixels for item in batch]))
        inference = time.perf_counter() - started
        return [
            Outcome(
                answer=answer,
                embedding=predictions.embedding[number],
                activation=predictions.activation[number],
                batch=len(batch),
                wait=started - item.since,
                inference=inference,
            )
            for number, (item, answer) in enumerate(zip(batch, self.classifier.answers(predictions), strict=True))
        ]

    def _finish(self, batch: list[_Waiting], done: asyncio.Future[list[Outcome]]) -> None:
        self._busy = False
        error = done.exception()
        for number, item in enumerate(batch):
            if item.future.done():
                continue
            if error is not None:
                item.future.set_exception(error)
            else:
                item.future.set_result(done.result()[number])
        self._start()

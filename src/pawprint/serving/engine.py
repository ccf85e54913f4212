"""A model in service: bytes to predictions, from one event loop."""

import asyncio
import hashlib
import logging
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pawprint.config import Serving
from pawprint.image import BadImage, Pixels
from pawprint.inference import cam
from pawprint.inference.classifier import Classifier, Predictions
from pawprint.serving import metrics, selftest
from pawprint.serving.champion import read_champion
from pawprint.serving.schema import Milliseconds, ModelName, Prediction
from pawprint.serving.traffic import Record, TrafficLog

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Computed:
    """A thread's result for one picture."""

    sha256: str  # of its bytes
    pixels: Pixels
    predictions: Predictions
    wait: float  # seconds until a thread came free
    decode: float
    inference: float


class Engine:
    """The model in `folder`, with as many threads as it has streams.

    A thread decodes a picture and runs the model on it, so nothing moves from core to core and nothing waits for a
    batch to fill (docs/decisions/no-batches.md).

    Args:
        folder: a model folder.
        bento: the tag that predictions name, "" in a checkout.
        traffic: the log of predictions.

    Raises:
        PawprintError: the folder is damaged, or its model fails its self-test.
    """

    def __init__(self, folder: Path, bento: str, params: Serving, traffic: TrafficLog) -> None:
        self.params = params
        self.traffic = traffic
        self.classifier = Classifier(folder, params.precision, params.device)
        selftest.check(self.classifier)
        self._running = 0
        self._threads = ThreadPoolExecutor(self.classifier.streams, thread_name_prefix="picture")
        self.champion, info = read_champion(folder), self.classifier.info
        model, version = (self.champion.model, self.champion.version) if self.champion else ("", "")
        self.name = ModelName(
            name=model,
            version=version,
            digest=info.model_digest,
            bento=bento,
            dataset=info.lineage.dataset,
            data_hash=info.lineage.data_hash,
            git_commit=info.lineage.git_commit,
            run_id=info.lineage.run_id,
        )
        self.headers = {
            "X-Pawprint-Model": f"{model or 'unregistered'}/{version or '0'} {info.model_digest}",
            "X-Pawprint-Bento": bento or "none",
        }

    async def predict(self, data: bytes) -> Prediction:
        """A picture's bytes -> its prediction, counted and logged. Raises BadImage."""
        computed = await self._run(data)
        prediction = self._prediction(computed)
        self._log(prediction, computed, data)
        return prediction

    async def explain(self, data: bytes) -> tuple[Prediction, bytes]:
        """A picture's bytes -> (its prediction, its heat map as a PNG); not logged. Raises BadImage."""
        computed = await self._run(data)
        best = int(computed.predictions.probabilities[0].argmax())
        png = await asyncio.to_thread(cam.overlay, computed.pixels, computed.predictions.activation[0], best)
        return self._prediction(computed), png

    async def retire(self) -> None:
        """Close once the last request of this engine has its response."""
        while self._running:
            await asyncio.sleep(0.05)
        await asyncio.to_thread(self.close)

    def close(self) -> None:
        """Finish what was accepted."""
        self._threads.shutdown()

    async def _run(self, data: bytes) -> _Computed:
        self._running += 1
        metrics.QUEUE.inc()
        try:
            work = partial(self._work, data, time.perf_counter())
            in_context = partial(copy_context().run, work)  # so that what it logs has the request's id
            return await asyncio.get_running_loop().run_in_executor(self._threads, in_context)
        finally:
            self._running -= 1

    def _work(self, data: bytes, requested: float) -> _Computed:
        metrics.QUEUE.dec()
        started = time.perf_counter()
        try:
            pixels = self.classifier.read(data, self.params.max_pixels)
        except BadImage:
            raise
        except Exception as error:  # a bug of a decoder, found by hostile bytes: 4xx for the sender, a log entry for us
            logger.exception("a picture of %d bytes made the decoder fail", len(data))
            raise BadImage("unreadable", "the picture cannot be read; it is damaged or very unusual") from error
        digest = hashlib.sha256(data).hexdigest()
        decoded = time.perf_counter()
        predictions = self.classifier.predict(pixels[None])
        inferred = time.perf_counter()
        return _Computed(digest, pixels, predictions, started - requested, decoded - started, inferred - decoded)

    def _prediction(self, computed: _Computed) -> Prediction:
        (result,) = self.classifier.decide(computed.predictions)
        return Prediction(
            id=uuid.uuid4().hex,
            label=result.label,
            reason=result.reason,
            probabilities=result.probabilities,
            typicality=result.knn_similarity,
            model=self.name,
            milliseconds=Milliseconds(
                decode=round(1000 * computed.decode, 2),
                wait=round(1000 * computed.wait, 2),
                inference=round(1000 * computed.inference, 2),
            ),
        )

    def _log(self, prediction: Prediction, computed: _Computed, data: bytes) -> None:
        metrics.ANSWERS.labels(prediction.label).inc()
        metrics.CONFIDENCE.observe(max(prediction.probabilities.values()))
        for part in ("decode", "wait", "inference"):
            metrics.PARTS.labels(part).observe(getattr(computed, part))
        self.traffic.add(
            Record(
                prediction,
                time=time.time(),
                picture_sha256=computed.sha256,
                embedding=computed.predictions.embedding[0],
                picture=data if self.params.keep_pictures else None,
            )
        )

"""A model in service: bytes in, answers out, from one event loop."""

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
from pawprint.serving.champion import Champion
from pawprint.serving.schema import Milliseconds, ModelName, Prediction
from pawprint.serving.traffic import Record, TrafficLog

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Worked:
    """What a thread made of one picture."""

    sha256: str  # of its bytes
    pixels: Pixels
    predictions: Predictions
    wait: float  # seconds until a thread came free
    decode: float
    inference: float


class Engine:
    """The model in `folder`, as many threads as it has streams, and its print.

    A thread decodes a picture and takes it through the model, so nothing is handed from core to core and nothing
    waits for company (docs/decisions/no-batches.md).

    Args:
        folder: a model folder.
        bento: the tag that answers name, "" in a checkout.
        traffic: where answers are kept.

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
        champion, info = Champion.read(folder), self.classifier.info
        self.name = ModelName(
            name=champion.model,
            version=champion.version,
            digest=info.model_digest,
            bento=bento,
            dataset=info.lineage.dataset,
            data_hash=info.lineage.data_hash,
            git_commit=info.lineage.git_commit,
            run_id=info.lineage.run_id,
        )
        self.headers = {
            "X-Pawprint-Model": f"{champion.model or 'unregistered'}/{champion.version or '0'} {info.model_digest}",
            "X-Pawprint-Bento": bento or "none",
        }

    async def predict(self, data: bytes) -> Prediction:
        """A picture's bytes -> its answer, counted and kept. Raises BadImage."""
        worked = await self._run(data)
        prediction = self._prediction(worked)
        self._keep(prediction, worked, data)
        return prediction

    async def explain(self, data: bytes) -> tuple[Prediction, bytes]:
        """A picture's bytes -> (its answer, where the model looked as a PNG); not kept. Raises BadImage."""
        worked = await self._run(data)
        best = int(worked.predictions.probabilities[0].argmax())
        png = await asyncio.to_thread(cam.overlay, worked.pixels, worked.predictions.activation[0], best)
        return self._prediction(worked), png

    async def retire(self) -> None:
        """Close once the last request that came to this engine has its answer."""
        while self._running:
            await asyncio.sleep(0.05)
        await asyncio.to_thread(self.close)

    def close(self) -> None:
        """Finish what was accepted."""
        self._threads.shutdown()

    async def _run(self, data: bytes) -> _Worked:
        self._running += 1
        metrics.QUEUE.inc()
        try:
            work = partial(self._work, data, time.perf_counter())
            in_context = partial(copy_context().run, work)  # so that what it logs has the request's id
            return await asyncio.get_running_loop().run_in_executor(self._threads, in_context)
        finally:
            self._running -= 1

    def _work(self, data: bytes, asked: float) -> _Worked:
        metrics.QUEUE.dec()
        started = time.perf_counter()
        try:
            pixels = self.classifier.read(data, self.params.max_pixels)
        except BadImage:
            raise
        except Exception as error:  # a decoder's own bug, met by hostile bytes: their sender's 4xx, our log entry
            logger.exception("a picture of %d bytes made the decoder fail", len(data))
            raise BadImage("unreadable", "the picture cannot be read; it is damaged or very unusual") from error
        digest = hashlib.sha256(data).hexdigest()
        decoded = time.perf_counter()
        predictions = self.classifier.predict(pixels[None])
        return _Worked(digest, pixels, predictions, started - asked, decoded - started, time.perf_counter() - decoded)

    def _prediction(self, worked: _Worked) -> Prediction:
        (said,) = self.classifier.answers(worked.predictions)
        return Prediction(
            id=uuid.uuid4().hex,
            label=said.label,
            reason=said.reason,
            probabilities=said.probabilities,
            typicality=said.typicality,
            model=self.name,
            milliseconds=Milliseconds(
                decode=round(1000 * worked.decode, 2),
                wait=round(1000 * worked.wait, 2),
                inference=round(1000 * worked.inference, 2),
            ),
        )

    def _keep(self, prediction: Prediction, worked: _Worked, data: bytes) -> None:
        metrics.ANSWERS.labels(prediction.label).inc()
        metrics.CONFIDENCE.observe(max(prediction.probabilities.values()))
        for part in ("decode", "wait", "inference"):
            metrics.PARTS.labels(part).observe(getattr(worked, part))
        self.traffic.add(
            Record(
                id=prediction.id,
                time=time.time(),
                picture_sha256=worked.sha256,
                label=prediction.label,
                probabilities=prediction.probabilities,
                typicality=prediction.typicality,
                embedding=worked.predictions.embedding[0],
                model_digest=self.name.digest,
                model_version=self.name.version,
                picture=data if self.params.keep_pictures else None,
            )
        )

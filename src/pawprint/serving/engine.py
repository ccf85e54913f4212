"""A model in service: bytes in, answers out, from one event loop."""

import asyncio
import hashlib
import logging
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pawprint.image import BadImage, Pixels
from pawprint.params import Serving
from pawprint.runtime import Classifier
from pawprint.serving import explain, metrics, selftest
from pawprint.serving.batching import Batcher, Outcome
from pawprint.serving.champion import Champion
from pawprint.serving.schema import Milliseconds, ModelName, Prediction
from pawprint.serving.traffic import Record, TrafficLog

logger = logging.getLogger(__name__)
_Result = TypeVar("_Result")
_DECODERS = 2  # decoding lets go of Python's lock; more threads than cores would only contend


@dataclass(frozen=True)
class _Decoded:
    pixels: Pixels
    sha256: str
    seconds: float


class Engine:
    """The model in `folder`, its decoding threads, its batcher and its print.

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
        self.classifier = Classifier(folder, params.precision)
        selftest.check(self.classifier)
        self._running = 0
        self._batcher = Batcher(self.classifier, params.max_batch)
        self._decoders = ThreadPoolExecutor(max_workers=_DECODERS, thread_name_prefix="decode")
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
        decoded, outcome = await self._run(data)
        prediction = self._prediction(decoded, outcome)
        self._keep(prediction, decoded, outcome, data)
        return prediction

    async def explain(self, data: bytes) -> tuple[Prediction, bytes]:
        """A picture's bytes -> (its answer, where the model looked as a PNG); not kept. Raises BadImage."""
        decoded, outcome = await self._run(data)
        best = max(outcome.answer.probabilities, key=outcome.answer.probabilities.__getitem__)
        label = self.classifier.info.classes.index(best)
        png = await asyncio.to_thread(explain.overlay, decoded.pixels, outcome.activation, label)
        return self._prediction(decoded, outcome), png

    async def retire(self) -> None:
        """Close once the last request that came to this engine has its answer."""
        while self._running:
            await asyncio.sleep(0.05)
        await asyncio.to_thread(self.close)

    def close(self) -> None:
        """Finish what was accepted."""
        self._decoders.shutdown()
        self._batcher.close()

    async def _run(self, data: bytes) -> tuple[_Decoded, Outcome]:
        self._running += 1
        try:
            decoded = await self._aside(lambda: self._decode(data))
            return decoded, await self._batcher.submit(decoded.pixels)
        except BadImage as error:
            metrics.REFUSALS.labels(error.reason).inc()
            raise
        finally:
            self._running -= 1

    def _decode(self, data: bytes) -> _Decoded:
        started = time.perf_counter()
        try:
            pixels = self.classifier.read(data, self.params.max_pixels)
        except BadImage:
            raise
        except Exception as error:  # a decoder's own bug, met by hostile bytes: their sender's 4xx, our log entry
            logger.exception("a picture of %d bytes made the decoder fail", len(data))
            raise BadImage("unreadable", "the picture cannot be read; it is damaged or very unusual") from error
        return _Decoded(pixels, hashlib.sha256(data).hexdigest(), time.perf_counter() - started)

    async def _aside(self, work: Callable[[], _Result]) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._decoders, work)

    def _prediction(self, decoded: _Decoded, outcome: Outcome) -> Prediction:
        return Prediction(
            id=uuid.uuid4().hex,
            label=outcome.answer.label,
            reason=outcome.answer.reason,
            probabilities=outcome.answer.probabilities,
            typicality=outcome.answer.typicality,
            model=self.name,
            milliseconds=Milliseconds(
                decode=round(1000 * decoded.seconds, 2),
                wait=round(1000 * outcome.wait, 2),
                inference=round(1000 * outcome.inference, 2),
            ),
        )

    def _keep(self, prediction: Prediction, decoded: _Decoded, outcome: Outcome, data: bytes) -> None:
        metrics.ANSWERS.labels(prediction.label).inc()
        metrics.CONFIDENCE.observe(max(prediction.probabilities.values()))
        metrics.BATCH.observe(outcome.batch)
        for part, seconds in (
            ("decode", decoded.seconds),
            ("wait", outcome.wait),
            ("inference", outcome.inference),
        ):
            metrics.PARTS.labels(part).observe(seconds)
        self.traffic.add(
            Record(
                id=prediction.id,
                time=time.time(),
                picture_sha256=decoded.sha256,
                label=prediction.label,
                probabilities=prediction.probabilities,
                typicality=prediction.typicality,
                embedding=outcome.embedding,
                model_digest=self.name.digest,
                model_version=self.name.version,
                picture=data if self.params.keep_pictures else None,
            )
        )

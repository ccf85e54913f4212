"""A model in service: bytes to predictions, from one event loop."""

import asyncio
import hashlib
import logging
import time
import uuid
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from safetensors.numpy import load_file

from pawprint import image
from pawprint.config import Serving
from pawprint.image import BadImage, Pixels
from pawprint.inference import cam, selftest
from pawprint.inference.classifier import OOD_FILE, Classifier, Predictions
from pawprint.serving import metrics, structure
from pawprint.serving.champion import read_champion
from pawprint.serving.decoder import Decoders, FairPool, too_late
from pawprint.serving.decoder_process import UNREADABLE
from pawprint.serving.kept import clean
from pawprint.serving.schema import About, Milliseconds, ModelCard, ModelName, Prediction
from pawprint.serving.traffic import Record, TrafficLog

_T = TypeVar("_T")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    """A thread's result for one picture."""

    prediction: Prediction
    sha256: str  # of the picture's bytes
    pixels: Pixels
    outputs: Predictions
    picture: bytes | None = None  # to be kept


class Engine:
    """The model in `folder`, with as many threads as it has streams.

    A thread decodes a picture and runs the model on it, so nothing moves from core to core and nothing waits for a
    batch to fill (docs/decisions/no-batches.md). The threads end when nothing refers to the engine any more. A picture
    whose decoding has no proven bound is decoded in a process before (docs/decisions/decoding.md).

    Args:
        folder: a model folder.
        bento: the tag that predictions name, "" in a checkout.
        traffic: the log of predictions.
        decoders: the processes.

    Raises:
        PawprintError: the folder is damaged, or its model fails its self-test.
    """

    def __init__(self, folder: Path, bento: str, params: Serving, traffic: TrafficLog, decoders: Decoders) -> None:
        self.params = params
        self.traffic = traffic
        self._decoders, self._bento = decoders, bento
        self.classifier = Classifier(folder, params.precision, params.device, params.max_pixels)
        selftest.check(self.classifier)
        self._threads = FairPool(self.classifier.streams, "picture")
        self.champion, info = read_champion(folder), self.classifier.info
        counts = load_file(folder / OOD_FILE).get("held_out_predicted", np.zeros(len(info.classes)))
        self.held_out = dict(zip(info.classes, counts / max(1, counts.sum()), strict=True))
        self.name = ModelName(
            name=self.champion.model if self.champion else "",
            version=self.champion.version if self.champion else "",
            digest=info.model_digest,
            bento=bento,
            **info.lineage.model_dump(include={"dataset", "data_hash", "git_commit", "run_id"}),
        )
        grey = image.encode(np.full((info.size, info.size, 3), 127, np.uint8))
        self._work(grey, None, time.perf_counter())  # all of a prediction works, before it serves
        self.about = About.read(folder)
        self.headers = {
            "X-Pawprint-Model": f"{self.name.name or 'unregistered'}/{self.name.version or '0'} {info.model_digest}",
            "X-Pawprint-Bento": bento or "none",
        }

    def card(self) -> ModelCard:
        info = self.classifier.info
        return ModelCard(
            model=self.name,
            typicality_threshold=info.ood_threshold,
            device=self.classifier.device,
            precision=self.classifier.precision,
            lineage=info.lineage,
            metrics=self.champion.metrics if self.champion else {},
            classes=list(info.classes),
            **info.model_dump(include={"candidate", "architecture", "parameters", "fit", "temperature"}),
        )

    def beside(self, folder: Path) -> "Engine":
        """Another model, with the same log, limits and decoders."""
        return Engine(folder, self._bento, self.params, self.traffic, self._decoders)

    def again(self, result: Result) -> Result:
        """What this model says of a picture that another one has answered; not counted, not logged.

        The pixels are as that one decoded them.
        """
        return self._infer(result.pixels, result.sha256)

    async def predict(self, data: bytes) -> Result:
        """A picture's bytes -> its prediction, counted and logged. Raises BadImage."""
        result = await self._run(data)
        prediction = result.prediction
        metrics.labelled(metrics.ANSWERS, prediction.label).inc()
        metrics.CONFIDENCE.observe(max(prediction.probabilities.values()))
        for part, milliseconds in prediction.milliseconds:
            metrics.labelled(metrics.PARTS, part).observe(milliseconds / 1000)
        record = Record.of(prediction, time.time(), result.sha256, result.outputs.embedding[0])
        self.traffic.add(record, result.picture)
        return result

    async def explain(self, data: bytes) -> tuple[Prediction, bytes]:
        """A picture's bytes -> (its prediction, its heat map as a PNG); not logged. Raises BadImage."""
        result = await self._run(data)
        best = int(result.outputs.probabilities[0].argmax())
        png = await asyncio.to_thread(cam.overlay, result.pixels, result.outputs.activation[0], best)
        return result.prediction, png

    def close(self) -> None:
        """Finish what was accepted."""
        self._threads.shutdown()

    async def _run(self, data: bytes) -> Result:
        requested, decoded = time.perf_counter(), None
        if not structure.is_quick(data):
            info = self.classifier.info
            decoded = await self._wait(self._decoders.submit(data, info.fit, info.quality, info.size))
        return await self._wait(self._threads.submit(self._work, data, decoded, requested))

    async def _wait(self, job: "Future[_T]") -> _T:
        """The job's result. RequestError 504 where it has not begun in time; one that has begun ends by itself.

        So a place in the queue is free when its thread is.
        """
        seconds = self.params.answer_seconds
        timer = asyncio.get_running_loop().call_later(seconds, job.cancel)
        try:
            return await asyncio.wrap_future(job)
        except asyncio.CancelledError:
            if job.cancelled():
                raise too_late(seconds) from None
            raise
        finally:
            timer.cancel()

    def _work(self, data: bytes, decoded: tuple[bytes, float] | None, requested: float) -> Result:
        started = time.perf_counter()
        try:
            pixels = image.unpack(decoded[0]) if decoded else self.classifier.read(data)
        except BadImage:
            raise
        except Exception as error:  # a bug of a decoder, found by hostile bytes: 4xx for the sender, a log entry for us
            logger.exception("a photograph of %d bytes made the decoder fail", len(data))
            raise BadImage("unreadable", UNREADABLE) from error
        digest = hashlib.sha256(data).hexdigest()
        before = decoded[1] if decoded else 0.0  # seconds in the process
        decoding, waited = before + time.perf_counter() - started, started - requested - before
        result = self._infer(pixels, digest, decoding, waited)
        return replace(result, picture=clean(data, pixels)) if self.params.keep_pictures else result

    def _infer(self, pixels: Pixels, digest: str, decoding: float = 0.0, waited: float = 0.0) -> Result:
        """The model's word on pixels; seconds that they took before."""
        read = time.perf_counter()
        outputs = self.classifier.predict(pixels[None])
        inferred = time.perf_counter()
        (found,) = self.classifier.decide(outputs)
        milliseconds = Milliseconds(
            decode=round(1000 * decoding, 2),
            wait=round(1000 * waited, 2),
            inference=round(1000 * (inferred - read), 2),
        )
        return Result(Prediction.of(uuid.uuid4().hex, found, self.name, milliseconds), digest, pixels, outputs)

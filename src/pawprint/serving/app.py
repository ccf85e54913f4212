"""The routes of the service, as a Starlette app that service.py mounts.

They are plain ASGI and not BentoML endpoints: one of those takes files as multipart only, answers most bad
input with 500, and spends more time on a request than on the picture.
"""

import asyncio
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from pawprint.image import BadImage
from pawprint.params import Serving
from pawprint.runtime import Classifier
from pawprint.serving.batching import Batcher, OverloadedError
from pawprint.serving.champion import Champion
from pawprint.serving.schema import Milliseconds, ModelName, Prediction, Problem

STATUS = {"empty": 400, "not_an_image": 415, "truncated": 422, "too_large": 413}


class RefusedError(RuntimeError):
    """A request that gets a 4xx or 5xx and a sentence."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.problem = Problem(reason=reason, error=message)


class Engine:
    """A model in service: decoding threads, the batcher and the model's print."""

    def __init__(self, folder: Path, bento: str, params: Serving) -> None:
        self.params = params
        self.classifier = Classifier(folder)
        self.batcher = Batcher(self.classifier)
        self.decoders = ThreadPoolExecutor(max_workers=2, thread_name_prefix="decode")
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

    async def predict(self, data: bytes) -> Prediction:
        """A picture's bytes -> its answer. Raises BadImage, OverloadedError."""
        started = time.perf_counter()
        pixels = await asyncio.get_running_loop().run_in_executor(self.decoders, self.classifier.read, data)
        decode = time.perf_counter() - started
        outcome = await self.batcher.submit(pixels)
        return Prediction(
            id=uuid.uuid4().hex,
            label=outcome.answer.label,
            reason=outcome.answer.reason,
            probabilities=outcome.answer.probabilities,
            typicality=outcome.answer.typicality,
            model=self.name,
            milliseconds=Milliseconds(
                decode=round(1000 * decode, 2),
                wait=round(1000 * outcome.wait, 2),
                inference=round(1000 * outcome.inference, 2),
            ),
        )

    def close(self) -> None:
        """Finish what was accepted."""
        self.decoders.shutdown()
        self.batcher.close()


async def predict(request: Request) -> Response:
    """POST /predict: one picture, as the multipart field `image` or as the whole body."""
    engine: Engine = request.app.state.engine
    prediction = await engine.predict(await _picture(request))
    return Response(
        prediction.model_dump_json(),
        media_type="application/json",
        headers={
            "X-Pawprint-Model": f"{engine.name.name or 'unregistered'}/{engine.name.version or '0'} "
            f"sha256:{engine.name.digest}",
            "X-Pawprint-Bento": engine.name.bento or "none",
        },
    )


async def _picture(request: Request) -> bytes:
    """The one picture of a request; RefusedError where it holds none or several."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        return await request.body()
    try:
        form = await request.form()
    except HTTPException as error:
        raise RefusedError(400, "bad_form", f"the multipart form cannot be read: {error.detail}") from None
    try:
        pictures = form.getlist("image")
        if not pictures:
            found = ", ".join(sorted(set(form))) or "none"
            raise RefusedError(
                400, "no_image", f"the form has no field `image` (it has: {found}); send `-F image=@FILE`"
            )
        if len(pictures) > 1:
            raise RefusedError(400, "several_images", f"`image` came {len(pictures)} times; /predict takes one picture")
        picture = pictures[0]
        if not isinstance(picture, UploadFile):
            raise RefusedError(400, "no_image", "the field `image` holds text, not a file; send `-F image=@FILE`")
        return await picture.read()
    finally:
        await form.close()


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)
    return Response(error.problem.model_dump_json(), error.status, media_type="application/json")


async def _bad_image(request: Request, error: Exception) -> Response:
    assert isinstance(error, BadImage)
    return await _refused(request, RefusedError(STATUS.get(error.reason, 400), error.reason, str(error)))


async def _overloaded(_: Request, __: Exception) -> Response:
    problem = Problem(reason="overloaded", error="the service has more to do than it can; try again in a second")
    return Response(problem.model_dump_json(), 503, {"Retry-After": "1"}, "application/json")


async def _http_error(_: Request, error: Exception) -> Response:
    """Starlette's own refusals (404, 405), in the same words as ours."""
    assert isinstance(error, HTTPException)
    problem = Problem(reason=error.detail.lower().replace(" ", "_"), error=error.detail)
    return Response(problem.model_dump_json(), error.status_code, error.headers, "application/json")


async def _gone(_: Request, __: Exception) -> Response:
    return Response(status_code=499)  # the client hung up; nobody reads this


app = Starlette(
    routes=[Route("/predict", predict, methods=["POST"])],
    exception_handlers={
        RefusedError: _refused,
        BadImage: _bad_image,
        OverloadedError: _overloaded,
        HTTPException: _http_error,
        ClientDisconnect: _gone,
    },
)

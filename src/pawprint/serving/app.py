"""The routes of the service, as a Starlette app that service.py mounts.

They are plain ASGI and not BentoML endpoints: one of those takes files as multipart only, answers most bad
input with 500, and spends more time on a request than on the picture (docs/decisions/serving.md).
"""

import asyncio
import base64
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from pawprint.config import Serving
from pawprint.errors import PawprintError
from pawprint.image import BadImage
from pawprint.inference.classifier import UNKNOWN
from pawprint.serving import metrics, openapi
from pawprint.serving.auth import Access, Scope
from pawprint.serving.champion import Champion
from pawprint.serving.engine import Engine
from pawprint.serving.middleware import Part, RefusedError, answer, many_pictures, one_picture, refusal
from pawprint.serving.schema import Batch, BatchItem, Explanation, Feedback, ModelCard, Problem, Thanks
from pawprint.serving.traffic import TrafficLog

STATUS = {"empty": 400, "not_an_image": 415, "truncated": 422, "too_large": 422}
PAGE = Path(__file__).parent / "page"
PAGE_FILES = {"/": "index.html", "/page.css": "page.css", "/page.js": "page.js", "/icon.svg": "icon.svg"}
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-cache",
}
MAX_FEEDBACK_BYTES = 4096

logger = logging.getLogger(__name__)
Endpoint = Callable[["House", Request], Awaitable[Response]]


class House:
    """What all requests share: the limits, who may ask, the traffic log and the engine of the moment."""

    def __init__(self, params: Serving) -> None:
        self.params = params
        self.access = Access(params)
        self.traffic: TrafficLog | None = None
        self.load: Callable[[], Engine] | None = None  # makes an engine of the model folder as it is now
        self._engine: Engine | None = None
        self._in_flight = 0

    @property
    def engine(self) -> Engine:
        """The model in service; RefusedError 503 before the first is loaded."""
        if self._engine is None:
            raise RefusedError(503, "starting", "the service is still starting", {"Retry-After": "1"})
        return self._engine

    def install(self, engine: Engine) -> None:
        """`engine` answers from now on; the one before it ends when it has answered what it accepted."""
        before, self._engine = self._engine, engine
        for each, serves in ((before, 0), (engine, 1)):
            if each:
                metrics.MODEL.labels(each.name.name, each.name.version, each.name.digest).set(serves)
        if before:
            self._retiring = asyncio.get_running_loop().create_task(before.retire())

    @asynccontextmanager
    async def admitted(self, pictures: int = 1) -> AsyncIterator[None]:
        """Room for so many more pictures; RefusedError 503 at once where there is none."""
        if self._in_flight + pictures > self.params.max_in_flight:
            raise RefusedError(
                503,
                "overloaded",
                "the service has more to do than it can; try again in a second",
                {"Retry-After": "1"},
            )
        self._in_flight += pictures
        metrics.IN_FLIGHT.inc(pictures)
        try:
            yield
        finally:
            self._in_flight -= pictures
            metrics.IN_FLIGHT.dec(pictures)


async def predict(house: House, request: Request) -> Response:
    """POST /predict: one picture, as the multipart field `image` or as the whole body."""
    async with house.admitted():
        engine = house.engine
        return answer(await engine.predict(await one_picture(request)), headers=engine.headers)


async def predict_batch(house: House, request: Request) -> Response:
    """POST /predict/batch: many files in one form; each has its own answer or its own problem."""
    async with house.admitted():  # as one before its body is read, as all that it holds after
        engine = house.engine
        parts = await many_pictures(request, house.params.max_images)
        async with house.admitted(len(parts) - 1):
            metrics.BATCH.observe(len(parts))
            answers = await asyncio.gather(*(_batch_item(engine, part) for part in parts))
        return answer(Batch(answers=list(answers)), headers=engine.headers)


async def _batch_item(engine: Engine, part: Part) -> BatchItem:
    filename = part.filename or ""
    try:
        return BatchItem(filename=filename, prediction=await engine.predict(bytes(part.data)))
    except BadImage as error:
        metrics.REFUSALS.labels(error.reason).inc()
        return BatchItem(filename=filename, problem=Problem(reason=error.reason, error=str(error)))


async def explain(house: House, request: Request) -> Response:
    """POST /explain: like /predict, with where the model looked. `Accept: image/png` gives the PNG alone."""
    async with house.admitted():
        engine = house.engine
        prediction, png = await engine.explain(await one_picture(request))
    if "image/png" in request.headers.get("accept", ""):
        return Response(png, headers=engine.headers, media_type="image/png")
    url = "data:image/png;base64," + base64.b64encode(png).decode()
    return answer(Explanation(prediction=prediction, overlay=url), headers=engine.headers)


async def feedback(house: House, request: Request) -> Response:
    """POST /feedback: the right label of an answer, in a person's eyes; the last word counts."""
    body = await request.body()
    if len(body) > MAX_FEEDBACK_BYTES:
        raise RefusedError(413, "body_too_large", f"feedback takes at most {MAX_FEEDBACK_BYTES} bytes")
    try:
        said = Feedback.model_validate_json(body)
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(str(part) for part in problem["loc"]) or "the body"
        raise RefusedError(422, "bad_feedback", f"`{field}`: {problem['msg']}") from None
    labels = (*house.engine.classifier.info.classes, UNKNOWN)
    if said.label not in labels:
        raise RefusedError(422, "unknown_label", f"{said.label!r} is not one of {', '.join(labels)}")
    assert house.traffic is not None  # there since the engine is
    if not await house.traffic.feedback(said.id, said.label):
        raise RefusedError(404, "unknown_id", f"no answer {said.id!r} is kept here")
    metrics.FEEDBACK.labels(said.label).inc()
    return answer(Thanks(id=said.id, label=said.label))


async def model_card(house: House, request: Request) -> Response:
    """GET /model: what is served and where it comes from."""
    engine = house.engine
    info = engine.classifier.info
    card = ModelCard(
        model=engine.name,
        candidate=info.candidate,
        architecture=info.architecture,
        parameters=info.parameters,
        classes=list(info.classes),
        fit=info.fit,
        temperature=info.temperature,
        typicality_threshold=info.typicality_threshold,
        device=engine.classifier.device,
        precision=engine.classifier.precision,
        lineage=info.lineage,
        metrics=Champion.read(engine.classifier.folder).metrics,
    )
    return answer(card, headers=engine.headers)


async def reload(house: House, request: Request) -> Response:
    """POST /admin/reload: serve what the model folder holds now. The one before goes on where that fails."""
    assert house.load is not None
    try:
        engine = await asyncio.to_thread(house.load)
    except PawprintError as error:
        raise RefusedError(409, "not_reloaded", f"{error} The model before it goes on serving.") from None
    house.install(engine)
    return answer(engine.name, headers=engine.headers)


def _guarded(house: House, endpoint: Endpoint, scope: Scope) -> Callable[[Request], Awaitable[Response]]:
    async def handle(request: Request) -> Response:
        house.access.check(request, scope)
        return await endpoint(house, request)

    return handle


async def _page(request: Request) -> Response:
    return FileResponse(PAGE / PAGE_FILES[request.url.path], headers=PAGE_HEADERS)


async def _docs(_: Request) -> Response:
    return JSONResponse(openapi.document())


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)
    return refusal(error.status, error.reason, str(error), error.headers)


async def _bad_image(_: Request, error: Exception) -> Response:
    assert isinstance(error, BadImage)
    return refusal(STATUS.get(error.reason, 422), error.reason, str(error))


async def _http_error(_: Request, error: Exception) -> Response:
    """Starlette's own refusals (404, 405), in the same shape as ours."""
    assert isinstance(error, HTTPException)
    return refusal(error.status_code, error.detail.lower().replace(" ", "_"), error.detail, error.headers)


async def _gone(_: Request, __: Exception) -> Response:
    return refusal(400, "gone", "the client hung up")  # nobody reads this


async def _internal(request: Request, error: Exception) -> Response:
    logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return refusal(500, "internal", "something went wrong here; the service's log says what")


def create_app(params: Serving) -> Starlette:
    """The app; its state's `house` gets an engine when the service starts."""
    house = House(params)
    routes = [
        Route("/predict", _guarded(house, predict, "read"), methods=["POST"]),
        Route("/predict/batch", _guarded(house, predict_batch, "read"), methods=["POST"]),
        Route("/explain", _guarded(house, explain, "read"), methods=["POST"]),
        Route("/feedback", _guarded(house, feedback, "feedback"), methods=["POST"]),
        Route("/model", _guarded(house, model_card, "read"), methods=["GET"]),
        Route("/admin/reload", _guarded(house, reload, "admin"), methods=["POST"]),
        Route("/docs.json", _docs, methods=["GET"]),
        *(Route(path, _page, methods=["GET"]) for path in PAGE_FILES),
    ]
    app = Starlette(
        routes=routes,
        exception_handlers={
            RefusedError: _refused,
            BadImage: _bad_image,
            HTTPException: _http_error,
            ClientDisconnect: _gone,
            Exception: _internal,
        },
    )
    app.state.house = house
    return app

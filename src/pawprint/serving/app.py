"""The routes of the service, as a FastAPI app that service.py mounts into BentoML.

They are not BentoML endpoints: one of those takes files as multipart only, answers most bad input with 500, and spends
more time on a request than on the picture (docs/decisions/serving.md). Each reads its request and writes its response
itself, so FastAPI's part is routing and the OpenAPI document at /docs.json.
"""

import asyncio
import base64
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response

from pawprint.config import UNKNOWN, Serving
from pawprint.errors import PawprintError
from pawprint.image import BadImage
from pawprint.serving import documentation, metrics
from pawprint.serving.auth import Authorizer, Scope
from pawprint.serving.engine import Engine
from pawprint.serving.pictures import many_pictures, one_picture
from pawprint.serving.problems import RequestError, json_response, problem_response
from pawprint.serving.schema import (
    Batch,
    BatchItem,
    Explanation,
    Feedback,
    FeedbackReceipt,
    ModelCard,
    ModelName,
    Prediction,
    Problem,
)
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
Endpoint = Callable[["AppState", Request], Awaitable[Response]]


class AppState:
    """What all requests share: limits, authorization, the traffic log and the current engine."""

    def __init__(self, params: Serving) -> None:
        self.params = params
        self.authorizer = Authorizer(params)
        self.traffic: TrafficLog | None = None
        self.load: Callable[[], Engine] | None = None  # makes an engine of the model folder as it is now
        self._engine: Engine | None = None
        self._in_flight = 0

    @property
    def engine(self) -> Engine:
        """The model in service; RequestError 503 before the first is loaded."""
        if self._engine is None:
            raise RequestError(503, "starting", "the service is still starting", {"Retry-After": "1"})
        return self._engine

    def install(self, engine: Engine) -> None:
        """`engine` serves from now on; the one before ends when it has answered what it accepted."""
        before, self._engine = self._engine, engine
        for each, serves in ((before, 0), (engine, 1)):
            if each:
                metrics.MODEL.labels(each.name.name, each.name.version, each.name.digest).set(serves)
        if before:
            self._retiring = asyncio.get_running_loop().create_task(before.retire())

    @asynccontextmanager
    async def concurrency_slot(self, pictures: int = 1) -> AsyncIterator[None]:
        """Room for so many more pictures; RequestError 503 at once where there is none."""
        if self._in_flight + pictures > self.params.max_in_flight:
            message = "the service has more requests than it can take; try again in a second"
            raise RequestError(503, "overloaded", message, {"Retry-After": "1"})
        self._in_flight += pictures
        metrics.IN_FLIGHT.inc(pictures)
        try:
            yield
        finally:
            self._in_flight -= pictures
            metrics.IN_FLIGHT.dec(pictures)


async def predict(state: AppState, request: Request) -> Response:
    """Classify one picture: the multipart field `image`, or the whole body."""
    async with state.concurrency_slot():
        engine = state.engine
        return json_response(await engine.predict(await one_picture(request)), headers=engine.headers)


async def predict_batch(state: AppState, request: Request) -> Response:
    """Classify many files of one form, in order; each has its own prediction or its own problem."""
    async with state.concurrency_slot():  # one place before its body is read, as many as its pictures after
        engine = state.engine
        pictures = await many_pictures(request, state.params.max_images)
        async with state.concurrency_slot(len(pictures) - 1):
            metrics.BATCH.observe(len(pictures))
            items = await asyncio.gather(*(_batch_item(engine, name, data) for name, data in pictures))
        return json_response(Batch(answers=list(items)), headers=engine.headers)


async def _batch_item(engine: Engine, filename: str, data: bytes) -> BatchItem:
    try:
        return BatchItem(filename=filename, prediction=await engine.predict(data))
    except BadImage as error:
        metrics.REFUSALS.labels(error.reason).inc()
        return BatchItem(filename=filename, problem=Problem(reason=error.reason, error=str(error)))


async def explain(state: AppState, request: Request) -> Response:
    """Classify one picture and return its heat map. `Accept: image/png` gives the PNG alone."""
    async with state.concurrency_slot():
        engine = state.engine
        prediction, png = await engine.explain(await one_picture(request))
    if "image/png" in request.headers.get("accept", ""):
        return Response(png, headers=engine.headers, media_type="image/png")
    url = "data:image/png;base64," + base64.b64encode(png).decode()
    return json_response(Explanation(prediction=prediction, overlay=url), headers=engine.headers)


async def feedback(state: AppState, request: Request) -> Response:
    """Record the right label of a prediction; the last one counts."""
    body = await request.body()
    if len(body) > MAX_FEEDBACK_BYTES:
        raise RequestError(413, "body_too_large", f"feedback takes at most {MAX_FEEDBACK_BYTES} bytes")
    try:
        given = Feedback.model_validate_json(body)
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(str(part) for part in problem["loc"]) or "the body"
        raise RequestError(422, "bad_feedback", f"`{field}`: {problem['msg']}") from None
    labels = (*state.engine.classifier.info.classes, UNKNOWN)
    if given.label not in labels:
        raise RequestError(422, "unknown_label", f"{given.label!r} is not one of {', '.join(labels)}")
    assert state.traffic is not None  # there since the engine is
    if not await state.traffic.feedback(given.id, given.label):
        raise RequestError(404, "unknown_id", f"no prediction {given.id!r} is logged here")
    metrics.FEEDBACK.labels(given.label).inc()
    return json_response(FeedbackReceipt(id=given.id, label=given.label))


async def model_card(state: AppState, request: Request) -> Response:
    """The served model and where it comes from."""
    engine = state.engine
    info = engine.classifier.info
    card = ModelCard(
        model=engine.name,
        candidate=info.candidate,
        architecture=info.architecture,
        parameters=info.parameters,
        classes=list(info.classes),
        fit=info.fit,
        temperature=info.temperature,
        typicality_threshold=info.ood_threshold,
        device=engine.classifier.device,
        precision=engine.classifier.precision,
        lineage=info.lineage,
        metrics=engine.champion.metrics if engine.champion else {},
    )
    return json_response(card, headers=engine.headers)


async def reload(state: AppState, request: Request) -> Response:
    """Serve what the model folder holds now. The model before goes on where that fails."""
    assert state.load is not None
    try:
        engine = await asyncio.to_thread(state.load)
    except PawprintError as error:
        raise RequestError(409, "not_reloaded", f"{error} The model before it goes on serving.") from None
    state.install(engine)
    return json_response(engine.name, headers=engine.headers)


async def _page(request: Request) -> Response:
    return FileResponse(PAGE / PAGE_FILES[request.url.path], headers=PAGE_HEADERS)


async def _request_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return problem_response(error.status, error.reason, str(error), error.headers)


async def _bad_image(_: Request, error: Exception) -> Response:
    assert isinstance(error, BadImage)
    return problem_response(STATUS.get(error.reason, 422), error.reason, str(error))


async def _http_error(_: Request, error: Exception) -> Response:
    """Starlette's own errors (404, 405), in the same shape."""
    assert isinstance(error, HTTPException)
    reason = error.detail.lower().replace(" ", "_")
    return problem_response(error.status_code, reason, error.detail, error.headers)


async def _disconnected(_: Request, __: Exception) -> Response:
    return problem_response(400, "gone", "the client hung up")  # nobody reads this


async def _internal(request: Request, error: Exception) -> Response:
    logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return problem_response(500, "internal", "something went wrong here; the service's log says what")


def create_app(params: Serving) -> FastAPI:
    """The app; its state's `service` gets an engine when the service starts."""
    app = FastAPI(
        title="pawprint",
        version="1",
        description="Classifies pictures and says which photographs, commit and run made each prediction.",
        openapi_url="/docs.json",
        docs_url=None,  # Swagger's page loads scripts from a CDN
        redoc_url=None,
        exception_handlers={
            RequestError: _request_error,
            BadImage: _bad_image,
            HTTPException: _http_error,
            ClientDisconnect: _disconnected,
            Exception: _internal,
        },
    )
    app.state.service = state = AppState(params)

    def route(method: str, path: str, endpoint: Endpoint, scope: Scope, model: type[BaseModel], errors: str) -> None:
        async def handle(request: Request) -> Response:
            state.authorizer.check(request, scope)
            return await endpoint(state, request)

        handle.__name__, handle.__doc__ = endpoint.__name__, endpoint.__doc__
        app.add_api_route(path, handle, methods=[method], **documentation.of(endpoint.__name__, model, errors))

    read = "400 401 403 408 413 415 422 429 503"
    route("POST", "/predict", predict, "read", Prediction, read)
    route("POST", "/predict/batch", predict_batch, "read", Batch, read)
    route("POST", "/explain", explain, "read", Explanation, read)
    route("POST", "/feedback", feedback, "feedback", FeedbackReceipt, "400 401 403 404 408 413 422 429 503")
    route("GET", "/model", model_card, "read", ModelCard, "401 403 429 503")
    route("POST", "/admin/reload", reload, "admin", ModelName, "401 403 404 408 409 413 429")
    for path in PAGE_FILES:
        app.add_route(path, _page, methods=["GET"])
    documentation.complete(app)
    return app

"""The routes of the service, as a FastAPI app that service.py mounts into BentoML.

They are not BentoML endpoints: one of those takes files as multipart only, answers most bad input with 500, and spends
more time on a request than on the picture (docs/decisions/serving.md). Each reads its request and writes its response
itself: a picture is a form or the whole body, and what FastAPI does for each request costs 0.7 ms of CPU. FastAPI
writes the OpenAPI.
"""

import asyncio
import functools
import gc
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from mimetypes import guess_type
from pathlib import Path
from typing import Any

import bentoml
from fastapi import APIRouter, FastAPI, Request, Security
from fastapi.params import Security as SecurityDependency
from fastapi.routing import APIRoute
from pydantic import ValidationError
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import request_response

from pawprint.config import UNKNOWN, Serving
from pawprint.errors import PawprintError
from pawprint.files import data_url
from pawprint.image import BadImage
from pawprint.parallel import cores
from pawprint.serving import documentation, metrics
from pawprint.serving.auth import Authorizer, bearer, token_of
from pawprint.serving.challenger import Challenger
from pawprint.serving.decoder import Decoders
from pawprint.serving.documentation import documented
from pawprint.serving.engine import Engine, Result
from pawprint.serving.pages import PAGE, PAGE_HEADERS
from pawprint.serving.pictures import many_pictures, one_picture
from pawprint.serving.problems import RequestError, json_response, problem_response
from pawprint.serving.schema import (
    About,
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

STATUS = {"empty": 400, "not_an_image": 415}  # of a BadImage; 422 for the others
SWAGGER = Path(bentoml.__file__).parent / "_internal" / "server" / "static_content"  # BentoML brings its files
PAGE_FILES = {
    "/": PAGE / "index.html", "/docs": PAGE / "docs.html",
    **{f"/{name}": PAGE / name for name in ("page.css", "page.js", "unlock.js", "docs.js", "icon.svg")},
    **{f"/{name}": SWAGGER / name for name in ("swagger-ui.css", "swagger-ui-bundle.js")},
}  # fmt: skip
# Swagger's page styles its elements as it goes.
DOCS_POLICY = PAGE_HEADERS["Content-Security-Policy"].replace("style-src 'self'", "style-src 'self' 'unsafe-inline'")
MAX_FEEDBACK_BYTES = 4096
PER_CORE = 50  # pictures that wait for a core: of ordinary ones it does as many in a second
READ, FEEDBACK, ADMIN = ([Security(bearer, scopes=[scope])] for scope in ("read", "feedback", "admin"))

logger = logging.getLogger(__name__)


class DirectRoute(APIRoute):
    """Authorizes a request for the scope of its security dependency, and calls the endpoint with it."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.app = request_response(self.get_route_handler())  # Starlette's: FastAPI's keeps stacks of dependencies

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        (security,) = self.dependencies
        assert isinstance(security, SecurityDependency)
        (scope,) = security.scopes or ()

        async def handle(request: Request) -> Response:
            address = request.client.host if request.client else "unknown"
            _state(request).authorizer.check(token_of(request), scope, address)
            response: Response = await self.endpoint(request)
            return response

        return handle


router = APIRouter(route_class=DirectRoute, generate_unique_id_function=lambda route: route.name)


class AppState:
    """What all requests share: limits, authorization, the traffic log and the current engine."""

    def __init__(self, params: Serving) -> None:
        self.params = params
        self.authorizer = Authorizer(params)
        self.traffic: TrafficLog | None = None
        self.decoders: Decoders | None = None
        self.reloading = asyncio.Lock()
        self.load: Callable[[], tuple[Engine, Challenger | None]] | None = None  # of the folders as they are now
        self.challenger: Challenger | None = None
        self._engine: Engine | None = None
        self._in_flight = 0
        given = params.max_in_flight
        self.max_in_flight = max(params.max_images, PER_CORE * cores()) if given == "auto" else given

    @property
    def engine(self) -> Engine:
        """The model in service; RequestError 503 before the first is loaded."""
        if self._engine is None:
            raise RequestError(503, "starting", "the service is still starting", {"Retry-After": "1"})
        return self._engine

    def install(self, engine: Engine, challenger: Challenger | None = None) -> None:
        """`engine` serves from now on; the one before, and its threads, end with the last request that holds it."""
        before, self._engine = self._engine, engine
        engine.traffic.turn_to(engine.name.name)
        earlier, self.challenger = self.challenger, challenger
        if earlier:
            earlier.close()
        for each, serves in ((before, 0), (engine, 1)):
            if each:
                metrics.MODEL.labels(each.name.name, each.name.version, each.name.digest).set(serves)
                for label, share in each.held_out.items():
                    metrics.HELD_OUT.labels(label).set(serves * share)
        # What is there now stays; without it a search for cycles is quick, and what an attack leaves goes soon.
        gc.unfreeze()
        gc.collect()
        gc.freeze()

    async def answer(self, data: bytes) -> tuple[Engine, Result]:
        """(the model that answered, its answer). Raises BadImage."""
        engine, challenger = self.engine, self.challenger
        if challenger and await challenger.takes(data):
            try:
                result = await challenger.engine.predict(data)
            except (BadImage, RequestError):
                raise
            except Exception as error:
                challenger.failed(error)
            else:
                challenger.answered(result)
                _count("canary", result)
                return challenger.engine, result
        result = await engine.predict(data)
        _count("champion", result)
        if challenger:
            challenger.champion_answered(result)
        return engine, result

    def shadow_of(self, results: list[Result]) -> BackgroundTask | None:
        """What is to happen when the response has gone: the challenger answers what the champion has answered."""
        challenger = self.challenger
        if challenger is None or challenger.params.mode != "shadow":
            return None
        asked = [result for result in results if result.prediction.model.digest != challenger.engine.name.digest]
        return BackgroundTask(challenger.shadow, *asked)

    def check_room(self, pictures: int = 1) -> None:
        """RequestError 503 where there is none for so many more pictures."""
        if self._in_flight + pictures > self.max_in_flight:
            message = "the service has more requests than it can take; try again in a second"
            raise RequestError(503, "overloaded", message, {"Retry-After": "1"})

    @asynccontextmanager
    async def concurrency_slot(self, pictures: int = 1) -> AsyncIterator[None]:
        """Room for so many more pictures, taken when they are there: a slow body takes none."""
        self.check_room(pictures)
        self._in_flight += pictures
        metrics.IN_FLIGHT.inc(pictures)
        try:
            yield
        finally:
            self._in_flight -= pictures
            metrics.IN_FLIGHT.dec(pictures)


def _count(role: str, result: Result) -> None:
    metrics.answered(role, result.prediction.label, result.prediction.milliseconds.inference)


def _state(request: Request) -> AppState:
    state: AppState = request.app.state.service
    return state


@router.post(
    "/predict",
    dependencies=READ,
    **documented(Prediction, 400, 408, 413, 415, 422, 503, 504, body=documentation.ONE_IMAGE),
)
async def predict(request: Request) -> Response:
    """Classify one photograph: the multipart field `image`, or the whole body."""
    state = _state(request)
    state.check_room()
    data = await one_picture(request)
    async with state.concurrency_slot():
        engine, result = await state.answer(data)  # by the current model only now: a body may take seconds
        response = json_response(result.prediction, headers=engine.headers)
        response.background = state.shadow_of([result])
        return response


@router.post(
    "/predict/batch",
    dependencies=READ,
    **documented(Batch, 400, 408, 413, 415, 422, 503, 504, body=documentation.IMAGES),
)
async def predict_batch(request: Request) -> Response:
    """Classify many files of one form, in order; each has its own prediction or its own problem."""
    state = _state(request)
    state.check_room()
    pictures = await many_pictures(request, state.params.max_images)
    async with state.concurrency_slot(len(pictures)):
        engine, results = state.engine, list[Result]()
        metrics.BATCH.observe(len(pictures))
        items = await asyncio.gather(*(_batch_item(state, name, data, results) for name, data in pictures))
        response = json_response(Batch(answers=list(items)), headers=engine.headers)
        response.background = state.shadow_of(results)
        return response


async def _batch_item(state: AppState, filename: str, data: bytes, results: list[Result]) -> BatchItem:
    try:
        _, result = await state.answer(data)
        results.append(result)
        return BatchItem(filename=filename, prediction=result.prediction)
    except BadImage as error:
        metrics.REFUSALS.labels(error.reason).inc()
        return BatchItem(filename=filename, problem=Problem(reason=error.reason, error=str(error)))
    except RequestError as error:
        if error.status_code != 504:
            raise
        return BatchItem(filename=filename, problem=Problem(reason=error.reason, error=error.detail))


@router.post(
    "/explain",
    dependencies=READ,
    **documented(
        Explanation, 400, 408, 413, 415, 422, 503, 504, body=documentation.ONE_IMAGE, content=documentation.PNG
    ),
)
async def explain(request: Request) -> Response:
    """Classify one photograph and return its class activation map. `Accept: image/png` gives the PNG alone."""
    state = _state(request)
    state.check_room()
    data = await one_picture(request)
    async with state.concurrency_slot():
        engine = state.engine
        prediction, png = await engine.explain(data)
    if "image/png" in request.headers.get("accept", ""):
        return Response(png, headers=engine.headers, media_type="image/png")
    return json_response(Explanation(prediction=prediction, overlay=data_url("png", png)), headers=engine.headers)


@router.post(
    "/feedback",
    dependencies=FEEDBACK,
    **documented(FeedbackReceipt, 400, 404, 408, 413, 422, 503, headers=(), body=documentation.FEEDBACK),
)
async def feedback(request: Request) -> Response:
    """Record the right label of a prediction; the last one counts, an empty one takes it back."""
    state, body = _state(request), await request.body()
    if len(body) > MAX_FEEDBACK_BYTES:
        raise RequestError(413, "body_too_large", f"feedback takes at most {MAX_FEEDBACK_BYTES} bytes")
    try:
        given = Feedback.model_validate_json(body)
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(str(part) for part in problem["loc"]) or "the body"
        raise RequestError(422, "bad_feedback", f"`{field}`: {problem['msg']}") from None
    labels = (*state.engine.classifier.info.classes, UNKNOWN)
    if given.label and given.label not in labels:
        raise RequestError(422, "unknown_label", f"{given.label!r} is not one of {', '.join(labels)}")
    assert state.traffic is not None  # there since the engine is
    predicted = await state.traffic.feedback(given.id, given.label)
    if predicted is None:
        raise RequestError(404, "unknown_id", f"no prediction {given.id!r} is logged here")
    if given.label and predicted:
        metrics.FEEDBACK.labels(str(given.label == predicted).lower()).inc()
    return json_response(FeedbackReceipt(id=given.id, label=given.label))


@router.get("/model", dependencies=READ, **documented(ModelCard, 503))
async def model(request: Request) -> Response:
    """The served model and where it comes from."""
    engine = _state(request).engine
    return json_response(engine.card(), headers=engine.headers)


@router.get("/model/about", dependencies=READ, **documented(About, 503))
async def about(request: Request) -> Response:
    """What the page shows of the model: how good it is, its model card, photographs to try."""
    engine = _state(request).engine
    return json_response(engine.about, headers=engine.headers)


@router.post("/admin/reload", dependencies=ADMIN, **documented(ModelName, 404, 408, 409, 413))
async def reload(request: Request) -> Response:
    """Serve what the model folder holds now. The model before goes on where that fails."""
    state = _state(request)
    assert state.load is not None
    if state.reloading.locked():
        raise RequestError(409, "not_reloaded", "Another reload is running; two models at once are enough.")
    async with state.reloading:
        try:
            engine, challenger = await asyncio.to_thread(state.load)
        except PawprintError as error:
            raise RequestError(409, "not_reloaded", f"{error} The model before it goes on serving.") from None
        state.install(engine, challenger)
    return json_response(engine.name, headers=engine.headers)


async def _page(request: Request) -> Response:
    path = request.url.path
    headers = PAGE_HEADERS | ({"Content-Security-Policy": DOCS_POLICY} if path == "/docs" else {})
    return Response(_content(PAGE_FILES[path]), headers=headers, media_type=guess_type(PAGE_FILES[path])[0])


@functools.cache
def _content(file: Path) -> bytes:
    """Read once, and the same bytes for all: a client that does not read holds no copy and no thread."""
    return file.read_bytes()


async def _bad_image(_: Request, error: Exception) -> Response:
    assert isinstance(error, BadImage)
    return problem_response(STATUS.get(error.reason, 422), error.reason, str(error))


async def _http_error(_: Request, error: Exception) -> Response:
    """A RequestError, or one of Starlette's own (404, 405) in the same shape."""
    assert isinstance(error, HTTPException)
    reason = error.reason if isinstance(error, RequestError) else error.detail.lower().replace(" ", "_")
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
        description="Classifies photographs and says which photographs, commit and run made each prediction.",
        openapi_url="/docs.json",
        docs_url=None,  # FastAPI's page loads scripts from a CDN; page/docs.html loads BentoML's
        redoc_url=None,
        exception_handlers={
            HTTPException: _http_error, BadImage: _bad_image, ClientDisconnect: _disconnected, Exception: _internal,
        },
    )  # fmt: skip
    app.state.service = AppState(params)
    app.router.routes.extend(router.routes)  # an included router is looked through anew for each request
    for path in PAGE_FILES:
        app.add_route(path, _page, methods=["GET"])
    documentation.add_probes(app)
    return app

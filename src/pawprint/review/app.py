"""The review page's server: a queue, its pictures, and decisions, on 127.0.0.1 and for who has the token.

    app = create_app(Review(root, queue, Labels(root / "labels.csv"), who="Ann"), token)

Host, Origin, the body's size and the token are checked by the service's own middleware and authorizer. A decision is on
disk before it is answered.
"""

import hashlib
import threading
from pathlib import Path
from typing import Annotated, Any, Literal

import cv2
import numpy as np
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, JSONResponse, Response

from pawprint import image
from pawprint.config import Serving, Tokens, load_params
from pawprint.data.inbox import FOLDER, Inbox
from pawprint.data.labels import TESTED, Decision, Labels, Verb
from pawprint.errors import PawprintError
from pawprint.files import read_range, write_bytes
from pawprint.inference import cam
from pawprint.inference.classifier import Classifier
from pawprint.review.queues import CACHE, Item, Queue, Says
from pawprint.review.suggest import Suggester
from pawprint.serving.auth import Authorizer, token_of
from pawprint.serving.middleware import BodyLimitMiddleware, OriginMiddleware
from pawprint.serving.pages import PAGE as SERVICE_PAGE
from pawprint.serving.pages import PAGE_HEADERS
from pawprint.serving.problems import RequestError, problem_response

PAGE = Path(__file__).parent / "page"
PAGE_FILES = {
    "/": PAGE / "index.html", **{f"/{name}": PAGE / name for name in ("review.css", "review.js")},
    **{f"/{name}": SERVICE_PAGE / name for name in ("page.css", "unlock.js", "icon.svg")},
}  # fmt: skip
SHOWN = {"JPEG": "image/jpeg", "PNG": "image/png", "GIF": "image/gif", "WEBP": "image/webp", "AVIF": "image/avif"}
MOST = 1000  # photographs in one answer, or one decision
Order = Literal["queue", "file", "class", "unsure", "disagree"]
State = Literal["all", "open", "decided", "changed", "unsure"]


class View(BaseModel):
    """Which photographs of the queue, and in which order; equal views are the same list until `version` changes."""

    model_config = ConfigDict(frozen=True)

    label: str = ""
    split: str = ""
    source: str = ""
    state: State = "all"
    order: Order = "queue"
    text: str = ""  # of the file's name or the reason
    version: int = 0


class Decide(BaseModel):
    """A decision on photographs."""

    hashes: list[Annotated[str, Field(pattern="^[0-9a-f]{64}$")]] = Field(min_length=1, max_length=MOST)
    decision: Verb
    label: str = Field(default="", max_length=255)


class Review:
    """A queue and what was decided in it. Safe to call from several threads."""

    def __init__(
        self, root: Path, queue: Queue, labels: Labels, who: str, model: Path | None = None,
        suggester: Suggester | None = None,
    ) -> None:  # fmt: skip
        self.root, self.queue, self.labels, self.who = root, queue, labels, who
        self.suggester = suggester
        self.classes = list(queue.classes)
        self._model, self._classifier = model, None  # type: Path | None, Classifier | None
        self._inbox = Inbox(root / FOLDER)
        self._items = {item.hash: item for item in queue.items}
        self._undo: list[list[tuple[str, Decision | None]]] = []  # hash and what stood before, a list a decision
        self._lock, self._loading = threading.Lock(), threading.Lock()
        self._view: tuple[View, list[Item]] | None = None
        self._decided: dict[str, Decision] = {}  # of this queue
        self._seen: dict[str, list[str]] = {}  # hash -> ids of the decisions that the page has shown
        self._said: dict[str, Says | None] = {}  # hash -> what the page has shown of a model's words
        self._changed = 0
        self._read_labels()

    def page(self, view: View, offset: int, limit: int) -> dict[str, Any]:
        """`limit` photographs from `offset` of a view, and how far the queue is."""
        with self._lock:
            if self.labels.refresh():  # a merge, or somebody else's page
                self._read_labels()
            if self._view is None or self._view[0] != view:
                self._view = view, self._select(view)
            chosen = self._view[1]
            return {
                "total": len(chosen),
                "items": [self.shown(item) for item in chosen[offset : offset + limit]],
                **self.progress(),
            }

    def progress(self) -> dict[str, Any]:
        """How much is decided, and the classes there are now."""
        said, learned = (self.suggester.state(), self.suggester.learned) if self.suggester else ("", 0)
        return {
            "queue": len(self._items), "decided": len(self._decided), "changed": self._changed,
            "classes": self.classes, "suggestions": said, "learned": learned,
        }  # fmt: skip

    def facts(self) -> dict[str, Any]:
        """What the page shows above the photographs."""
        return {
            "name": self.queue.name,
            "about": self.queue.about,
            "model": self.queue.model,
            "who": self.who,
            "splits": sorted({item.split for item in self._items.values()}),
            "sources": sorted({item.source for item in self._items.values() if item.source}),
            "heat": self._model is not None,
            **self.progress(),
        }

    def decide(self, asked: Decide) -> dict[str, Any]:
        """Write a decision down; what the page shows of the photographs then."""
        with self._lock:
            for digest in asked.hashes:
                self.item(digest)  # or it is refused
            before = [(digest, self._decided.get(digest)) for digest in asked.hashes]
            self._write(asked.hashes, asked.decision, asked.label)
            self._undo.append(before)
            return self._after(asked.hashes)

    def undo(self) -> dict[str, Any]:
        """Take the last decision of this session back: what stood before stands again."""
        with self._lock:
            if not self._undo:
                raise RequestError(409, "nothing", "nothing was decided in this session")
            before = self._undo[-1]
            groups: dict[tuple[Verb, str], list[str]] = {}
            for digest, one in before:
                groups.setdefault((one.decision, one.label) if one else ("undo", ""), []).append(digest)
            for (verb, label), hashes in groups.items():
                self._write(hashes, verb, label)
            self._undo.pop()
            return self._after([digest for digest, _ in before])

    def item(self, digest: str) -> Item:
        """RequestError 404 where it is not in this queue."""
        if digest not in self._items:
            raise RequestError(404, "unknown", "this photograph is not in the queue")
        return self._items[digest]

    def shown(self, item: Item) -> dict[str, Any]:
        """A photograph as the page gets it: of the test side nothing that a model said, until it is decided."""
        decided, hidden = self._decided.get(item.hash), self._is_hidden(item)
        self._seen[item.hash] = self.labels.open_ids(item.hash)
        says = self._said[item.hash] = None if hidden else self._says(item.hash)
        return {
            "hash": item.hash, "label": item.label, "split": item.split, "file": item.file, "source": item.source,
            "flags": item.flags, "reason": TESTED if hidden else item.reason, "hidden": hidden,
            "says": says and {"label": says.label, "confidence": says.confidence},
            "decision": decided and {"decision": decided.decision, "label": decided.label, "who": decided.who},
        }  # fmt: skip

    def thumbnail(self, item: Item) -> bytes:
        """A JPEG of 300 pixels a side, or as large as that. RequestError 422 where there is no picture in the file."""
        if item.shard:
            return read_range(self.root / "prepared" / "shards" / item.shard, item.offset, item.length)
        kept = self.root / CACHE / "thumbnails" / item.hash[:2] / f"{item.hash}.jpg"
        if not kept.exists():
            write_bytes(kept, image.encode(_shrunk(image.decode(self.original(item)), image.SIZE), 85))
        return kept.read_bytes()

    def original(self, item: Item) -> bytes:
        """The photograph's own bytes. RequestError 404 where the file is gone or is another one by now."""
        incoming = self.queue.incoming.get(item.hash)
        path = self._inbox.file(incoming) if incoming else self.root / "data" / item.file
        try:
            data = path.read_bytes()
        except OSError as error:
            raise RequestError(404, "gone", f"{item.file} cannot be read ({error.strerror})") from None
        if hashlib.sha256(data).hexdigest() != item.hash:
            raise RequestError(404, "another", f"{item.file} is another photograph by now; run the pipeline again")
        return data

    def heat(self, item: Item) -> bytes:
        """A PNG of the photograph under the heat map of the model's class."""
        if self._is_hidden(item):
            raise RequestError(403, "hidden", TESTED)
        classifier = self._load()
        pixels = classifier.read(self.original(item))
        outputs = classifier.predict(pixels[None])
        return cam.overlay(pixels, outputs.activation[0], int(outputs.probabilities[0].argmax()))

    def _load(self) -> Classifier:
        with self._loading:
            if self._model is None:
                raise RequestError(404, "no_model", "there is no model here yet; run the pipeline")
            if self._classifier is None:
                limit = load_params(self.root / "params.yaml").preprocess.max_pixels
                self._classifier = Classifier(self._model, max_pixels=limit)
            return self._classifier

    def _says(self, digest: str) -> Says | None:
        return (self.suggester.says.get(digest) if self.suggester else None) or self.queue.says.get(digest)

    def _is_hidden(self, item: Item) -> bool:
        return item.split == "test" and item.hash not in self._decided

    def _select(self, view: View) -> list[Item]:
        text, chosen = view.text.casefold(), []
        for item in self.queue.items:
            asked = ((view.label, item.label), (view.split, item.split), (view.source, item.source))
            if any(wanted and wanted != found for wanted, found in asked):
                continue
            if text and text not in item.file.casefold() and text not in item.reason.casefold():
                continue
            if view.state != "all" and not self._is_in(item, view.state):
                continue
            chosen.append(item)
        if view.order in ("file", "class"):
            chosen.sort(key=lambda item: (item.label, item.file) if view.order == "class" else item.file)
        elif view.order != "queue":
            chosen.sort(key=lambda item: self._order(item, view.order))
        return chosen

    def _is_in(self, item: Item, state: State) -> bool:
        one = self._decided.get(item.hash)
        if state == "open" or one is None:
            return state == "open" and one is None
        return state == "decided" or (one.decision == "unsure" if state == "unsure" else _changes(item, one))

    def _order(self, item: Item, order: Order) -> float:
        """Least sure first; or surest of another class first. Of a test photograph nothing may show."""
        says = None if self._is_hidden(item) else self._says(item.hash)
        if says is None:
            return 2.0
        if order == "unsure":
            return says.confidence
        return 1 - says.confidence if says.label != item.label else 1 + says.confidence

    def _write(self, hashes: list[str], verb: Verb, label: str) -> None:
        """On disk when it returns. To keep a label is to confirm it; of what has none, the model's word on the page."""
        groups: dict[tuple[str, str], list[str]] = {}
        for digest in hashes:
            says = self._said.get(digest)
            named = label or (self._items[digest].label or (says.label if says else "")) if verb == "keep" else label
            if verb in ("keep", "class") and not named:
                raise RequestError(422, "no_class", "it has no label yet: name a class")
            groups.setdefault((named, self._why(digest)), []).append(digest)
        if self.labels.refresh():
            self._read_labels()
        for (named, why), of_one in groups.items():
            for one in self.labels.add(of_one, verb, named, self.who, why, self._seen):
                self._note(one.hash, one)
            if named:
                self._know(named)
        if self.suggester:
            self.suggester.learn(self._decided)

    def _read_labels(self) -> None:
        self._decided, self._changed = {}, 0
        for digest, one in self.labels.standing().items():
            if digest in self._items:
                self._note(digest, one)
        for name in dict.fromkeys(one.label for one in self._decided.values() if one.label):
            self._know(name)
        if self.suggester:
            self.suggester.learn(self._decided)

    def _why(self, digest: str) -> str:
        """The queue; of an answer of the service, which one it was and what was said."""
        incoming = self.queue.incoming.get(digest)
        if incoming is None or not incoming.answer:
            return self.queue.name
        said = f"; feedback {incoming.feedback}" if incoming.feedback else ""
        return f"{self.queue.name}: answer {incoming.name}, {incoming.answer}{said}"

    def _note(self, digest: str, one: Decision) -> None:
        before, item = self._decided.pop(digest, None), self._items[digest]
        self._changed -= before is not None and _changes(item, before)
        if one.decision != "undo":
            self._decided[digest] = one
            self._changed += _changes(item, one)

    def _know(self, name: str) -> None:
        if name not in self.classes:
            self.classes.append(name)

    def _after(self, hashes: list[str]) -> dict[str, Any]:
        return {"items": [self.shown(self._items[digest]) for digest in hashes], **self.progress()}


def _changes(item: Item, one: Decision) -> bool:
    return one.decision == "drop" or one.label not in ("", item.label)


def _shrunk(pixels: image.Pixels, side: int) -> image.Pixels:
    """So that the longer side has at most `side` pixels."""
    ratio = side / max(pixels.shape[:2])
    if ratio >= 1:
        return pixels
    size = (max(1, round(pixels.shape[1] * ratio)), max(1, round(pixels.shape[0] * ratio)))
    smaller: image.Pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    return smaller


def _authorized(request: Request) -> None:
    address = request.client.host if request.client else "unknown"
    request.app.state.authorizer.check(token_of(request), "read", address)


router = APIRouter(dependencies=[Depends(_authorized)])


def _review(request: Request) -> Review:
    found: Review = request.app.state.review
    return found


@router.get("/facts")
def facts(request: Request) -> JSONResponse:
    """The queue, its classes and how far it is."""
    return JSONResponse(_review(request).facts())


@router.post("/items")
def items(request: Request, view: View, offset: int = 0, limit: int = 60) -> JSONResponse:
    """Photographs of a view."""
    return JSONResponse(_review(request).page(view, max(0, offset), min(max(1, limit), MOST)))


@router.get("/picture/{digest}")
def picture(request: Request, digest: str, size: Literal["thumbnail", "full"] = "thumbnail") -> Response:
    """A photograph: small, or as it is (as a JPEG where a browser does not know its format)."""
    review = _review(request)
    item = review.item(digest)
    headers = {"Cache-Control": "private, max-age=3600", "X-Content-Type-Options": "nosniff"}
    if size == "thumbnail":
        return Response(review.thumbnail(item), headers=headers, media_type="image/jpeg")
    data = review.original(item)
    media = SHOWN.get(image.inspect(data).format)
    if media is None:
        data, media = image.encode(image.decode(data)), "image/jpeg"
    return Response(data, headers=headers, media_type=media)


@router.get("/heat/{digest}")
def heat(request: Request, digest: str) -> Response:
    """The heat map of a photograph."""
    review = _review(request)
    return Response(review.heat(review.item(digest)), media_type="image/png")


@router.post("/decisions")
def decisions(request: Request, asked: Decide) -> JSONResponse:
    """Decide; it is on disk when this answers."""
    return JSONResponse(_review(request).decide(asked))


@router.post("/undo")
def undo(request: Request) -> JSONResponse:
    """Take the last decision back."""
    return JSONResponse(_review(request).undo())


async def _page(request: Request) -> Response:
    return FileResponse(PAGE_FILES[request.url.path], headers=PAGE_HEADERS)


async def _problem(_: Request, error: Exception) -> Response:
    """A refusal in the service's shape."""
    if isinstance(error, RequestError):
        return problem_response(error.status_code, error.reason, error.detail, error.headers)
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        return problem_response(422, "bad_request", f"`{where}`: {first['msg']}")
    if isinstance(error, HTTPException):
        return problem_response(error.status_code, "not_found", str(error.detail))
    reason = error.reason if isinstance(error, image.BadImage) else "not_decided"
    return problem_response(422, reason, str(error))


def create_app(review: Review, token: str) -> FastAPI:
    """The app; it answers to who sends `token`, under this machine's own names."""
    known = hashlib.sha256(token.encode()).hexdigest()
    params = Serving(tokens=Tokens(read=(known,)), max_body_mb=1)
    refused = (HTTPException, RequestValidationError, PawprintError, image.BadImage)
    app = FastAPI(
        title="pawprint review", openapi_url=None, docs_url=None, redoc_url=None,
        exception_handlers=dict.fromkeys(refused, _problem),
    )  # fmt: skip
    app.state.review, app.state.authorizer = review, Authorizer(params)
    app.include_router(router)
    for path in PAGE_FILES:
        app.add_route(path, _page, methods=["GET"])
    app.add_middleware(BodyLimitMiddleware, params=params)
    app.add_middleware(OriginMiddleware, params=params)
    return app

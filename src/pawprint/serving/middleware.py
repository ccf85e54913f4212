"""What is true of every request: limits on its body, how it is read, and how a refusal looks."""

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pawprint.config import Serving
from pawprint.serving import metrics
from pawprint.serving.schema import Problem

SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


class RefusedError(RuntimeError):
    """A request that gets a status of 4xx or 5xx, a short code and a sentence."""

    def __init__(self, status: int, reason: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.headers = headers


def answer(content: BaseModel, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """`content` as JSON."""
    return Response(content.model_dump_json(), status, headers, "application/json")


def refusal(status: int, reason: str, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """The one shape of every refusal, counted."""
    metrics.REFUSALS.labels(reason).inc()
    return answer(Problem(reason=reason, error=message), status, headers)


class Guard:
    """ASGI middleware around the whole service: no body is too large or too slow, no answer lacks its headers.

    A body that announces too much is refused before a byte of it is read, one that does not announce itself when
    it has grown too large; one that does not arrive in time is cut off.
    """

    def __init__(self, app: ASGIApp, params: Serving) -> None:
        self.app = app
        self.limit = int(params.max_body_mb * 2**20)
        self.seconds = params.body_seconds
        self.too_large = f"the request is larger than {params.max_body_mb:g} MB, which is the limit"
        self.too_slow = f"the request did not arrive within {params.body_seconds:g} seconds"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = _Body(receive, self.limit, self.seconds)

        async def guarded(message: Message) -> None:
            if body.failed is None:  # whatever the inner app makes of a body that broke off, it is not sent
                await send(_with_headers(message))

        announced = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if not announced.isdigit() or int(announced) > self.limit:
            body.failed = _TOO_LARGE
        else:
            try:
                await self.app(scope, body.receive, guarded)
            except _BodyError:
                pass
            except Exception:
                if body.failed is None:
                    raise
        if body.failed is not None:
            status, reason = body.failed
            sentence = self.too_large if body.failed is _TOO_LARGE else self.too_slow
            # The rest of the body is not wanted, so the connection cannot be used again.
            response = refusal(status, reason, sentence, {"Connection": "close"})
            await response(scope, receive, lambda message: send(_with_headers(message)))


_TOO_LARGE = (413, "body_too_large")
_TOO_SLOW = (408, "too_slow")


class _BodyError(RuntimeError):
    """Ends the inner app's reading."""


class _Body:
    """A `receive` that counts bytes and watches the clock until the body is whole."""

    def __init__(self, receive: Receive, limit: int, seconds: float) -> None:
        self.failed: tuple[int, str] | None = None
        self._receive = receive
        self._left = limit
        self._deadline = time.monotonic() + seconds
        self._whole = False

    async def receive(self) -> Message:
        if self._whole:
            return await self._receive()
        try:
            async with asyncio.timeout(self._deadline - time.monotonic()):
                message = await self._receive()
        except TimeoutError:
            self.failed = _TOO_SLOW
            raise _BodyError from None
        if message["type"] == "http.request":
            self._left -= len(message.get("body", b""))
            if self._left < 0:
                self.failed = _TOO_LARGE
                raise _BodyError
            self._whole = not message.get("more_body", False)
        return message


def _with_headers(message: Message) -> Message:
    if message["type"] == "http.response.start":
        message["headers"] = [*message.get("headers", ()), *SECURITY_HEADERS]
    return message


@dataclass
class Part:
    """One field of a multipart form."""

    name: str = ""
    filename: str | None = None  # None for a field that is not a file
    data: bytearray = field(default_factory=bytearray)


async def read_parts(request: Request) -> list[Part] | None:
    """The fields of a multipart form, None for any other body. Held in memory: the Guard bounds it."""
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != b"multipart/form-data":
        return None
    if b"boundary" not in options:
        raise RefusedError(400, "bad_form", "the multipart form names no boundary in its Content-Type")
    form = _Form()
    body = await request.body()
    try:
        parser = MultipartParser(options[b"boundary"], form.callbacks())
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise RefusedError(400, "bad_form", f"the multipart form cannot be read: {error}") from None
    if not form.ended:
        raise RefusedError(400, "bad_form", "the multipart form ends early")
    return form.parts


class _Form:
    """Collects what the parser calls back with."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.ended = False
        self._header = bytearray()
        self._value = bytearray()

    def callbacks(self) -> Any:
        return {
            "on_part_begin": lambda: self.parts.append(Part()),
            "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._on_header,
            "on_part_data": lambda data, start, end: self.parts[-1].data.extend(data[start:end]),
            "on_end": self._on_end,
        }

    def _on_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            _, options = parse_options_header(bytes(self._value))
            self.parts[-1].name = options.get(b"name", b"").decode("utf-8", "replace")
            if b"filename" in options:
                self.parts[-1].filename = options[b"filename"].decode("utf-8", "replace")
        self._header.clear()
        self._value.clear()

    def _on_end(self) -> None:
        self.ended = True


async def one_picture(request: Request) -> bytes:
    """The one picture of a request: the multipart field `image`, or the whole body."""
    parts = await read_parts(request)
    if parts is None:
        return await request.body()
    pictures = _pictures(parts)
    if len(pictures) > 1:
        raise RefusedError(
            400, "several_images", f"`image` came {len(pictures)} times; one is wanted (see /predict/batch)"
        )
    return bytes(pictures[0].data)


async def many_pictures(request: Request, most: int) -> list[Part]:
    """The pictures of a form: every field `image` (or `images`), in order, at most `most`."""
    parts = await read_parts(request)
    if parts is None:
        raise RefusedError(415, "bad_form", "send the pictures as a multipart form: `-F image=@A -F image=@B`")
    pictures = _pictures(parts)
    if len(pictures) > most:
        raise RefusedError(413, "too_many_images", f"{len(pictures)} pictures came; at most {most} go at once")
    return pictures


def _pictures(parts: Iterable[Part]) -> list[Part]:
    named = [part for part in parts if part.name in ("image", "images")]
    if not named:
        found = ", ".join(sorted({part.name for part in parts})) or "none"
        raise RefusedError(400, "no_image", f"the form has no field `image` (it has: {found}); send `-F image=@FILE`")
    if any(part.filename is None for part in named):
        raise RefusedError(400, "no_image", "the field `image` holds text, not a file; send `-F image=@FILE`")
    return named

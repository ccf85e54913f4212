"""Limits on what uvicorn itself does not limit: headers in size and time, bodies nobody reads, clients that never read.

A few thousand clients that send a header a minute would hold as many sockets for ever; one that sends 60 MB of headers
takes 1.7 GB. uvicorn has no setting for the protocol class that BentoML would pass on, so `limit_connections` enters
the class into uvicorn's table of protocols.
"""

import asyncio
import uuid

import uvicorn.config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from pawprint.serving import metrics
from pawprint.serving.access_log import SECURITY_HEADERS
from pawprint.serving.schema import Problem

_MAX_BYTES, _MAX_LINES = 64 * 1024, 100  # of a request's headers and trailers together
_FRAME = 16  # bytes that frame a chunk of a body
_AFTER = 2  # seconds that the body's own limit comes before the connection's
_LINES = {408: b"HTTP/1.1 408 Request Timeout", 431: b"HTTP/1.1 431 Request Header Fields Too Large"}


class LimitedProtocol(HttpToolsProtocol):
    """A connection that is closed where a request's headers are too large, or anything does not end in time."""

    seconds: float = 20
    _deadline: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None
    _lines = _bytes = 0  # of headers, trailers and what frames a body's chunks, since the request began

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The first request is awaited from here on."""
        super().connection_made(transport)
        self.on_message_begin()

    def data_received(self, data: bytes) -> None:
        """A line without an end is counted here: the parser keeps it until it ends."""
        self._bytes += len(data)
        super().data_received(data)
        if self._bytes > _MAX_BYTES and not self.transport.is_closing():
            self._refuse_headers()

    def on_message_begin(self) -> None:
        """The first byte of a request, on a connection that may have had others before."""
        super().on_message_begin()
        self._lines = 0
        self._deadline = self._deadline or self.loop.call_later(self.seconds, self._too_slow)

    def on_header(self, name: bytes, value: bytes) -> None:
        """One line of headers, or of trailers."""
        self._lines += 1
        if self._lines <= _MAX_LINES:
            super().on_header(name, value)
        elif not self.transport.is_closing():
            self._refuse_headers()

    def on_headers_complete(self) -> None:
        """The body's own limit counts from here (BodyLimitMiddleware); this one holds where the app reads no body."""
        self._cancel()
        if not self.transport.is_closing():
            self._deadline = self.loop.call_later(self.seconds + _AFTER, self.transport.close)
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """What frames a chunk takes a few bytes."""
        self._bytes = max(0, self._bytes - len(body) - _FRAME)
        if not self.transport.is_closing():
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._cancel()
        self._bytes = 0
        if not self.transport.is_closing():
            super().on_message_complete()

    def pause_writing(self) -> None:
        """The client does not read what it requested."""
        super().pause_writing()
        self._unread = self._unread or self.loop.call_later(self.seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """It reads again."""
        super().resume_writing()
        self._cancel_unread()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is awaited any more."""
        self._cancel()
        self._cancel_unread()
        super().connection_lost(exc)

    def _cancel(self) -> None:
        if self._deadline:
            self._deadline.cancel()
            self._deadline = None

    def _cancel_unread(self) -> None:
        if self._unread:
            self._unread.cancel()
            self._unread = None

    def _too_slow(self) -> None:
        self._refuse(408, "too_slow", f"the headers did not arrive within {self.seconds:g} seconds")

    def _refuse_headers(self) -> None:
        limits = f"{_MAX_LINES} lines or {_MAX_BYTES // 1024} kB"
        self._refuse(431, "headers_too_large", f"headers and trailers are more than {limits}")

    def _refuse(self, status: int, reason: str, message: str) -> None:
        """The response in the service's own shape, unless another one has begun, and the end of the connection."""
        metrics.REFUSALS.labels(reason).inc()
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            body = Problem(reason=reason, error=message).model_dump_json().encode()
            headers = [
                *SECURITY_HEADERS, (b"x-request-id", uuid.uuid4().hex.encode()), (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()), (b"connection", b"close"),
            ]  # fmt: skip
            lines = [_LINES[status], *(name + b": " + value for name, value in headers)]
            self.transport.write(b"\r\n".join(lines) + b"\r\n\r\n" + body)
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()


def limit_connections(seconds: float) -> None:
    """Servers that uvicorn starts in this process from now on give each part of a request `seconds`."""
    LimitedProtocol.seconds = seconds
    uvicorn.config.HTTP_PROTOCOLS["auto"] = f"{__name__}:{LimitedProtocol.__qualname__}"

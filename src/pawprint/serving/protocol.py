"""Limits on what uvicorn itself does not limit: connections, headers in size and time, clients that do not read.

A few thousand connections that send a header a minute would hold as many sockets for ever, and one that sends 60 MB of
headers takes 1.7 GB. uvicorn has no setting for the protocol class that BentoML would pass on, so `limit_connections`
enters the class into uvicorn's table of protocols.
"""

import asyncio
import os
import uuid
from typing import Any, ClassVar

import uvicorn.config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from pawprint.serving import metrics
from pawprint.serving.access_log import SECURITY_HEADERS
from pawprint.serving.schema import Problem

_MAX_BYTES, _MAX_LINES = 64 * 1024, 100  # of a request's headers and trailers together
_PARSED = 32 * 1024  # bytes that are parsed before the limits are looked at; a thousand requests of 30 bytes take 10 ms
_FRAME = 16  # bytes that frame a chunk of a body
_CHUNKS, _CHUNK = 10_000, 256  # small chunks of a body, bytes from which on one is not small: each chunk is a call
_PIPELINED = 10  # requests that wait behind one that is answered: one of 30 bytes takes 4 kB
_CONNECTIONS = 1000  # each may hold some 300 kB of a request that waits
_FILES = 4096  # open ones: connections that are accepted before the first is closed, pipes, the log
_AFTER = 2  # seconds that the body's own limit comes before the connection's
_LINES = {
    400: b"HTTP/1.1 400 Bad Request",
    408: b"HTTP/1.1 408 Request Timeout",
    431: b"HTTP/1.1 431 Request Header Fields Too Large",
}


class LimitedProtocol(HttpToolsProtocol):
    """A connection that is closed where a request's headers are too large, or anything does not end in time."""

    seconds: float = 20
    most = _CONNECTIONS
    _waiting: ClassVar[dict[HttpToolsProtocol, None]] = {}  # those whose client has to act, the longest silent first
    _deadline: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None
    _answered: RequestResponseCycle | None = None  # the request that is answered; `cycle` is the last that has come
    _ignoring = False  # what comes after too many requests
    _lines = _bytes = 0  # of headers, trailers and what frames a body's chunks, since the request began
    _small: float = 0  # chunks less those that the body's size allows

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The first request is awaited from here on. Where there are too many, the longest silent client has to go."""
        super().connection_made(transport)
        self._waiting[self] = None
        self.on_message_begin()
        if len(self.connections) > self.most:
            metrics.REFUSALS.labels("too_many_connections").inc()
            next(iter(self._waiting)).transport.abort()

    def data_received(self, data: bytes) -> None:
        """In parts, so that little is parsed in vain. A line without an end is counted, for the parser keeps it."""
        for start in range(0, len(data), _PARSED):
            if self._ignoring or self.transport.is_closing():
                return
            part = data[start : start + _PARSED]
            self._bytes += len(part)
            super().data_received(part)
            if self._bytes > _MAX_BYTES and not self.transport.is_closing():
                self._refuse_headers()

    def on_message_begin(self) -> None:
        """The first byte of a request, on a connection that may have had others before."""
        super().on_message_begin()
        self._lines = self._small = 0
        self._deadline = self._deadline or self.loop.call_later(self.seconds, self._too_slow)

    def on_header(self, name: bytes, value: bytes) -> None:
        """One line of headers, or of trailers."""
        self._lines += 1
        if self._lines <= _MAX_LINES:
            super().on_header(name, value)
        elif not self.transport.is_closing():
            self._refuse_headers()

    def on_headers_complete(self) -> None:
        """The body's own limit counts from here (BodyLimitMiddleware); this one holds where the app reads no body.

        Of too many pipelined requests the last ones are ignored, and `Connection: close` in the response to the one
        before says so (RFC 9112, 9.6).
        """
        self._cancel()
        if len(self.pipeline) >= _PIPELINED and not self._ignoring:
            self._ignoring, self.cycle.keep_alive = True, False
            metrics.REFUSALS.labels("too_many_pipelined").inc()
        if not self.transport.is_closing() and not self._ignoring:
            self._deadline = self.loop.call_later(self.seconds + _AFTER, self.transport.close)
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """What frames a chunk takes a few bytes."""
        self._bytes = max(0, self._bytes - len(body) - _FRAME)
        self._small -= len(body) / _CHUNK
        if not self.transport.is_closing() and not self._ignoring:
            super().on_body(body)

    def on_chunk_header(self) -> None:
        """Called for each chunk: a body of 20 MB in chunks of a byte would hold the event loop for half a minute."""
        self._small += 1
        if self._small > _CHUNKS and not self.transport.is_closing():
            message = f"the body comes in more than {_CHUNKS:,} chunks of a few bytes; send larger ones"
            self._refuse(400, "too_many_chunks", message)

    def on_message_complete(self) -> None:
        self._cancel()
        self._waiting.pop(self, None)
        self._bytes = 0
        if not self.transport.is_closing() and not self._ignoring:
            super().on_message_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answered = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        """The next request is awaited."""
        super().on_response_complete()
        if self in self.connections:
            self._waiting[self] = None

    def pause_writing(self) -> None:
        """The client does not read what it requested."""
        super().pause_writing()
        self._waiting[self] = None
        self._unread = self._unread or self.loop.call_later(self.seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """It reads again."""
        super().resume_writing()
        self._cancel_unread()
        if self.cycle is not None and not self.cycle.response_complete:
            self._waiting.pop(self, None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is awaited any more."""
        self._waiting.pop(self, None)
        self._cancel()
        self._cancel_unread()
        super().connection_lost(exc)
        # uvicorn tells the last request alone, and one before it would fail as it writes: some 60 frames of traceback
        # that hold each other. Those not begun have a cycle of references, which would keep their bodies for long.
        for cycle in (self._answered, *(cycle for cycle, _ in self.pipeline)):
            if cycle is not None:
                cycle.disconnected, cycle.on_response, cycle.body = True, lambda: None, bytearray()
                cycle.message_event.set()
        self.pipeline.clear()

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
    if os.name == "posix":
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        soft = max(soft, min(_FILES, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        LimitedProtocol.most = min(_CONNECTIONS, soft // 2)
    uvicorn.config.HTTP_PROTOCOLS["auto"] = f"{__name__}:{LimitedProtocol.__qualname__}"

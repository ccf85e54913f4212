"""A limit on the time that a request's headers may take; uvicorn itself has none.

A few thousand clients that send a header a minute would hold as many sockets for ever. uvicorn has no setting for the
protocol class that BentoML would pass on, so `limit_header_time` enters the class into uvicorn's table of protocols.
"""

import asyncio

import uvicorn.config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from pawprint.serving import metrics


class HeaderTimeoutProtocol(HttpToolsProtocol):
    """A connection that is closed where a request's headers do not arrive in time."""

    seconds: float = 20
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The first request is awaited from here on."""
        super().connection_made(transport)
        self.on_message_begin()

    def on_message_begin(self) -> None:
        """The first byte of a request, on a connection that may have had others before."""
        super().on_message_begin()
        self._deadline = self._deadline or self.loop.call_later(self.seconds, self._too_slow)

    def on_headers_complete(self) -> None:
        """The body's own limit counts from here (BodyLimitMiddleware)."""
        self._cancel()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is awaited any more."""
        self._cancel()
        super().connection_lost(exc)

    def _cancel(self) -> None:
        if self._deadline:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        metrics.REFUSALS.labels("too_slow").inc()
        self.transport.write(b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        self.transport.close()


def limit_header_time(seconds: float) -> None:
    """Servers that uvicorn starts in this process from now on give a request's headers `seconds`."""
    HeaderTimeoutProtocol.seconds = seconds
    uvicorn.config.HTTP_PROTOCOLS["auto"] = f"{__name__}:{HeaderTimeoutProtocol.__qualname__}"

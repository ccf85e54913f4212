"""uvicorn's connection, which waits for a request's headers no longer than for its body.

uvicorn itself has no such limit: a few thousand clients that send a header a minute would hold as many sockets for
ever. `cut_off_slow_headers` enters the class into uvicorn's own table of protocols, before BentoML starts it.
"""

import asyncio

import uvicorn.config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from pawprint.serving import metrics


class Connection(HttpToolsProtocol):
    """A connection that is closed where a request's headers do not arrive in time."""

    seconds: float = 20

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The first request is awaited from here on."""
        self._deadline: asyncio.TimerHandle | None = None
        super().connection_made(transport)
        self._expect_headers()

    def on_message_begin(self) -> None:
        """The first byte of a request, on a connection that may have had others before."""
        super().on_message_begin()
        self._expect_headers()

    def on_headers_complete(self) -> None:
        """The body's own limit counts from here (http.Guard)."""
        self._forget()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is awaited any more."""
        self._forget()
        super().connection_lost(exc)

    def _expect_headers(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self.seconds, self._too_slow)

    def _forget(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        metrics.REFUSALS.labels("too_slow").inc()
        self.transport.write(b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        self.transport.close()


def cut_off_slow_headers(seconds: float) -> None:
    """Every server that uvicorn starts in this process from now on gives a request's headers `seconds`."""
    Connection.seconds = seconds
    uvicorn.config.HTTP_PROTOCOLS["auto"] = f"{__name__}:{Connection.__qualname__}"

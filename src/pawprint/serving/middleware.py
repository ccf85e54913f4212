"""Limits of every request body, and the security headers of every response."""

import asyncio
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pawprint.config import Serving
from pawprint.serving.problems import problem_response

SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


class BodyLimitMiddleware:
    """Around the whole service: a body that is too large or too slow is refused.

    A body that announces too much is refused before a byte of it is read, one of unknown length when it has grown too
    large; one that does not arrive in time is cut off.
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
            if body.failed is None:  # the inner app's response to a body that broke off is not sent
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
            response = problem_response(status, reason, sentence, {"Connection": "close"})
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

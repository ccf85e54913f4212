"""Limits on the size and the time of every request body."""

import asyncio
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pawprint.config import Serving
from pawprint.serving.problems import problem_response


class _BodyError(RuntimeError):
    """Ends the inner app's reading."""


class BodyLimitMiddleware:
    """Around the whole service: a body that is too large or too slow is refused.

    A body that announces too much is refused before a byte of it is read, one of unknown length when it has grown too
    large; one that does not arrive in time is cut off.
    """

    def __init__(self, app: ASGIApp, params: Serving) -> None:
        self.app = app
        self.limit = int(params.max_body_mb * 2**20)
        self.seconds = params.body_seconds
        too_large = f"the request is larger than {params.max_body_mb:g} MB, which is the limit"
        self.too_large = 413, "body_too_large", too_large
        self.too_slow = 408, "too_slow", f"the request did not arrive within {params.body_seconds:g} seconds"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        failed: tuple[int, str, str] | None = None  # status, code and sentence of the response
        whole, left, deadline = False, self.limit, time.monotonic() + self.seconds

        async def limited() -> Message:
            """`receive` that counts bytes and watches the clock until the body is whole."""
            nonlocal failed, whole, left
            if whole:
                return await receive()
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    message = await receive()
            except TimeoutError:
                failed = self.too_slow
                raise _BodyError from None
            if message["type"] == "http.request":
                left -= len(message.get("body", b""))
                if left < 0:
                    failed = self.too_large
                    raise _BodyError
                whole = not message.get("more_body", False)
            return message

        async def guarded(message: Message) -> None:
            if failed is None:  # the inner app's response to a body that broke off is not sent
                await send(message)

        announced = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if not announced.isdigit() or int(announced) > self.limit:
            failed = self.too_large
        else:
            try:
                await self.app(scope, limited, guarded)
            except Exception:
                if failed is None:
                    raise
        if failed is not None:
            # The rest of the body is not wanted, so the connection cannot be used again.
            await problem_response(*failed, {"Connection": "close"})(scope, receive, send)

"""Limits on the size and the time of every request body, and who may send one from where."""

import asyncio
import functools
import ipaddress
import time
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pawprint.config import Serving
from pawprint.serving import metrics
from pawprint.serving.access_log import PROBES
from pawprint.serving.problems import RequestError, problem_response

_CLOSE = {"Connection": "close"}  # the rest of the body is not wanted, so the connection cannot be used again


class BodyLimitMiddleware:
    """Around the whole service: a body that is too large or too slow is refused, and one too many.

    A body that announces too much is refused before a byte of it is read, one of unknown length when it has grown too
    large; one that does not arrive in time is cut off. Where the bodies of all requests together are too large, the
    request that would add to it is answered 503 if it holds more than its share of them, so that small pictures still
    come through; past one and a half times the limit every one is.
    """

    def __init__(self, app: ASGIApp, params: Serving) -> None:
        self.app = app
        self.limit = int(params.max_body_mb * 2**20)
        self.seconds = params.body_seconds
        self.room = int(max(params.max_bodies_mb, params.max_body_mb) * 2**20)
        self.held = self.bodies = 0
        too_large = f"the request is larger than {params.max_body_mb:g} MB, which is the limit"
        self.too_large = RequestError(413, "body_too_large", too_large, _CLOSE)
        too_slow = f"the request did not arrive within {params.body_seconds:g} seconds"
        self.too_slow = RequestError(408, "too_slow", too_slow, _CLOSE)
        too_many = "too many large requests arrive at once; try again in a second"
        self.too_many = RequestError(503, "overloaded", too_many, {"Retry-After": "1", **_CLOSE})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        whole, held, deadline, started = False, 0, time.monotonic() + self.seconds, False

        async def limited() -> Message:
            """`receive` that counts bytes and watches the clock until the body is whole."""
            nonlocal held, whole
            if whole:
                return await receive()
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    message = await receive()
            except TimeoutError:
                raise self.too_slow from None
            if message["type"] == "http.request":
                size = len(message.get("body", b""))
                self.bodies += not held and size > 0
                held += size
                self.held += size
                metrics.BODIES.inc(size)
                if held > self.limit:
                    raise self.too_large
                if self.held > self.room and (held * self.bodies > self.held or self.held > 1.5 * self.room):
                    raise self.too_many
                whole = not message.get("more_body", False)
            return message

        async def noted(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        announced = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        try:
            if not announced.isdigit() or int(announced) > self.limit:
                raise self.too_large
            await self.app(scope, limited, noted)
        except RequestError as error:
            if started:
                raise
            await problem_response(error.status_code, error.reason, error.detail, error.headers)(scope, receive, send)
        finally:
            self.held -= held
            self.bodies -= held > 0
            metrics.BODIES.dec(held)


class OriginMiddleware:
    """Refuses requests that a web page of another site sends, or that come under a name which is not the service's.

    A page whose own name was made to mean this address (DNS rebinding) would read answers; any page may post a form.
    An IP address as a name is nobody's own page's, and clients that are no browsers send neither header.
    """

    def __init__(self, app: ASGIApp, params: Serving) -> None:
        self.app = app
        self.hosts = {"localhost", *(host.lower() for host in params.allowed_hosts)}
        self.origins = set(params.allowed_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (problem := self._problem(scope)):
            await problem_response(403, *problem)(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _problem(self, scope: Scope) -> tuple[str, str] | None:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"] if name in _LOOKED_AT}
        host = headers.get(b"host", "")
        if not self._is_ours(host) and scope["path"] not in PROBES:
            message = f"this service is not reached as {host[:100]!r}; add the name to serving.allowed_hosts"
            return "unknown_host", message
        if scope["method"] in ("GET", "HEAD", "OPTIONS") or (origin := headers.get(b"origin")) in self.origins:
            return None
        foreign = headers.get(b"sec-fetch-site") in ("cross-site", "same-site")
        if foreign or (origin is not None and urlsplit(origin).netloc.lower() != host.lower()):
            message = f"a page of {(origin or 'another site')[:100]} sent this; add it to serving.allowed_origins"
            return "cross_site", message
        return None

    def _is_ours(self, host: str) -> bool:
        name = host.rpartition("]")[0].lstrip("[") if host.startswith("[") else host.rpartition(":")[0] or host
        return name.lower() in self.hosts or _is_address(name)


@functools.lru_cache(1024)
def _is_address(name: str) -> bool:
    try:
        return bool(ipaddress.ip_address(name))
    except ValueError:
        return False


_LOOKED_AT = (b"host", b"origin", b"sec-fetch-site")

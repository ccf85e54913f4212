"""Authorization: bearer tokens, kept as SHA-256 in params.yaml or the environment, and a limit on requests a minute."""

import hashlib
import hmac
import time
from typing import Literal

from starlette.requests import Request

from pawprint.config import Serving
from pawprint.serving.problems import RequestError

Scope = Literal["read", "feedback", "admin"]
_ADDRESSES = 10_000  # callers that are remembered; the longest silent are forgotten first


class Authorizer:
    """Checks each request's token and rate."""

    def __init__(self, params: Serving) -> None:
        self._digests = {scope: getattr(params.tokens, scope) for scope in ("read", "feedback", "admin")}
        self._rate = params.requests_per_minute / 60
        self._burst = float(max(1, params.requests_per_minute))
        self._buckets: dict[str, tuple[float, float]] = {}  # caller -> (requests left, when that was)

    def check(self, request: Request, scope: Scope) -> None:
        """RequestError 401, 403, 404 (admin is off) or 429."""
        token = _token(request)
        digests = self._digests[scope]
        if scope == "admin" and not digests:
            raise RequestError(404, "not_found", "admin endpoints are off; set serving.tokens.admin in params.yaml")
        if digests:
            self._authenticate(token, scope)
        if self._rate:
            address = request.client.host if request.client else "unknown"
            self._limit_rate(hashlib.sha256(token).hexdigest() if digests else address)

    def _authenticate(self, token: bytes, scope: Scope) -> None:
        if not token:
            raise RequestError(401, "no_token", "send `Authorization: Bearer TOKEN`", {"WWW-Authenticate": "Bearer"})
        digest = hashlib.sha256(token).hexdigest()
        # Every digest is compared, each in constant time, so that timing does not reveal which one was close.
        opens = {
            name
            for name, digests in self._digests.items()
            if sum(hmac.compare_digest(digest, known) for known in digests)
        }
        if not opens:
            raise RequestError(401, "wrong_token", "this token is not known", {"WWW-Authenticate": "Bearer"})
        if scope not in opens:
            raise RequestError(403, "wrong_scope", f"this token does not open the {scope} part of the service")

    def _limit_rate(self, caller: str) -> None:
        now = time.monotonic()
        left, then = self._buckets.pop(caller, (self._burst, now))
        left = min(self._burst, left + (now - then) * self._rate)
        self._buckets[caller] = (left - 1 if left >= 1 else left, now)  # last in the dict: the latest
        if len(self._buckets) > _ADDRESSES:
            del self._buckets[next(iter(self._buckets))]
        if left < 1:
            wait = str(int((1 - left) / self._rate) + 1)
            raise RequestError(
                429, "too_many_requests", f"too many requests; try again in {wait} s", {"Retry-After": wait}
            )


def _token(request: Request) -> bytes:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip().encode() if scheme.lower() == "bearer" else b""

"""Authorization: bearer tokens, kept as SHA-256 in params.yaml or the environment, and a limit on requests a minute."""

import hashlib
import hmac
import time

from fastapi import Request
from fastapi.security import HTTPBearer
from fastapi.security.utils import get_authorization_scheme_param

from pawprint.config import Serving
from pawprint.serving.problems import RequestError

_HOW = "send `Authorization: Bearer TOKEN`"
_GUESSES = 30  # wrong tokens of one address a minute
_ADDRESSES = 10_000  # callers that are remembered; the longest silent are forgotten first

# For the OpenAPI; a request's token is read by `token_of`.
bearer = HTTPBearer(auto_error=False, description="needed only for scopes that params.yaml or the environment locks")


def token_of(request: Request) -> str:
    """The bearer token of a request, "" without one."""
    scheme, token = get_authorization_scheme_param(request.headers.get("Authorization"))
    return token if scheme.lower() == "bearer" else ""


class Authorizer:
    """Checks each request's token and rate."""

    def __init__(self, params: Serving) -> None:
        self._digests: dict[str, tuple[str, ...]] = params.tokens.model_dump()
        self._params = params
        self._accepted: set[str] = set()  # digests of tokens that have opened something
        self._buckets: dict[str, tuple[float, float]] = {}  # caller -> (requests left, when that was)

    def check(self, token: str, scope: str, address: str) -> None:
        """RequestError 401, 403, 404 (admin is off) or 429."""
        needed = self._digests[scope]
        if scope == "admin" and not needed:
            raise RequestError(404, "not_found", "admin endpoints are off; set serving.tokens.admin in params.yaml")
        digest = hashlib.sha256(token.encode()).hexdigest()
        if needed:
            guesses = f"guesses of {address}"
            if token and digest not in self._accepted:  # who guesses does not hear when one is right
                self._require(guesses, _GUESSES)
            try:
                self._authenticate(digest if token else "", scope)
            except RequestError as error:
                if error.reason == "wrong_token":
                    self._take(guesses, _GUESSES)
                raise
            self._accepted.add(digest)
        if self._params.requests_per_minute:
            caller = digest if needed else address
            self._require(caller, self._params.requests_per_minute)
            self._take(caller, self._params.requests_per_minute)

    def _authenticate(self, digest: str, scope: str) -> None:
        # Every digest is compared, each in constant time, so that timing does not reveal which one was close.
        opens = {
            name
            for name, digests in self._digests.items()
            if sum(hmac.compare_digest(digest, known) for known in digests)
        }
        if not opens:
            code, message = ("wrong_token", "this token is not known") if digest else ("no_token", _HOW)
            raise RequestError(401, code, message, {"WWW-Authenticate": "Bearer"})
        if scope not in opens:
            raise RequestError(403, "wrong_scope", f"this token does not open the {scope} part of the service")

    def _left(self, caller: str, per_minute: int) -> float:
        """Requests that it has left: as many as a minute's, and each is given back in its time."""
        left, then = self._buckets.get(caller, (float(per_minute), 0.0))
        return min(float(per_minute), left + (time.monotonic() - then) * per_minute / 60)

    def _require(self, caller: str, per_minute: int) -> None:
        if (left := self._left(caller, per_minute)) < 1:
            wait = str(int((1 - left) * 60 / per_minute) + 1)
            message = f"too many requests; try again in {wait} s"
            raise RequestError(429, "too_many_requests", message, {"Retry-After": wait})

    def _take(self, caller: str, per_minute: int) -> None:
        left = self._left(caller, per_minute)
        self._buckets.pop(caller, None)
        self._buckets[caller] = (left - 1, time.monotonic())  # last in the dict: the latest
        if len(self._buckets) > _ADDRESSES:
            del self._buckets[next(iter(self._buckets))]

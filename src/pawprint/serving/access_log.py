"""Request ids, one JSON log line a request, counters, and the headers that every response has.

    {"time": "2026-01-02T03:04:05.678+00:00", "level": "INFO", "logger": "pawprint.access", "message": "POST /predict",
     "request_id": "3f2a...", "status": 200, "ms": 14.2, "client": "127.0.0.1"}

No line holds a picture, the name of one or a token.
"""

import json
import logging
import re
import time
import uuid
from contextvars import ContextVar
from datetime import UTC, datetime

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pawprint.serving import metrics

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
CLIENT: ContextVar[str] = ContextVar("client", default="")  # its address
SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
PROBES = ("/healthz", "/livez", "/readyz", "/metrics")  # by machines, every few seconds, under any name they know
_PATHS = ("/", "/predict", "/predict/batch", "/explain", "/feedback", "/model", "/admin/reload", "/docs.json", *PROBES)
_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")

access = logging.getLogger("pawprint.access")


class JsonLines(logging.Formatter):
    """A record as one line of JSON, with the id of the request it belongs to."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "request_id": REQUEST_ID.get(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def log_as_json() -> None:
    """From here on this process logs JSON lines: ours, BentoML's and uvicorn's."""
    for name in ("", "bentoml", "uvicorn.error"):
        for handler in logging.getLogger(name).handlers:
            handler.setFormatter(JsonLines())
            handler.filters.clear()  # BentoML's looks up a trace for each line, which JsonLines does not print
    logging.getLogger("pawprint").setLevel(logging.INFO)


class AccessLogMiddleware:
    """ASGI middleware around everything: gives each request its id, counts it and logs it.

    A caller's own X-Request-Id is kept where it is plain (up to 64 letters, digits, `._-`), and answered.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        request_id = given if _ID.fullmatch(given) else uuid.uuid4().hex.encode()
        REQUEST_ID.set(request_id.decode())
        CLIENT.set(scope["client"][0] if scope.get("client") else "")
        status = 0  # the client hung up before there was a response

        async def with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *SECURITY_HEADERS, (b"x-request-id", request_id)]
            await send(message)

        started = time.perf_counter()
        try:
            await self.app(scope, receive, with_headers)
        finally:
            self._log(scope, status, time.perf_counter() - started)

    def _log(self, scope: Scope, status: int, seconds: float) -> None:
        path = scope["path"]
        known = path if path in _PATHS else "other"  # unknown paths make no time series
        method = scope["method"] if scope["method"] in ("GET", "POST", "HEAD", "OPTIONS") else "other"
        metrics.labelled(metrics.REQUESTS, method, known, str(status)).inc()
        metrics.labelled(metrics.SECONDS, known).observe(seconds)
        client = scope.get("client")
        fields = {"status": status, "ms": round(1000 * seconds, 1), "client": client[0] if client else ""}
        level = logging.DEBUG if known in PROBES else logging.INFO
        access.log(level, "%s %s", scope["method"], path[:200], extra={"fields": fields})

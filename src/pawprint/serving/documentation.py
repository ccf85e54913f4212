"""What the OpenAPI document says beside the types of schema.py: request bodies, errors, headers, BentoML's probes."""

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from pawprint.serving.access_log import PROBES
from pawprint.serving.schema import Feedback, Problem

_IMAGE = {"type": "string", "format": "binary", "description": "JPEG, PNG, WebP, GIF, TIFF or BMP"}
PNG = {"image/png": {"schema": {"type": "string", "format": "binary"}}}
_TEXT = {"text/plain": {"schema": {"type": "string"}}}
_ERRORS = {
    400: "the request is malformed: empty, no photograph in it, or several where one is allowed",
    401: "a token is needed",
    403: "this token does not open this part, or another site's page sent the request",
    404: "no such prediction is logged here, or this part of the service is off",
    409: "the new model could not be loaded; the one before goes on",
    408: "the request did not arrive in time",
    413: "the request is too large",
    415: "the file is not a photograph",
    422: "the photograph is damaged or too large, or the feedback is not valid",
    429: "too many requests in a minute",
    503: "overloaded or starting; Retry-After says when to try again",
    504: "there was no answer in time",
}
_HEADERS = {
    "X-Request-Id": "of the request, as in the service's log; a caller's own is kept",
    "X-Pawprint-Model": "the model: name/version and SHA-256",
    "X-Pawprint-Bento": "the Bento's tag; `none` when served from a checkout",
    "Retry-After": "seconds",
}
LINEAGE = ("X-Pawprint-Model", "X-Pawprint-Bento")


def _headers(*names: str) -> dict[str, Any]:
    schema = {"type": "string", "minLength": 1}
    return {name: {"description": _HEADERS[name], "required": True, "schema": schema} for name in names}


def _form(image: dict[str, Any]) -> dict[str, Any]:
    return {"schema": {"type": "object", "required": ["image"], "properties": {"image": image}}}


ONE_IMAGE = {
    "multipart/form-data": _form(_IMAGE), "application/octet-stream": {"schema": _IMAGE}, "image/*": {"schema": _IMAGE},
}  # fmt: skip
IMAGES = {"multipart/form-data": _form({"type": "array", "items": _IMAGE, "minItems": 1})}
FEEDBACK = {"application/json": {"schema": Feedback.model_json_schema()}}


def documented(
    result: type[BaseModel],
    *errors: int,
    headers: tuple[str, ...] = LINEAGE,
    content: dict[str, Any] | None = None,
    body: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Arguments of a route that returns `result` (or `content`) or one of `errors`; `body`: a request's media types."""
    responses: dict[int, Any] = {200: {"headers": _headers("X-Request-Id", *headers), "content": content or {}}}
    for status in (401, 403, 429, *errors):
        retry = ("Retry-After",) if status in (429, 503, 504) else ()
        described = {"description": _ERRORS[status], "headers": _headers("X-Request-Id", *retry)}
        responses[status] = {"model": Problem, **described}
    extra: dict[str, Any] = {"security": [{}]}  # or no token, where the operator set none
    if body:
        extra["requestBody"] = {"required": True, "content": body}
    return {"response_model": result, "responses": responses, "openapi_extra": extra}


def add_probes(app: FastAPI) -> None:
    """BentoML's own endpoints, which are no routes of the app."""
    for path in PROBES:
        response = {"description": "as text", "headers": _headers("X-Request-Id"), "content": _TEXT}
        summary = "Prometheus metrics" if path == "/metrics" else "Health"
        operation = {"operationId": path.strip("/"), "summary": summary, "responses": {"200": response}}
        app.openapi()["paths"][path] = {"get": operation}

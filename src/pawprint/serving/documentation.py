"""What the OpenAPI document says beside the types of schema.py: request bodies, errors, headers, BentoML's probes."""

from typing import Any

from fastapi import FastAPI
from fastapi.responses import Response
from pydantic import BaseModel

from pawprint.serving.schema import Explanation, Feedback, FeedbackReceipt, Problem

_PICTURE = {"type": "string", "format": "binary", "description": "JPEG, PNG, WebP, GIF, TIFF or BMP"}
_PICTURES = {"type": "array", "items": _PICTURE, "minItems": 1}
_ERRORS = {
    400: "the request is malformed: empty, no picture in it, or several where one is allowed",
    401: "a token is needed",
    403: "this token does not open this part",
    404: "no such prediction is logged here, or this part of the service is off",
    409: "the new model could not be loaded; the one before goes on",
    408: "the request did not arrive in time",
    413: "the request is too large",
    415: "the file is not a picture",
    422: "the picture is damaged or too large, or the feedback is not valid",
    429: "too many requests in a minute",
    503: "overloaded or starting; Retry-After says when to try again",
}
_HEADERS = {
    "X-Request-Id": "of the request, as in the service's log; a caller's own is kept",
    "X-Pawprint-Model": "the model: name/version and SHA-256",
    "X-Pawprint-Bento": "the Bento's tag; `none` when served from a checkout",
    "Retry-After": "seconds",
}


def of(name: str, model: type[BaseModel], errors: str) -> dict[str, Any]:
    """Arguments of `add_api_route` for the endpoint `name` that returns `model` or one of `errors`."""
    lineage = () if model is FeedbackReceipt else ("X-Pawprint-Model", "X-Pawprint-Bento")
    responses: dict[int | str, Any] = {
        200: {"model": model, "description": "the result", "headers": _headers("X-Request-Id", *lineage)}
    }
    if model is Explanation:
        responses[200]["content"] = {"image/png": {"schema": {"type": "string", "format": "binary"}}}
    for status in map(int, errors.split()):
        retry = ("Retry-After",) if status in (429, 503) else ()
        headers = _headers("X-Request-Id", *retry)
        responses[status] = {"model": Problem, "description": _ERRORS[status], "headers": headers}
    extra: dict[str, Any] = {"operationId": name, "security": [{}, {"token": []}]}
    if body := _body(name):
        extra["requestBody"] = {"required": True, "content": body}
    return {"responses": responses, "openapi_extra": extra, "response_class": Response}


def complete(app: FastAPI) -> None:
    """Add what no route of the app declares: the token, the feedback's type and BentoML's own endpoints."""
    document = app.openapi()
    document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    document["components"]["schemas"]["Feedback"] = Feedback.model_json_schema()
    for path in ("/healthz", "/livez", "/readyz", "/metrics"):
        text = {"text/plain": {"schema": {"type": "string"}}}
        response = {"description": "as text", "headers": _headers("X-Request-Id"), "content": text}
        summary = "Prometheus metrics" if path == "/metrics" else "Health"
        document["paths"][path] = {
            "get": {"operationId": path.strip("/"), "summary": summary, "responses": {"200": response}}
        }


def _headers(*names: str) -> dict[str, Any]:
    schema = {"type": "string", "minLength": 1}
    return {name: {"description": _HEADERS[name], "required": True, "schema": schema} for name in names}


def _body(name: str) -> dict[str, Any]:
    if name in ("predict", "explain"):
        form = {"type": "object", "required": ["image"], "properties": {"image": _PICTURE}}
        raw = {kind: {"schema": _PICTURE} for kind in ("application/octet-stream", "image/*")}
        return {"multipart/form-data": {"schema": form}, **raw}
    if name == "predict_batch":
        form = {"type": "object", "required": ["image"], "properties": {"image": _PICTURES}}
        return {"multipart/form-data": {"schema": form}}
    if name == "feedback":
        return {"application/json": {"schema": {"$ref": "#/components/schemas/Feedback"}}}
    return {}

"""GET /docs.json: the API in OpenAPI 3.1, from the models of schema.py."""

from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from pawprint.serving.schema import Batch, Explanation, Feedback, ModelCard, ModelName, Prediction, Problem, Thanks

_REF = "#/components/schemas/{model}"
_PICTURE = {"type": "string", "format": "binary", "description": "JPEG, PNG, WebP, GIF, TIFF or BMP"}
_ONE = {
    "required": True,
    "content": {
        "multipart/form-data": {"schema": {"type": "object", "required": ["image"], "properties": {"image": _PICTURE}}},
        "application/octet-stream": {"schema": _PICTURE},
        "image/*": {"schema": _PICTURE},
    },
}
_MANY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["image"],
                "properties": {"image": {"type": "array", "items": _PICTURE, "minItems": 1}},
            }
        }
    },
}
_REFUSALS = {
    400: "the request is malformed: empty, no picture in it, or several where one is wanted",
    401: "a token is wanted",
    403: "this token does not open this part",
    404: "no such answer is kept here, or this part of the service is off",
    409: "the new model could not be taken over; the one before goes on",
    408: "the request did not arrive in time",
    413: "the request is too large",
    415: "the file is not a picture",
    422: "the picture is damaged or too large, or the feedback says something unknown",
    429: "too many requests in a minute",
    503: "overloaded or starting; Retry-After says when to try again",
}


def _header(name: str) -> dict[str, Any]:
    return {name: {"description": _HEADERS[name], "required": True, "schema": {"type": "string", "minLength": 1}}}


_HEADERS = {
    "X-Request-Id": "of the request, as in the service's log; a caller's own is kept",
    "X-Pawprint-Model": "the model that answered: name/version and SHA-256",
    "X-Pawprint-Bento": "the Bento's tag; `none` when served from a checkout",
    "Retry-After": "seconds",
}
_REQUEST_ID = _header("X-Request-Id")


@cache
def document() -> dict[str, Any]:
    """The whole document."""
    models = (Batch, Explanation, Feedback, ModelCard, ModelName, Prediction, Problem, Thanks)
    _, schemas = models_json_schema([(model, "serialization") for model in models], ref_template=_REF)
    read = (400, 401, 403, 408, 413, 415, 422, 429, 503)
    feedback = {"required": True, "content": {"application/json": {"schema": _ref(Feedback)}}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "pawprint",
            "version": "1",
            "description": "Classifies pictures and says which photographs, commit and run made each answer.",
        },
        "paths": {
            "/predict": {"post": _operation("predict", "Classify one picture", Prediction, read, _ONE)},
            "/predict/batch": {
                "post": _operation("predict_batch", "Classify many pictures, in order", Batch, read, _MANY)
            },
            "/explain": {"post": _operation("explain", "Classify one picture and show where", Explanation, read, _ONE)},
            "/feedback": {
                "post": _operation(
                    "feedback", "Say the right label", Thanks, (400, 401, 403, 404, 408, 413, 422, 429, 503), feedback
                )
            },
            "/model": {"get": _operation("model", "What is served", ModelCard, (401, 403, 429, 503))},
            "/admin/reload": {
                "post": _operation(
                    "reload", "Serve what the model folder holds now", ModelName, (401, 403, 404, 408, 409, 413, 429)
                )
            },
            **{path: {"get": _plain(path)} for path in ("/healthz", "/livez", "/readyz", "/metrics")},
        },
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _ref(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": _REF.format(model=model.__name__)}


def _operation(
    name: str, summary: str, model: type[BaseModel], refusals: tuple[int, ...], body: dict[str, Any] | None = None
) -> dict[str, Any]:
    answer = {"description": "the answer", "content": {"application/json": {"schema": _ref(model)}}}
    lineage = {} if model is Thanks else {**_header("X-Pawprint-Model"), **_header("X-Pawprint-Bento")}
    operation: dict[str, Any] = {
        "operationId": name,
        "summary": summary,
        "security": [{}, {"token": []}],
        "responses": {
            "200": {**answer, "headers": {**_REQUEST_ID, **lineage}},
            **{str(status): _refusal(status) for status in refusals},
        },
    }
    if model is Explanation:
        operation["responses"]["200"]["content"]["image/png"] = {"schema": {"type": "string", "format": "binary"}}
    if body:
        operation["requestBody"] = body
    return operation


def _refusal(status: int) -> dict[str, Any]:
    headers = {**_REQUEST_ID, **(_header("Retry-After") if status in (429, 503) else {})}
    content = {"application/json": {"schema": _ref(Problem)}}
    return {"description": _REFUSALS[status], "headers": headers, "content": content}


def _plain(path: str) -> dict[str, Any]:
    return {
        "operationId": path.strip("/"),
        "summary": "Prometheus metrics" if path == "/metrics" else "Health",
        "responses": {
            "200": {
                "description": "as text",
                "headers": _REQUEST_ID,
                "content": {"text/plain": {"schema": {"type": "string"}}},
            }
        },
    }

"""The one shape of every refusal: a status, a short code and a sentence, counted."""

from collections.abc import Mapping

from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import Response

from pawprint.serving import metrics
from pawprint.serving.schema import Problem


class RequestError(HTTPException):
    """A request that is answered with a status of 4xx or 5xx."""

    def __init__(self, status: int, reason: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, message, headers)
        self.reason = reason


def json_response(content: BaseModel, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """`content` as JSON."""
    return Response(content.model_dump_json(), status, headers, "application/json")


def problem_response(status: int, reason: str, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """A refusal."""
    metrics.REFUSALS.labels(reason).inc()
    return json_response(Problem(reason=reason, error=message), status, headers)

"""What /docs.json says is true: schemathesis makes requests from it, and every answer is one that it documents."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings, strategies
from schemathesis.checks import not_a_server_error
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from pawprint.config import Serving
from pawprint.serving.app import create_app
from service_process import checkout, serving

ADMIN = "admin-token"
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    unsupported_method,
]
SLOW_TOO = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
few = settings(max_examples=12, derandomize=True, deadline=None, database=None, suppress_health_check=SLOW_TOO,
               phases=[Phase.explicit, Phase.generate])  # fmt: skip
many = settings(few, max_examples=400)


DOCUMENT = create_app(Serving()).openapi()
# Not by schema.parametrize(): its tests have one node id for all operations, and pytest-xdist runs an id once.
OPERATIONS = [found.ok() for found in schemathesis.openapi.from_dict(DOCUMENT).get_all_operations()]
each_operation = pytest.mark.parametrize("operation", OPERATIONS, ids=[one.label for one in OPERATIONS])


@pytest.fixture(scope="module")
def api(toy_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The url of a service whose administration is open to ADMIN, and all else to everyone."""
    folder = tmp_path_factory.mktemp("openapi")
    tokens = {"read": [], "feedback": [], "admin": [hashlib.sha256(ADMIN.encode()).hexdigest()]}
    env = {**checkout(folder, tokens=tokens), "PAWPRINT_MODEL": str(toy_model)}
    with serving(folder / "log", env, cwd=folder) as (url, process):
        assert httpx.get(f"{url}/docs.json").json() == DOCUMENT
        yield url
        assert httpx.get(f"{url}/livez").status_code == 200 and process.poll() is None


@each_operation
@given(data=strategies.data())
@few
def test_every_answer_is_documented(data: strategies.DataObject, operation: APIOperation, api: str) -> None:
    data.draw(operation.as_strategy()).call_and_validate(base_url=api, checks=CHECKS)


@each_operation
@given(data=strategies.data())
@few
def test_with_the_token_too(data: strategies.DataObject, operation: APIOperation, api: str) -> None:
    data.draw(operation.as_strategy()).call_and_validate(
        base_url=api, checks=CHECKS, headers={"Authorization": f"Bearer {ADMIN}"}
    )


@pytest.mark.slow
@each_operation
@given(data=strategies.data())
@many
def test_every_answer_is_documented_at_length(data: strategies.DataObject, operation: APIOperation, api: str) -> None:
    data.draw(operation.as_strategy()).call_and_validate(base_url=api, checks=CHECKS)

"""What /docs.json says is true: schemathesis makes requests from it, and every answer is one that it documents."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
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
schema = schemathesis.openapi.from_dict(DOCUMENT)


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


@schema.parametrize()
@few
def test_every_answer_is_documented(case: schemathesis.Case, api: str) -> None:
    case.call_and_validate(base_url=api, checks=CHECKS)


@schema.parametrize()
@few
def test_with_the_token_too(case: schemathesis.Case, api: str) -> None:
    case.call_and_validate(base_url=api, checks=CHECKS, headers={"Authorization": f"Bearer {ADMIN}"})


@pytest.mark.slow
@schema.parametrize()
@many
def test_every_answer_is_documented_at_length(case: schemathesis.Case, api: str) -> None:
    case.call_and_validate(base_url=api, checks=CHECKS)

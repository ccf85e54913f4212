"""Predictions of a running service for many files: `pawprint predict --url URL PATH...`.

for result in predict("http://localhost:3000", find_pictures([Path("pictures")])):
    print(result.path, result.classification or result.error)
"""

import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx
from pydantic import ValidationError

from pawprint.errors import PawprintError
from pawprint.inference.classifier import FileResult
from pawprint.parallel import in_order
from pawprint.serving.schema import Prediction, Problem

_BUSY = (429, 503)
_LONGEST_PAUSE = 60  # seconds
_FOREIGN = "the response ({}) is not one of this service"


def predict(
    url: str, paths: Iterable[Path], token: str = "", concurrency: int = 8, tries: int = 5
) -> Iterator[FileResult]:
    """The service's prediction for every file, in order; a file without one gets its sentence.

    A busy service is requested again after the time that it names, an unreachable one after a pause that doubles.

    Raises:
        PawprintError: nothing at `url` answers as this service does, or it refuses the token.
    """
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    limits = httpx.Limits(max_connections=concurrency)
    try:
        client = httpx.Client(base_url=url, headers=headers, limits=limits, timeout=60)
    except (httpx.InvalidURL, UnicodeError) as error:
        raise PawprintError(f"{url} is not an address ({error}). It looks like http://localhost:3000.") from None
    with client, ThreadPoolExecutor(concurrency, thread_name_prefix="predict") as pool:
        _check(client, url)
        yield from in_order(pool, partial(_request, client, tries), paths, 4 * concurrency)


def _check(client: httpx.Client, url: str) -> None:
    """PawprintError where files need not be tried."""
    try:
        response = client.get("/model", timeout=10)
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
        raise PawprintError(f"No service answers at {url} ({error}). Start one with `make serve`.") from None
    if response.status_code in (401, 403):
        raise PawprintError(
            f"The service at {url} wants a token that may read ({_problem(response)}). Give it with --token or "
            "PAWPRINT_TOKEN."
        )
    if response.status_code not in (200, *_BUSY):
        raise PawprintError(
            f"What answers at {url} is not this service (/model gives {response.status_code}). Check the address."
        )


def _request(client: httpx.Client, tries: int, path: Path) -> FileResult:
    try:
        data = path.read_bytes()
    except OSError as error:
        return FileResult(path, None, f"the file cannot be read: {error.strerror or error}")
    failure = ""
    for attempt in range(tries):
        try:
            response = client.post("/predict", content=data, headers={"Content-Type": "application/octet-stream"})
        except httpx.TransportError as problem:
            failure = f"the service cannot be reached ({problem})"
            pause = 0.25 * 2**attempt
        else:
            if response.status_code not in _BUSY:
                return _read(path, response)
            failure = _problem(response)
            wait = response.headers.get("Retry-After", "")
            pause = float(wait) if wait.isdigit() else 1
        if attempt + 1 < tries:
            time.sleep(min(pause, _LONGEST_PAUSE))
    return FileResult(path, None, failure)


def _read(path: Path, response: httpx.Response) -> FileResult:
    if response.status_code != 200:
        return FileResult(path, None, _problem(response))
    try:
        prediction = Prediction.model_validate_json(response.content)
    except ValidationError:
        return FileResult(path, None, _FOREIGN.format(response.status_code))
    return FileResult(path, prediction.classification(), "", prediction.model.digest)


def _problem(response: httpx.Response) -> str:
    """The service's own sentence."""
    try:
        return Problem.model_validate_json(response.content).error
    except ValidationError:
        return _FOREIGN.format(response.status_code)

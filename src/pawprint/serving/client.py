"""A running service asked about many files: `pawprint predict --url URL PATH...`.

for result in ask("http://localhost:3000", find_pictures([Path("pictures")])):
    print(result.path, result.answer or result.error)
"""

import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
from pydantic import ValidationError

from pawprint.errors import PawprintError
from pawprint.runtime import NEITHER, Answer, FileAnswer
from pawprint.serving.schema import Prediction, Problem

_BUSY = (429, 503)


def ask(url: str, paths: Iterable[Path], token: str = "", concurrency: int = 8, tries: int = 5) -> Iterator[FileAnswer]:
    """The service's answer for every file, in order; a file without one gets its sentence.

    A busy service is asked again when it says, one that cannot be reached after a pause that doubles.

    Raises:
        PawprintError: nothing at `url` answers as this service does.
    """
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    limits = httpx.Limits(max_connections=concurrency)
    try:
        client = httpx.Client(base_url=url, headers=headers, limits=limits, timeout=60)
    except httpx.InvalidURL as error:
        raise PawprintError(f"{url} is not an address ({error}). It looks like http://localhost:3000.") from None
    with client, ThreadPoolExecutor(concurrency, thread_name_prefix="ask") as pool:
        try:
            client.get("/livez").raise_for_status()
        except httpx.HTTPError as error:
            raise PawprintError(f"No service answers at {url} ({error}). Start one with `make serve`.") from None
        yield from pool.map(lambda path: _ask(client, path, tries), paths)


def _ask(client: httpx.Client, path: Path, tries: int) -> FileAnswer:
    try:
        data = path.read_bytes()
    except OSError as error:
        return FileAnswer(path, None, f"the file cannot be read: {error.strerror or error}")
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
            failure = _read(path, response).error
            pause = float(response.headers.get("Retry-After", 1))
        if attempt + 1 < tries:
            time.sleep(pause)
    return FileAnswer(path, None, failure)


def _read(path: Path, response: httpx.Response) -> FileAnswer:
    try:
        if response.status_code != 200:
            return FileAnswer(path, None, Problem.model_validate_json(response.content).error)
        said = Prediction.model_validate_json(response.content)
    except ValidationError:
        return FileAnswer(path, None, f"the service answered {response.status_code} in words that are not its own")
    answer = Answer(said.label, said.reason, said.probabilities, said.typicality, said.label != NEITHER)
    return FileAnswer(path, answer, "")

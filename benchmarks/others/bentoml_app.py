"""BentoML's own way: an endpoint that takes a file. `bentoml serve bentoml_app:Stock`"""

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import bentoml

from pawprint.inference.classifier import Classifier


@bentoml.service(workers=1, logging={"access": {"enabled": False}})
class Stock:
    """Our Classifier, in as many threads as there are cores."""

    def __init__(self) -> None:
        self.classifier = Classifier(Path(os.environ["BENCHMARK_MODEL"]))
        self.pool = ThreadPoolExecutor(self.classifier.streams)

    @bentoml.api  # type: ignore[untyped-decorator]
    async def predict(self, image: Path) -> dict[str, float]:
        return await asyncio.get_running_loop().run_in_executor(self.pool, self.answer, image)

    def answer(self, path: Path) -> dict[str, float]:
        return self.classifier.classify(path.read_bytes()).probabilities

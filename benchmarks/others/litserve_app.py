"""LitServe, a worker a core: `python litserve_app.py PORT`"""

import os
import sys
from pathlib import Path

import litserve
from fastapi import Request
from with_torch import predictor


class Api(litserve.LitAPI):  # type: ignore[misc]
    """Bytes in, probabilities out."""

    def setup(self, device: str) -> None:
        self.work = predictor(Path(os.environ["BENCHMARK_MODEL"]))

    def decode_request(self, request: Request) -> bytes:
        data: bytes = request["image"].file.read()
        return data

    def predict(self, data: bytes) -> dict[str, float]:
        return self.work(data)

    def encode_response(self, output: dict[str, float]) -> dict[str, float]:
        return output


if __name__ == "__main__":
    cores = len(os.sched_getaffinity(0))
    server = litserve.LitServer(Api(), accelerator="cpu", workers_per_device=cores, timeout=60)
    server.run("127.0.0.1", int(sys.argv[1]), generate_client_file=False, log_level="error")

"""Plain FastAPI: the file is read in the event loop, decoded and asked in a thread. `uvicorn fastapi_app:app`"""

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fastapi import FastAPI, UploadFile
from with_torch import predictor

app = FastAPI()
predict = predictor(Path(os.environ["BENCHMARK_MODEL"]))
pool = ThreadPoolExecutor(1)  # a process a core


@app.post("/predict")
async def endpoint(image: UploadFile) -> dict[str, float]:
    data = await image.read()
    return await asyncio.get_running_loop().run_in_executor(pool, predict, data)

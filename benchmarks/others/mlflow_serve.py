"""`mlflow models serve` of the ONNX model, a process a core: `python mlflow_serve.py PORT`"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import mlflow.onnx
import numpy as np
import onnx
from mlflow.models.signature import ModelSignature
from mlflow.types import Schema, TensorSpec

with tempfile.TemporaryDirectory() as scratch:
    saved = Path(scratch) / "model"
    graph = onnx.load(Path(os.environ["BENCHMARK_MODEL"]) / "model.onnx")
    pixels = TensorSpec(np.dtype(np.uint8), (-1, 300, 300, 3), graph.graph.input[0].name)
    signature = ModelSignature(inputs=Schema([pixels]))
    mlflow.onnx.save_model(graph, saved, signature=signature, pip_requirements=["onnxruntime"])
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(saved), "--env-manager", "local"]
    command += ["--host", "127.0.0.1", "--port", sys.argv[1], "--workers", str(len(os.sched_getaffinity(0)))]
    subprocess.run(command, check=False)

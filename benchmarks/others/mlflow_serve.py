"""`mlflow models serve` of the ONNX model, a process a core: `python mlflow_serve.py PORT`"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import mlflow.onnx
import onnx

with tempfile.TemporaryDirectory() as scratch:
    saved = Path(scratch) / "model"
    graph = onnx.load(Path(os.environ["BENCHMARK_MODEL"]) / "model.onnx")
    mlflow.onnx.save_model(graph, saved, pip_requirements=["onnxruntime"])
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(saved), "--env-manager", "local"]
    command += ["--host", "127.0.0.1", "--port", sys.argv[1], "--workers", str(len(os.sched_getaffinity(0)))]
    subprocess.run(command, check=False)

"""Classify pictures by the model in this folder. It needs requirements.txt and nothing of pawprint.

python predict.py cat.jpg dog.png
python predict.py --check           # the test pictures, and by how much their answers differ
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Run = Callable[[NDArray[np.uint8]], tuple[NDArray[np.float32], NDArray[np.float32]]]
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import image  # type: ignore[import-not-found]  # noqa: E402  # decodes and resizes as in the training

ABOUT = json.loads((HERE / "export.json").read_text(encoding="utf-8"))


def load() -> Run:
    """uint8 [1, size, size, 3] -> probabilities [1, classes] and typicality [1]."""
    if (HERE / "model.onnx").exists():
        import onnxruntime

        session = onnxruntime.InferenceSession(HERE / "model.onnx", providers=["CPUExecutionProvider"])
        outputs = ["probabilities", "typicality"]
        return lambda pixels: tuple(session.run(outputs, {"images": pixels}))
    import openvino

    model = openvino.Core().compile_model(HERE / "model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        outputs = model({0: pixels})
        return outputs["probabilities"], outputs["typicality"]

    return run


def classify(run: Run, data: bytes) -> dict[str, Any]:
    """A picture's bytes -> label, refusal, probabilities, typicality. image.BadImage where it is no picture."""
    pixels = image.load(data, ABOUT["fit"], ABOUT["quality"], size=ABOUT["size"])
    probabilities, typicality = (np.asarray(one)[0] for one in run(pixels[None]))
    refusal = ""
    if typicality < ABOUT["ood_threshold"]:
        refusal = "unlike"
    elif probabilities.max() < ABOUT["min_confidence"]:
        refusal = "unsure"
    label = "unknown" if refusal else ABOUT["classes"][int(probabilities.argmax())]
    return {
        "label": label, "refusal": refusal, "probabilities": [float(one) for one in probabilities],
        "typicality": float(typicality),
    }  # fmt: skip


def check(run: Run) -> dict[str, Any]:
    """How the answers differ from those that this model gave when it was exported, and how long one takes."""
    different, difference, times = [], 0.0, []
    for name, expected in ABOUT["expected"].items():
        began = time.perf_counter()
        found = classify(run, (HERE / "pictures" / name).read_bytes())
        times.append(time.perf_counter() - began)
        if found["label"] != expected["label"]:
            different.append(name)
        pairs = zip(found["probabilities"], expected["probabilities"], strict=True)
        difference = max(difference, *(abs(one - other) for one, other in pairs))
    took = 1000 * statistics.median(times)
    return {"pictures": len(times), "different": different, "difference": difference, "milliseconds": took}


def main() -> None:
    """The command line; exit code 1 where a picture has no answer or the check fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs="*", type=Path)
    parser.add_argument("--check", action="store_true", help="run the test pictures")
    parser.add_argument("--json", action="store_true", help="JSON in place of a sentence")
    arguments = parser.parse_args()
    run, failed = load(), False
    if arguments.check:
        result = check(run)
        failed = bool(result["different"]) or result["difference"] > ABOUT["tolerance"]
        print(json.dumps(result) if arguments.json else (
            f"{result['pictures']} pictures: {len(result['different'])} with another label, probabilities differ by at "
            f"most {result['difference']:.2g}; one takes {result['milliseconds']:.3g} ms (median)"
        ))  # fmt: skip
    for path in arguments.pictures:
        try:
            found = classify(run, path.read_bytes())
        except (OSError, image.BadImage) as error:
            print(f"{path}: {error}", file=sys.stderr)
            failed = True
            continue
        shares = ", ".join(f"{name} {p:.1%}" for name, p in zip(ABOUT["classes"], found["probabilities"], strict=True))
        print(json.dumps({"path": str(path), **found}) if arguments.json else f"{path}: {found['label']} ({shares})")
    sys.exit(failed)


if __name__ == "__main__":
    main()

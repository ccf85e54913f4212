"""A model folder -> a folder that answers without pawprint: ONNX Runtime, OpenVINO, or a page for browsers.

    report = export(Path("champion"), "onnx", Path("out"), pictures)
    report.different, report.difference     # the check has run the export on these pictures

What surrounds the network travels along: `image.py` decodes and resizes, the graph itself computes the typicality
(`ood.py`), `export.json` has the thresholds and the answers that the test pictures must get. The page has the same
rules in JavaScript (`templates/export.js`).
"""

import base64
import hashlib
import importlib.metadata
import io
import itertools
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser
import openvino
from numpy.typing import NDArray
from onnx import TensorProto, helper
from PIL import Image

from pawprint import files, image
from pawprint.errors import PawprintError
from pawprint.inference import ood
from pawprint.inference.classifier import Classifier, ModelInfo, find_pictures, load_verified, read_bank
from pawprint.lineage import claimed, sha256

Target = Literal["onnx", "openvino", "web"]
TOLERANCE = 0.01  # of a probability, between an export and the model
RUNTIME = "onnxruntime-web@1.30.0"
RUNTIME_SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
PACKAGES = ("numpy", "opencv-python-headless", "pillow", "simplejpeg", "pi-heif")  # of image.py
RUNTIME_FILES = ("package/dist/ort.wasm.bundle.min.mjs", "package/dist/ort-wasm-simd-threaded.wasm")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF")
CHECK_SECONDS = 300
LARGE = 2000  # pixels of a side; a larger test picture is not enlarged
_TEMPLATES = Path(__file__).with_name("templates")
_PAGE = ("index.html", "export.css", "export.js")
_CHECKED = "pawprint-check "  # what the page's console says before the result


@dataclass(frozen=True)
class Report:
    """How the answers of an export differ from those of its model."""

    pictures: int
    different: tuple[str, ...]  # pictures with another label
    difference: float  # the largest, of a probability
    milliseconds: float  # from a picture's bytes to its answer, the median


def export(
    model: Path, target: Target, out: Path, pictures: Mapping[str, bytes], runtime: Path | None = None
) -> Report | None:
    """Write the folder `out` and run it on `pictures`; None where there is no browser to run a page in.

    `runtime` is onnxruntime-web's package file for `web`; without it npm brings it.

    Raises:
        PawprintError: `out` is there already, the model is damaged, or npm cannot bring the runtime.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise PawprintError(f"{out} is there already. Name a folder that is not, or remove it.")
    info, graph = load_verified(model)
    whole = with_typicality(onnx.load_from_string(graph), read_bank(model, info.ood_digest))
    if target == "web":
        pictures = {name: data for name, data in pictures.items() if _in_browsers(data)}
    answers = expected(Classifier(model, precision="f32"), pictures)
    if not answers:
        raise PawprintError("None of the test pictures can be read. Name photographs with --pictures.")
    about = description(info, answers)
    with files.replace_folder(out) as folder:
        if target == "web":
            _write_page(folder, whole, about, {name: pictures[name] for name in answers}, runtime)
        else:
            _write_program(folder, whole, about, {name: pictures[name] for name in answers}, target)
    return check_page(out / "index.html") if target == "web" else check_program(out)


def test_pictures(model: Path, data: Path, given: Sequence[Path], most: int) -> dict[str, bytes]:
    """Name -> bytes of at most `most` pictures: those that are `given`, else photographs of the project's `data` that
    the model in the folder `model` has not learned from, of each class in turn, else those of its self-test.

    The first comes enlarged too, since browsers and libjpeg reduce large photographs each in their own way.

    Raises:
        PawprintError: There is none.
    """
    if given:
        paths = find_pictures(given)[:most]
    else:
        of_classes = [_unlearned(folder, claimed(model)) for folder in sorted(data.glob("*/"))]
        turns = itertools.chain.from_iterable(itertools.zip_longest(*of_classes))
        paths = list(itertools.islice((path for path in turns if path), most)) or sorted(model.glob("selftest/*.jpg"))
    found = {f"{place}{path.suffix.lower()}": _read(path) for place, path in enumerate(paths)}
    for data_of_one in found.values():
        try:
            pixels = image.decode(data_of_one)
        except image.BadImage:
            continue
        if max(pixels.shape) > LARGE:
            return found
        large = Image.fromarray(pixels).resize((4 * pixels.shape[1], 4 * pixels.shape[0]), Image.Resampling.BICUBIC)
        return found | {"enlarged.jpg": image.encode(np.asarray(large), 90)}
    raise PawprintError("There is no photograph to check the export with. Name some with --pictures.")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise PawprintError(f"{path} cannot be read ({error.strerror or error}). Name another file.") from None


def _unlearned(folder: Path, learned: frozenset[str]) -> Iterator[Path]:
    for path in find_pictures([folder]) if any(folder.iterdir()) else ():
        if sha256(path) not in learned:
            yield path


def _in_browsers(data: bytes) -> bool:
    try:
        header = image.inspect(data)
    except image.BadImage:
        return False
    return header.format in BROWSER_FORMATS and not header.deep


def expected(classifier: Classifier, pictures: Mapping[str, bytes]) -> dict[str, dict[str, Any]]:
    """Of each picture that can be read: `label`, `refusal`, `probabilities`, `typicality`."""
    answers = {}
    for name, data in pictures.items():
        try:
            found = classifier.classify(data)
        except image.BadImage:
            continue
        answers[name] = {
            "label": found.label, "refusal": found.refusal, "probabilities": list(found.probabilities.values()),
            "typicality": found.knn_similarity,
        }  # fmt: skip
    return answers


def description(info: ModelInfo, answers: Mapping[str, Any]) -> dict[str, Any]:
    """export.json: what a program must know that answers by the graph."""
    return {
        "model": info.model_digest,
        "candidate": info.candidate,
        "dataset": info.lineage.dataset,
        "classes": info.classes,
        "size": info.size,
        "fit": info.fit,
        "quality": info.quality,
        "ood_threshold": info.ood_threshold,
        "min_confidence": info.min_confidence,
        "expected": answers,
        "tolerance": TOLERANCE,
    }


def with_typicality(model: onnx.ModelProto, bank: ood.Bank) -> onnx.ModelProto:
    """The graph with one output more: `typicality` float32 [N], by the formula of `ood.Bank`."""
    k, mean = bank.k, bank.mean_of_nearest
    constants: dict[str, NDArray[np.generic]] = {
        "directions": bank.directions.T.astype(np.float16),
        "k": np.array([k]),
        "picked": np.full((k, 1), 1 / k, np.float32)
        if mean
        else np.eye(k, 1, 1 - k, dtype=np.float32),  # falling order
        "sure": np.array(0 if mean else ood.SURE, np.float32),
        "scale": np.array(1 if mean else 1 / (1 + ood.SURE * ood.SUREST), np.float32),
    }
    if bank.class_scores is not None:
        constants["scores"] = bank.class_scores[:, :-1].T.astype(np.float16)
        constants["offset"] = bank.class_scores[:, -1].astype(np.float16)
    point, scoring = "embedding", ""
    if bank.class_scores is not None:
        point, scoring = "ood_scored", _CLASS_SCORES
        if bank.probabilities:
            point, scoring = "ood_both", _CLASS_SCORES + _PROBABILITIES
    text = _TYPICALITY.format(point=point, scoring=scoring, surest=ood.SUREST)
    model.graph.node.extend(onnx.parser.parse_graph(text).node)
    named = ((f"ood_{name}", value) for name, value in constants.items())
    model.graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in named)
    model.graph.output.append(helper.make_tensor_value_info("typicality", TensorProto.FLOAT, ["N"]))
    onnx.checker.check_model(model)
    return model


_CLASS_SCORES = """
  ood_scores32 = Cast<to = 1>(ood_scores)
  ood_offset32 = Cast<to = 1>(ood_offset)
  ood_unshifted = MatMul(embedding, ood_scores32)
  ood_scored = Add(ood_unshifted, ood_offset32)
"""
_PROBABILITIES = """
  ood_likely = Softmax<axis = 1>(ood_scored)
  ood_scored_squares = Mul(ood_scored, ood_scored)
  ood_scored_square = ReduceSum(ood_scored_squares, ood_columns)
  ood_scored_length = Sqrt(ood_scored_square)
  ood_scored_unit = Div(ood_scored, ood_scored_length)
  ood_likely_squares = Mul(ood_likely, ood_likely)
  ood_likely_square = ReduceSum(ood_likely_squares, ood_columns)
  ood_likely_length = Sqrt(ood_likely_square)
  ood_likely_unit = Div(ood_likely, ood_likely_length)
  ood_both = Concat<axis = 1>(ood_scored_unit, ood_likely_unit)
"""
_TYPICALITY = """
g (float[N, D] embedding, float[N, C] probabilities) => (float[N] typicality) {{
  ood_columns = Constant<value = int64[1] {{1}}>()
  ood_short = Constant<value_float = 1e-12>()
  ood_least = Constant<value_float = 0.000001>()
  ood_most = Constant<value_float = 0.999999>()
  ood_zero = Constant<value_float = 0.0>()
  ood_one = Constant<value_float = 1.0>()
  ood_surest = Constant<value_float = {surest}>()
  {scoring}
  ood_directions32 = Cast<to = 1>(ood_directions)
  ood_squares = Mul({point}, {point})
  ood_square = ReduceSum(ood_squares, ood_columns)
  ood_length = Sqrt(ood_square)
  ood_divisor = Max(ood_length, ood_short)
  ood_direction = Div({point}, ood_divisor)
  ood_cosine = MatMul(ood_direction, ood_directions32)
  ood_nearest, ood_places = TopK(ood_cosine, ood_k)
  ood_similarity = MatMul(ood_nearest, ood_picked)
  ood_largest, ood_class = TopK(probabilities, ood_columns)
  ood_best = Clip(ood_largest, ood_least, ood_most)
  ood_rest = Sub(ood_one, ood_best)
  ood_odds = Div(ood_best, ood_rest)
  ood_logs = Log(ood_odds)
  ood_certainty = Clip(ood_logs, ood_zero, ood_surest)
  ood_bonus = Mul(ood_certainty, ood_sure)
  ood_raised = Add(ood_similarity, ood_bonus)
  ood_column = Mul(ood_raised, ood_scale)
  typicality = Squeeze(ood_column, ood_columns)
}}
"""


def _write_program(
    folder: Path, graph: onnx.ModelProto, about: dict[str, Any], pictures: Mapping[str, bytes], target: Target
) -> None:
    if target == "openvino":
        model = openvino.Core().read_model(graph.SerializeToString())
        openvino.save_model(model, folder / "model.xml", compress_to_fp16=False)
    else:
        onnx.save(graph, folder / "model.onnx")
    files.write_json(folder / "export.json", about)
    shutil.copy(image.__file__, folder / "image.py")
    shutil.copy(_TEMPLATES / "portable_predict.py", folder / "predict.py")
    engine = "openvino" if target == "openvino" else "onnxruntime"
    packages = [f"{name}=={importlib.metadata.version(name)}" for name in (engine, *PACKAGES)]
    files.write_text(folder / "requirements.txt", "".join(f"{line}\n" for line in packages))
    (folder / "pictures").mkdir()
    for name, data in pictures.items():
        (folder / "pictures" / name).write_bytes(data)


def _write_page(
    folder: Path, graph: onnx.ModelProto, about: dict[str, Any], pictures: Mapping[str, bytes], runtime: Path | None
) -> None:
    """Everything lies in scripts, for a page that is opened from a disk may not fetch files."""
    library, binary = web_runtime(runtime)
    held = {"library": library, "binary": binary, "model": graph.SerializeToString(deterministic=True)}
    for name in _PAGE:
        shutil.copy(_TEMPLATES / name, folder / name)
    encoded = {name: base64.b64encode(data).decode() for name, data in held.items()}
    shown = {name: base64.b64encode(data).decode() for name, data in pictures.items()}
    for name, value in {"runtime": (encoded["library"], encoded["binary"]), "model": encoded["model"]}.items():
        files.write_text(folder / f"{name}.js", f"globalThis.{name} = {json.dumps(value)};\n")
    about_js = f"globalThis.about = {json.dumps(about)};\nglobalThis.pictures = {json.dumps(shown)};\n"
    files.write_text(folder / "about.js", about_js)


def web_runtime(package: Path | None) -> tuple[bytes, bytes]:
    """onnxruntime-web's library and WebAssembly, out of `package` or of npm, which keeps what it has fetched once.

    Raises:
        PawprintError: npm is missing or cannot fetch it, or the file is another one.
    """
    with tempfile.TemporaryDirectory() as scratch:
        data = _read(package or _from_npm(Path(scratch)))
    if base64.b64encode(hashlib.sha512(data).digest()).decode() != RUNTIME_SHA512:
        raise PawprintError(
            f"The package is not npm's {RUNTIME}: its SHA-512 differs. Fetch it again: npm pack {RUNTIME}"
        )
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        library, binary = (archive.extractfile(name) for name in RUNTIME_FILES)
        assert library is not None and binary is not None  # files of an archive whose hash is known
        return library.read(), binary.read()


def _from_npm(folder: Path) -> Path:
    remedy = (
        f"Where there is a network, `npm pack {RUNTIME}` writes {RUNTIME.replace('@', '-')}.tgz; name that file with "
        "--runtime."
    )
    npm = shutil.which("npm")
    if npm is None:
        raise PawprintError(f"The page needs {RUNTIME}, which npm fetches, and there is no npm here. {remedy}")
    command = [npm, "pack", "--silent", "--prefer-offline", "--pack-destination", str(folder), RUNTIME]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise PawprintError(f"npm cannot fetch {RUNTIME} ({said}). {remedy}")
    return next(folder.glob("*.tgz"))


def check_program(folder: Path) -> Report:
    """Run the export's own program on its own pictures, in a process that has nothing of pawprint.

    Raises:
        PawprintError: It fails.
    """
    command = [sys.executable, "-IB", "predict.py", "--check", "--json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    try:
        return _report(json.loads(done.stdout))
    except ValueError:
        raise PawprintError(f"{folder}: `python predict.py --check` fails: {done.stderr.strip()[-500:]}") from None


def check_page(page: Path) -> Report | None:
    """Open the page in this machine's Chromium, without a window, and run it on its pictures; None without Chromium.

    Raises:
        PawprintError: It gives no answer.
    """
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        return None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        command = [
            browser, "--headless", "--disable-gpu", "--no-first-run", "--disable-background-networking",
            "--enable-logging=stderr", f"--user-data-dir={home}", f"{page.resolve().as_uri()}#check",
        ]  # fmt: skip
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            command.insert(1, "--no-sandbox")  # with it Chromium does not start as root
        with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
            timer = threading.Timer(CHECK_SECONDS, process.kill)
            timer.start()
            try:
                assert process.stderr is not None
                for line in process.stderr:
                    if _CHECKED in line:
                        return _report(json.JSONDecoder().raw_decode(line.split(_CHECKED, 1)[1])[0])
            finally:
                timer.cancel()
                process.kill()
    raise PawprintError(f"{page} gives no answer in {browser}. Open it and press `Check`; the console says more.")


def _report(result: dict[str, Any]) -> Report:
    return Report(result["pictures"], tuple(result["different"]), result["difference"], result["milliseconds"])

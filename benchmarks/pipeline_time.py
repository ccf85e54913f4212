"""Where the time of `pawprint run` goes: the sample from nothing by stage, a second run, an idle `dvc repro`, `--help`.

    python benchmarks/pipeline_time.py [--photos train.zip]

In a fresh clone of this commit. A thread in each Python process looks a hundred times a second at what its main thread
does: inside an import it is `import`, inside MLflow or Prefect `logging`, else `work`. What lies before, between and
after the stages is the command line, Prefect's server, MLflow's database and DVC. With --photos only the run from
nothing is measured.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from common import RESULTS
from pawprint.evaluation.summary import machine

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ("seconds", "CPU", "import", "logging", "work")  # CPU seconds of all threads; kinds of the main thread's time
# Of each process, as sitecustomize.py: its words, begin, end, and seconds by kind.
SAMPLER = """
import atexit, json, os, sys, threading, time

def kind(frame):
    found = ""
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith("<frozen importlib"):
            return "import"
        if not found and any(part in name for part in ("/mlflow/", "/prefect/", "/pawprint/tracking/")):
            found = "logging"
        elif not found and ("/pawprint/" in name or "/flows/" in name):
            found = "work"
        frame = frame.f_back
    return found or "work"

def sample():
    last = began
    while True:
        time.sleep(0.01)
        now = time.time()
        spent[kind(sys._current_frames().get(main))] += now - last  # a frame that is kept keeps its tensors
        last = now

def write():
    record = {"words": sys.orig_argv, "began": began, "ended": time.time(), "spent": spent}
    record["cpu"] = sum(os.times()[:4])
    with open(os.path.join(os.environ["PIPELINE_TIME"], f"{os.getpid()}.json"), "w") as file:
        json.dump(record, file)

main, began, spent = threading.main_thread().ident, time.time(), {"import": 0.0, "logging": 0.0, "work": 0.0}
if "PIPELINE_TIME" in os.environ and any(word.startswith("flows.") for word in sys.orig_argv):
    atexit.register(write)
    threading.Thread(target=sample, daemon=True).start()
"""


def timed(command: list[str], root: Path, environment: dict[str, str]) -> float:
    """Seconds of `command` in `root`."""
    began = time.monotonic()
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return time.monotonic() - began


def stages(folder: Path, start: float, end: float) -> list[dict[str, object]]:
    """A row for each process of flows/, in order, and three for what lies before, between and after them."""
    records = sorted((json.loads(path.read_bytes()) for path in folder.glob("*.json")), key=lambda one: one["began"])
    began = min(record["began"] for record in records if "flows.pipeline" not in record["words"]) - start
    rows: list[dict[str, object]] = []
    for record in records:
        words = record["words"][record["words"].index("-m") + 1 :]
        if words[0] == "flows.pipeline":
            continue
        seconds = record["ended"] - record["began"]
        rows.append(
            {
                "stage": " ".join(words).removeprefix("flows."),
                "seconds": seconds,
                "CPU": record["cpu"],
                **record["spent"],
            }
        )
    after = end - max(record["ended"] for record in records if "flows.pipeline" not in record["words"])
    between = end - start - began - after - sum(float(str(row["seconds"])) for row in rows)
    gaps = {"before the first stage": began, "between the stages": between, "after the last stage": after}
    return [*rows, *({"stage": name, "seconds": seconds} for name, seconds in gaps.items())]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--photos", type=Path, help="a zip or folder; default: the sample")
    photos = parser.parse_args().photos
    with tempfile.TemporaryDirectory() as place:
        root, records, site = Path(place, "project"), Path(place, "records"), Path(place, "site")
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(root)], check=True)
        records.mkdir()
        site.mkdir()
        (site / "sitecustomize.py").write_text(SAMPLER, encoding="utf-8")
        plain = {
            name: value for name, value in os.environ.items() if name not in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI")
        }
        plain |= {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "BENTOML_HOME": f"{place}/bentoml",
            "PREFECT_HOME": f"{place}/prefect",
        }
        sampled = plain | {"PYTHONPATH": str(site), "PIPELINE_TIME": str(records)}
        run = ["pawprint", "run"]
        start = time.time()
        first = timed([*run, *(["--photos", str(photos.resolve())] if photos else [])], root, sampled)
        rows, wholes = stages(records, start, start + first), {"from nothing": first}
        if not photos:
            wholes |= {"second run": timed(run, root, plain), "idle dvc repro": timed(["dvc", "repro"], root, plain)}
            wholes |= {"pawprint --help": timed(["pawprint", "--help"], root, plain)}

    table = Table(title=f"pipeline_time (seconds, n = 1); {machine()}", title_justify="left")
    for column in ("stage", *FIGURES):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for row in rows:
        table.add_row(str(row["stage"]), *(f"{row[key]:.1f}" if key in row else "" for key in FIGURES))
    for name, seconds in wholes.items():
        table.add_row(name, f"{seconds:.1f}")
    Console(width=120).print(table)
    RESULTS.mkdir(exist_ok=True)
    content = {"benchmark": "pipeline_time", "machine": machine(), "stages": rows, "seconds": wholes}
    (RESULTS / "pipeline_time.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

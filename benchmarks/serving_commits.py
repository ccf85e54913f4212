"""Does the service of this checkout answer as fast as that of another one? Both serve their own champion/.

    git worktree add ../baseline baseline      # set it up there: `make run`
    python benchmarks/serving_commits.py --baseline ../baseline --pictures PATH [--turns 30] [--seconds 3] [--body form]

Both servers run at the same time and are loaded in turns, so that other work on the machine meets both. The ratio is of
each pair of turns. Prints Markdown and writes benchmarks/results/serving_commits.json.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

from pawprint.evaluation.summary import machine
from serving import HERE, Run, Server, free_port, load, running


def service(name: str, checkout: Path, folder: Path, body: str) -> AbstractContextManager[Server]:
    """The champion of `checkout`, served by its own code and environment."""
    port, checkout = free_port(), checkout.resolve()
    command = [str(checkout / ".venv" / "bin" / "python"), "-m", "bentoml", "serve"]
    env = {
        "PATH": f"{checkout / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(checkout / "src"),
        "PAWPRINT_MODEL": str(checkout / "champion"),
        "PAWPRINT_TRAFFIC": str(folder / name),
        "BENTOML_HOME": str(folder / f"{name}-bentoml"),
    }
    command += ["--host", "127.0.0.1", "--port", str(port)]
    return running(name, command, "/readyz", "/predict", body, port, checkout, **env)


def commit(checkout: Path) -> str:
    command = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--baseline", type=Path, required=True, help="the other checkout, with .venv and champion/")
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--turns", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--body", choices=("raw", "form"), default="raw")
    parser.add_argument("--clients", type=int, default=16)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        folder = Path(scratch)
        pictures = folder / "pictures"
        pictures.mkdir()
        found = sorted(file for file in options.pictures.rglob("*") if file.suffix.lower() in (".jpg", ".jpeg"))[:400]
        for number, file in enumerate(found):
            (pictures / f"{number:03}.jpg").write_bytes(file.read_bytes())
        checkouts = {"baseline": options.baseline, "this": HERE.parent}
        servers = {
            name: stack.enter_context(service(name, path, folder, options.body)) for name, path in checkouts.items()
        }
        runs: dict[str, list[Run]] = {name: [] for name in servers}
        for server in servers.values():
            load(server, pictures, 3, clients=4)  # warm
        for turn in range(options.turns):
            for name in sorted(servers, reverse=bool(turn % 2)):
                runs[name].append(load(servers[name], pictures, options.seconds, clients=options.clients))
    commits = {name: commit(path) for name, path in checkouts.items()}
    print(
        f"{machine()}; {len(found)} photographs, {options.body}, {options.clients} clients, {options.turns} turns of "
        f"{options.seconds:g} s"
    )
    print(f"{commits}\n\n| | baseline | this | median ratio | 10 % to 90 % |\n|---|---|---|---|---|")
    ratios = {}
    shown = (
        ("rate", 1, "photographs/s"),
        ("cpu", 1000, "CPU ms a photograph"),
        ("p50", 1000, "p50 ms"),
        ("p99", 1000, "p99 ms"),
    )
    for key, scale, unit in shown:
        pairs = sorted(new[key] / old[key] for old, new in zip(runs["baseline"], runs["this"], strict=True))
        ratios[key], tenth = pairs, len(pairs) // 10
        old, new = (scale * statistics.median(run[key] for run in runs[name]) for name in ("baseline", "this"))
        print(f"| {unit} | {old:.1f} | {new:.1f} | {statistics.median(pairs):.3f} "
              f"| {pairs[tenth]:.3f} to {pairs[-1 - tenth]:.3f} |")  # fmt: skip
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    content = {"machine": machine(), "commits": commits, "runs": runs, "ratios": ratios}
    (results / "serving_commits.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

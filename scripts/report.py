"""What a pull request changes: figures and plots of this workspace against another revision, as Markdown.

python scripts/report.py                          # against main, whose figures DVC's cache must have
python scripts/report.py --against v0.1 --build   # reproduces that revision here first, in a worktree beside
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

METRICS = "reports/metrics.json"
FIGURES = {  # what a reviewer wants to see of each candidate; `dvc metrics diff` has all
    "test.accuracy.value": "accuracy",
    "test.log_loss.value": "log loss",
    "test.auroc.value": "AUROC",
    "test.calibration_error.value": "calibration error",
    "test.mistakes": "mistakes",
    "test.served_accuracy.value": "served accuracy",
    "test.unlike.value": "refused as unlike",
    "test.unsure.value": "refused as unsure",
    "ood.accepted.value": "strangers accepted",
    "speed.latency_p50_ms": "latency, ms",
    "speed.size_mb": "size, MB",
}
TOO_LITTLE = 5e-5  # a change below is none: figures are shown with four decimals


def main() -> None:
    """Read the command line, write the report, print where it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", default="main", help="a branch, tag or commit")
    parser.add_argument("--build", action="store_true", help="run its pipeline where DVC has no figures of it")
    parser.add_argument("--out", type=Path, default=Path("report"), help="the folder to write")
    options = parser.parse_args()
    try:
        write(Path.cwd(), options.against, options.build, options.out)
    except subprocess.CalledProcessError as error:
        output = (error.stderr or error.stdout or "").strip().splitlines()
        sys.exit(f"error: `{' '.join(error.cmd[-4:])}` failed: {output[-1] if output else 'see above'}")
    print(f"wrote {options.out / 'report.md'}")


def write(root: Path, against: str, build: bool, out: Path) -> None:
    """`out`/report.md, and the plots of both revisions side by side in `out`/plots/index.html."""
    # 1. the other revision, with figures
    revision = commit_of(root, against)
    if build and not known(difference(root, revision)):
        revision = reproduce(root, revision)

    # 2. figures, and what the gate said
    diff = difference(root, revision)
    lines = [f"# Against {against}", "", *table(diff)]
    gate = root / "reports" / "gate.md"
    if gate.exists():
        lines += ["", gate.read_text(encoding="utf-8").replace("# Gate", "## Gate", 1).rstrip()]

    # 3. pictures
    run(root, sys.executable, "-m", "dvc", "plots", "diff", revision, "workspace", "-o", str(out / "plots"))
    lines += ["", "All plots of both stand side by side in `plots/index.html` beside this report.", ""]
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.md").write_text("\n".join(lines), encoding="utf-8")


def commit_of(root: Path, word: str) -> str:
    """The commit of a revision, also where only the remote's branch of that name is here."""
    for name in (word, f"origin/{word}"):
        done = subprocess.run(
            ["git", "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}"],
            cwd=root, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode == 0:
            return done.stdout.strip()
    sys.exit(f"error: there is no revision {word!r} here. `git fetch origin {word}` brings it, or name another.")


def difference(root: Path, revision: str) -> dict[str, dict[str, Any]]:
    """`dvc metrics diff`: metric -> old, new, diff."""
    output = run(
        root, sys.executable, "-m", "dvc", "metrics", "diff", "--all", "--json", revision, "--targets", METRICS
    )
    found: dict[str, dict[str, Any]] = json.loads(output or "{}").get(METRICS, {})
    return found


def known(diff: dict[str, dict[str, Any]]) -> bool:
    """Has the other revision figures at all?"""
    return any(entry.get("old") is not None for entry in diff.values())


def reproduce(root: Path, revision: str) -> str:
    """Run the pipeline of `revision` in a worktree that shares DVC's cache; a commit that names what came out.

    On the machine that compares, so that figures of both were measured alike. MLflow and Bentos of that run are left
    behind with the worktree.
    """
    cache = run(root, sys.executable, "-m", "dvc", "cache", "dir").strip()
    with tempfile.TemporaryDirectory(prefix="pawprint-report-") as scratch:
        there = Path(scratch) / "tree"
        run(root, "git", "worktree", "add", "--detach", str(there), revision)
        try:
            dvc = [sys.executable, "-m", "dvc"]
            run(there, *dvc, "cache", "dir", "--local", cache)
            own = {"BENTOML_HOME": f"{scratch}/bentoml", "PYTHONPATH": str(there / "src")}
            if (there / "data.dvc").exists():
                run(there, *dvc, "pull", "data.dvc")
            run(there, *dvc, "repro", **own)
            who = ["-c", "user.name=report", "-c", "user.email=report@localhost"]
            run(there, "git", "add", "--all")
            run(there, "git", *who, "commit", "-q", "--allow-empty", "-m", f"What {revision[:12]} gives here")
            return run(there, "git", "rev-parse", "HEAD").strip()
        finally:
            run(root, "git", "worktree", "remove", "--force", str(there))


def table(diff: dict[str, dict[str, Any]]) -> list[str]:
    """Markdown lines: candidate, figure, there, here, change."""
    lines = ["| candidate | figure | there | here | change |", "|---|---|---|---|---|"]
    candidates = sorted({name.partition(".")[0] for name in diff})
    for candidate in candidates:
        for key, words in FIGURES.items():
            entry = diff.get(f"{candidate}.{key}")
            if entry:
                old, new = entry.get("old"), entry.get("new")
                changed = change(old, new, apart(diff, f"{candidate}.{key}"))
                lines.append(f"| {candidate} | {words} | {shown(old)} | {shown(new)} | {changed} |")
    if len(lines) == 2:
        return ["No figures: run the pipeline first (`make run`)."]
    if not known(diff):
        lines += ["", "DVC has no figures of the other revision: `--build` reproduces it here."]
    return lines


def shown(value: Any) -> str:
    """A figure as the table has it."""
    return "-" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)


def apart(diff: dict[str, dict[str, Any]], name: str) -> bool:
    """Do the 95 % intervals of both sides have nothing in common? False for a figure without intervals."""
    low, high = (diff.get(name.removesuffix("value") + end, {}) for end in ("low", "high"))
    if any(end.get(side) is None for end in (low, high) for side in ("old", "new")):
        return False
    return bool(low["new"] > high["old"] or high["new"] < low["old"])


def change(old: Any, new: Any, beyond_noise: bool) -> str:
    """By how much, in bold beyond noise; what is only on one side is named."""
    if old is None or new is None:
        return "new" if old is None else "gone"
    if abs(new - old) <= TOO_LITTLE:
        return "="
    return f"**{new - old:+.4f}**" if beyond_noise else f"{new - old:+.4f}"


def run(folder: Path, *words: str, **environment: str) -> str:
    """A command's standard output; CalledProcessError where it fails."""
    done = subprocess.run(words, cwd=folder, env=os.environ | environment, capture_output=True, text=True, check=True)
    return done.stdout


if __name__ == "__main__":
    main()

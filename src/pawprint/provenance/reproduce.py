"""`pawprint verify RUN`: train a run again from its own record, and compare the weights.

    outcome = reproduce(Path("."), "3f2a")
    outcome.same, outcome.message

The commit's code runs in a git worktree under the system's temporary folder, on the photographs that data.dvc of that
commit names, brought from DVC's cache. Nothing of the first training is used, and its MLflow gets no second run.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from pawprint import dvc
from pawprint.errors import PawprintError
from pawprint.inference.classifier import ModelInfo
from pawprint.models import weights
from pawprint.tracking.run import FOLDER
from pawprint.tracking.tracker import Tracker


class Outcome(NamedTuple):
    """The result."""

    same: bool  # are the weights the same, byte for byte?
    message: str


def reproduce(root: Path, word: str) -> Outcome:
    """Train the run that `word` names again; progress goes to the terminal.

    Raises:
        PawprintError: There is no such run, or its record does not say what to train from.
    """
    # 1. the run's own record
    tracker = Tracker(root)
    version = tracker.registry.find(word)
    run_id = version.run_id if version else tracker.find_run(word)
    folder = tracker.artifact(run_id, FOLDER) if run_id else None
    if run_id is None or folder is None:
        raise PawprintError(f"There is no run {word!r} here that keeps a model. `make ui` lists all runs; take an id.")
    first = ModelInfo.read(folder)
    record = first.lineage
    if not record.git_commit:
        raise PawprintError(f"Run {run_id[:8]} was trained outside of a git repository: its code is not on record.")
    if record.git_dirty:
        raise PawprintError(
            f"Run {run_id[:8]} was trained with changes that were not committed, so commit {record.git_commit[:8]} is "
            "not its code. Commit, train again, and verify that run."
        )

    # 2. its code and photographs, apart from all that lies here
    with _worktree(root, record.git_commit) as there:
        if dvc.data_hash(there) != record.data_hash:
            raise PawprintError(
                f"Run {run_id[:8]} records data {record.data_hash}, but data.dvc of its commit names "
                f"{dvc.data_hash(there)}. Its record is broken: `pawprint trace {run_id[:8]}` shows where."
            )
        dvc.pull_elsewhere(root, there)

        if (kept := weights.store(root).absolute()).is_dir():  # what is read of it must have the pinned digest
            (there / "cache").mkdir(exist_ok=True)
            (there / "cache" / "weights").symlink_to(kept)

        # 3. train
        _run(there, "flows.preprocess")
        _run(there, "flows.train", "--candidate", first.trained_as)
        again = ModelInfo.read(there / "models" / first.trained_as)

    # 4. compare
    if again.weights_digest == first.weights_digest:
        return Outcome(True, f"run {run_id[:8]}: trained again, the weights are the same ({first.weights_digest[:12]})")
    reasons = "; ".join(differences(first, again, (tracker.run_tags(run_id) or {}).get("packages", "")))
    return Outcome(
        False,
        f"run {run_id[:8]}: trained again, the weights are {again.weights_digest[:12]} and not "
        f"{first.weights_digest[:12]}; {reasons or 'nothing on record explains it'}",
    )


@contextmanager
def _worktree(root: Path, commit: str) -> Iterator[Path]:
    git = ["git", "-C", str(root), "worktree"]
    with tempfile.TemporaryDirectory(prefix="pawprint-verify-") as scratch:
        there = Path(scratch) / "project"
        done = subprocess.run(
            [*git, "add", "--detach", str(there), commit], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            message = done.stderr.strip().splitlines()[-1:]
            raise PawprintError(
                f"Commit {commit[:8]} cannot be checked out ({''.join(message)}). `git fetch` may bring it."
            )
        try:
            yield there
        finally:
            subprocess.run([*git, "remove", "--force", str(there)], capture_output=True, check=False)


def _run(there: Path, module: str, *words: str) -> None:
    foreign = ("PREFECT_API_URL", "PAWPRINT_CACHE", "PAWPRINT_PIPELINE_RUN", "PYTHONPATH")
    environment = {name: value for name, value in os.environ.items() if name not in foreign}
    environment |= {"MLFLOW_TRACKING_URI": f"sqlite:///{there / 'mlflow.db'}"}
    if subprocess.run([sys.executable, "-m", module, *words], cwd=there, env=environment, check=False).returncode:
        raise PawprintError(f"`python -m {module}` of that commit failed; the lines above say why.")


def differences(first: ModelInfo, again: ModelInfo, packages: str) -> Iterator[str]:
    """What two records of a training say differently. `packages`: `name==version` of those that the first ran with."""
    fields = ("manifest_digest", "params_digest", "lock_digest")
    then, today = ({name: str(getattr(one.lineage, name)) for name in fields} for one in (first, again))
    then, today = then | first.lineage.execution, today | again.lineage.execution
    for name in then | today:
        before, now = (one.get(name, "not on record") for one in (then, today))
        if before != now:
            yield f"{name} was {before} and is {now}"
    for package in packages.split():
        name, _, before = package.partition("==")
        now = metadata.version(name)
        if before != now:
            yield f"{name} was {before} and is {now}"

"""A clone of the project under tmp, in which commands run as a user types them."""

import fcntl
import json
import os
import pty
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import yaml

from pawprint.lineage import RECORDS

PROJECT = Path(__file__).resolve().parents[1]
LIMIT = 840.0  # seconds that a command may take; the longest is the sample's run on two busy AVX2 cores


class Workspace:
    """A clone with an environment of its own: stores, homes and runs all under tmp."""

    def __init__(self, root: Path, home: Path) -> None:
        self.root = root
        unset = ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "PAWPRINT_DEBUG", "PYTHONPATH")
        self.environment = {k: v for k, v in os.environ.items() if k not in unset} | {
            "PATH": f"{root / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(root / "src"),  # this clone's code, not what the environment has installed
            "BENTOML_HOME": str(home / "bentoml"),
            "PREFECT_HOME": str(home / "prefect"),
            "COLUMNS": "200",
        }

    def __call__(self, *words: str, fails: bool = False, **environment: str) -> str:
        """Run a command in the clone; its output. The command and all that it started end when its time is over."""
        process = subprocess.Popen(
            list(words),
            cwd=self.root,
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=LIMIT)
        except BaseException:  # a test that is interrupted leaves no lock held either
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            print(output)
            raise
        assert (process.returncode != 0) == fails, output
        return output

    def typed(self, *words: str, columns: int = 80, at: str = "", keys: str = "") -> tuple[str, float]:
        """Run a command on a terminal; `keys` are typed when `at` is shown. (what was shown, seconds until the end)."""
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        environment = {k: v for k, v in self.environment.items() if k != "COLUMNS"} | {"TERM": "xterm"}
        process = subprocess.Popen(
            ["setsid", "--ctty", "--wait", *words],
            cwd=self.root,
            env=environment,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        output, began = "", time.monotonic()
        try:
            while time.monotonic() - began < LIMIT:
                piece = os.read(ours, 65536)
                output += piece.decode(errors="replace")
                if keys and at in output:
                    os.write(ours, keys.encode())
                    keys, began = "", time.monotonic()
        except OSError:  # all that wrote to the terminal have ended
            pass
        finally:
            os.close(ours)
            process.wait(timeout=30)
        return output, time.monotonic() - began

    def run(self, *words: str, **options: Any) -> str:
        """What `make run` calls."""
        return self(sys.executable, "-m", "flows.pipeline", "run", *words, **options)

    def json(self, name: str) -> Any:
        return json.loads((self.root / name).read_bytes())

    def params(self, change: Any) -> None:
        path = self.root / "params.yaml"
        values = yaml.safe_load(path.read_text())
        change(values)
        path.write_text(yaml.safe_dump(values, sort_keys=False))

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        with sqlite3.connect(self.root / "mlflow.db") as db:
            return db.execute(sql).fetchall()


def clone(target: Path) -> None:
    """The project as it stands in the working tree, as a git repository of its own."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (PROJECT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PROJECT / name, target / name)
    # The working tree's own data.dvc may name a person's photographs; a fresh clone has what is committed.
    shown = subprocess.run(["git", "show", "HEAD:data.dvc"], cwd=PROJECT, capture_output=True, check=False)
    if shown.returncode == 0:
        (target / "data.dvc").write_bytes(shown.stdout)
    for name in RECORDS:  # of a run in the working tree
        (target / name).unlink(missing_ok=True)
    # The environment that runs the tests stands in for the one that `make` would set up here for minutes.
    (target / ".venv").symlink_to(sys.prefix)
    for name in ("requirements.lock", "pyproject.toml", "scripts/setup.sh"):
        os.utime(target / name, (0, 0))
    who = (["config", "user.name", "t"], ["config", "user.email", "t@example.org"])  # `dvc exp` asks for it too
    for words in (["init", "-q", "-b", "main"], *who, ["add", "-A"], ["commit", "-qm", "clone"]):
        subprocess.run(["git", *words], cwd=target, check=True)


def consistent_champion(workspace: Workspace) -> str:
    """The version that the registry, champion.json, champion/ and the Bento all name."""
    records = [workspace.json(name) for name in ("champion.json", "champion/champion.json", "bento.json")]
    (alias,) = workspace.query(
        f"select version from registered_model_aliases where alias = 'champion' and name = '{records[0]['model']}'"
    )
    assert {str(entry["version"]) for entry in records} == {str(alias[0])}
    assert {entry["model_digest"] for entry in records} == {workspace.json("champion/model.json")["model_digest"]}
    tag = records[2]["tag"]
    kept = Path(workspace.environment["BENTOML_HOME"]) / "bentos" / tag.replace(":", "/")
    packed = json.loads((kept / "src" / "champion" / "champion.json").read_bytes())
    assert str(packed["version"]) == str(alias[0])
    assert (kept.parent / "latest").read_text() == tag.split(":")[1]
    return str(alias[0])

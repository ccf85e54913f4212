"""One answer out of the traffic logs of this machine, by its id; the service need not run.

answer = find("3f2a91bc...", traffic.folder())
answer["model_digest"]
"""

import contextlib
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

_KEPT = ("id", "label", "picture_sha256", "model_digest", "model_version", "time")


def find(id: str, folder: Path) -> dict[str, str] | None:
    """What any log of `folder` keeps of the answer `id`; None where none has it.

    `picture_sha256` is of the bytes as they came, `model` the registered model, which names the log, and `time` in
    UTC. A log that cannot be read is passed over.
    """
    for path in sorted(folder.glob("*.db")):
        try:
            with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
                asked = f"SELECT {', '.join(_KEPT)} FROM predictions WHERE id = ?"
                row = connection.execute(asked, (id,)).fetchone()
        except sqlite3.Error:
            continue
        if row:
            when = f"{datetime.fromtimestamp(row[-1], UTC):%Y-%m-%d %H:%M:%S} UTC"
            return {**dict(zip(_KEPT, row, strict=True)), "time": when, "model": path.stem}
    return None

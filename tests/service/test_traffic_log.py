"""The traffic log by itself: killed in the middle of writing, again and again."""

import json
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

ROWS, WIDTH = 500, 64
TESTS = str(Path(__file__).parents[1])
WRITER = f"""
import asyncio, sys, time, uuid
from pathlib import Path

import numpy as np

sys.path.insert(0, sys.argv[2])
from pawprint.serving.traffic import Record, TrafficLog
from toy import prediction

log = TrafficLog(Path(sys.argv[1]), {ROWS})
embedding = np.ones({WIDTH}, np.float32)
while True:
    for _ in range(20):
        id = uuid.uuid4().hex
        log.add(Record.of(prediction(id), time.time(), "0" * 64, embedding))
    asyncio.run(log.feedback(id, "dog"))
    print(id, flush=True)       # it is on disk, so it must be there after any kill
"""


@pytest.mark.slow
def test_a_kill_tears_no_record_and_loses_nothing_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    rng = np.random.default_rng(8)
    sizes = []
    for _ in range(12):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(path), TESTS], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        first = process.stdout.readline()
        time.sleep(rng.uniform(0, 1.5))
        process.kill()
        acknowledged = [line.strip() for line in (first, *process.stdout) if line.endswith("\n")]
        process.wait()
        with closing(sqlite3.connect(path)) as log:
            assert log.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            rows = log.execute("SELECT id, probabilities, embedding FROM predictions ORDER BY number").fetchall()
            judged = {id for (id,) in log.execute("SELECT id FROM feedback")}
        assert all(len(row[2]) == 2 * WIDTH and json.loads(row[1]) == {"cat": 0.9, "dog": 0.1} for row in rows)
        assert set(acknowledged[-10:]) <= {row[0] for row in rows} & judged
        assert len(rows) <= ROWS + 256 + 100  # trimmed every 256 rows, and what one transaction gathers
        assert judged <= {row[0] for row in rows}  # feedback goes with its answer
        sizes.append(path.stat().st_size)
    assert max(sizes[6:]) <= 1.5 * max(sizes[:6])  # what is trimmed makes room for what comes

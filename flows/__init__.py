"""One Prefect flow a file, each a stage of dvc.yaml; pipeline.py is the scheduled whole.

DVC runs its queued experiments in temporary copies of the project. There, and wherever these flows are
started, the code that runs must be the copy's own and not what the environment happens to have installed.
"""

import gc
import sys
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))
# Imports and exports make a million objects that stay. To look for cycles among them costs up to a fifth of that time.
gc.set_threshold(100_000)


def _without_interrupt(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Ctrl-C while a stage is still importing is no error, and needs no traceback."""
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _without_interrupt

import pawprint as pawprint  # noqa: E402  first of all imports: it turns telemetry off

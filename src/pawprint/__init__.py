"""pawprint: from a photograph to an answer and back.

Importing it turns the telemetry of every library off (see telemetry.py), so import it first.
"""

import os as _os
from importlib import import_module as _import_module
from typing import Any as _Any

from pawprint import telemetry as telemetry

for _name in ("NO_PROXY", "no_proxy"):  # servers of this machine are never asked through a proxy
    if "127.0.0.1" not in (_given := _os.environ.get(_name, "")):
        _os.environ[_name] = ",".join(filter(None, [_given, "localhost", "127.0.0.1", "::1"]))

__version__ = "0.1.0"

_API = {  # docs/python-api.md; imported when asked for, so that `import pawprint` is fast
    "Classifier": "pawprint.inference.classifier",
    "evaluate": "pawprint.evaluation.folder",
}


def __getattr__(name: str) -> _Any:
    if name in _API:
        return getattr(_import_module(_API[name]), name)
    raise AttributeError(f"module 'pawprint' has no attribute {name!r}")

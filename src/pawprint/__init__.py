"""pawprint: from a photograph to an answer and back.

Importing it turns the telemetry of every library off (see telemetry.py), so import it first.
"""

import os as _os

from pawprint import telemetry as telemetry

for _name in ("NO_PROXY", "no_proxy"):  # servers of this machine are never asked through a proxy
    if "127.0.0.1" not in (_given := _os.environ.get(_name, "")):
        _os.environ[_name] = ",".join(filter(None, [_given, "localhost", "127.0.0.1", "::1"]))

__version__ = "0.1.0"

"""Nothing phones home: the one place where the telemetry of every library is turned off.

`pawprint` imports this before anything else, and the set-up writes these values into a `.pth` file of the
environment, so that `dvc`, `mlflow`, `prefect` and `bentoml` typed by hand are quiet too.
A value that a person has set is left as it is. DVC's switch stands in `.dvc/config` as well.
"""

import os
import sys

OFF = {
    "BENTOML_DO_NOT_TRACK": "True",
    "DO_NOT_TRACK": "true",
    "DVC_NO_ANALYTICS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}

for _name, _value in OFF.items():
    os.environ.setdefault(_name, _value)

# OpenVINO reports each import to a collector, and no variable turns that off. Where its reporting package cannot be
# imported it uses a stub that does nothing.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

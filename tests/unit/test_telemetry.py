"""Nothing phones home, also not the libraries that have no switch for it."""

import os
import subprocess
import sys


def test_openvino_is_not_let_to_report_its_import() -> None:
    code = (
        "import pawprint.inference.classifier, openvino, sys; "
        "print([n for n in sys.modules if n.startswith('openvino_telemetry.')])"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

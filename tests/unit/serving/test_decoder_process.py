"""The process that decodes: it ends with the service."""

import subprocess
import sys
from multiprocessing import Pipe


def test_a_process_whose_service_ended_before_it_was_ready_ends_without_a_word() -> None:
    ours, theirs = Pipe()
    command = [sys.executable, "-m", "pawprint.serving.decoder_process", str(theirs.fileno())]
    process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stderr=subprocess.PIPE)
    ours.close()
    theirs.close()
    assert process.communicate(timeout=60)[1] == b"" and process.returncode == 0

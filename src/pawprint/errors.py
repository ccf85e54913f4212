"""The error that a person can cause and mend, and the end that a person asks for."""

import errno
import re
import signal
import socket
import time
from typing import Any

# in messages of the system, SQLite and libraries that raise errors of their own
DISK_FULL = re.compile("No space left on device|database or disk is full|Disk quota exceeded", re.IGNORECASE)
ENDING = 20.0  # seconds that a process has to end well after Ctrl-C, in which another one changes nothing


class PawprintError(Exception):
    """Something a person can put right.

    The message names the file or field, says what is wrong with it and what to do, in one or two sentences.
    The command line and the flows print it without a traceback (unless PAWPRINT_DEBUG=1) and exit with 1.
    """


class DivergedError(PawprintError):
    """The loss of a training is not a number."""


class Stopped(KeyboardInterrupt):
    """A signal requested a stop, and what was done until then is kept; the message says how to go on."""


def explain(error: BaseException) -> str | None:
    """The one-sentence message of an error, or None where only a traceback explains it."""
    if isinstance(error, PawprintError):
        return str(error)
    name = getattr(error, "filename", None) or "the project"
    if DISK_FULL.search(str(error)):  # also of SQLite and safetensors, which raise errors of their own
        full = getattr(error, "filename2", None) or name  # of a copy: where to
        return f"No space left on the disk of {full}. Free some, then run again."
    if isinstance(error, OSError) and error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return f"{name} cannot be read or written ({error.strerror}). Change its rights or owner, then run again."
    return explain(error.__cause__) if error.__cause__ else None


def without_password(url: str) -> str:
    """The URL without its user and password, for a message."""
    return re.sub(r"^([\w.+-]+://)[^/]*@", r"\1", url)


def port_problem(host: str, port: int) -> str:
    """Why no server can listen there, in the system's words; "" where one can."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return str(error.strerror)
    return ""


def interrupt_once() -> None:
    """Ctrl-C, SIGTERM and a closed terminal raise KeyboardInterrupt, once in `ENDING` seconds.

    Ctrl-C typed twice, or sent to a process and to its group, would otherwise interrupt what ends the run. What is
    ignored (SIGHUP under nohup, SIGINT of a shell's background job) stays so.
    """
    last = -ENDING

    def interrupt(*_: Any) -> None:
        nonlocal last
        if time.monotonic() - last >= ENDING:
            last = time.monotonic()
            raise KeyboardInterrupt

    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, interrupt)

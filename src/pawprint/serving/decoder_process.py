"""A process that decodes one picture after the other, and that the kernel ends where one takes too much.

    python -m pawprint.serving.decoder_process FD       # decoder.py starts it

It reads two messages for each picture from the pipe FD, `HEAD` and the bytes, and writes one: `DONE` and the packed
picture, or `BAD` and a problem as JSON. It imports no metrics: their files are those of the service's own processes.
"""

import json
import os
import signal
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from pawprint import image
from pawprint.image import BadImage
from pawprint.serving import structure

HEAD = struct.Struct("<dQQiiB")  # seconds of a core, bytes of memory, pixels at most, quality, size, index in FITS
FITS: tuple[image.Fit, ...] = ("squash", "letterbox", "crop")
DONE, BAD = b"\0", b"\1"
_SLACK = 96 * 2**20  # bytes that decoders need beside the picture
_NICE = 5  # JPEGs that a thread decodes come first
UNREADABLE = "the photograph cannot be read; it is damaged or very unusual"
_TOO_LARGE = "the photograph takes more memory to decode than it may"


def serve(pipe: Connection) -> None:
    """The process: one picture after the other, until the pipe is closed."""
    import resource  # not on Windows, where this module can be imported and the process not run

    for ignored in (signal.SIGINT, signal.SIGTERM):  # it ends with the service, when what was accepted is decoded
        signal.signal(ignored, signal.SIG_IGN)
    image.load(image.encode(np.zeros((8, 8, 3), np.uint8)))  # what libraries load at their first use
    used = 0
    if sys.platform == "linux":
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(EOFError, BrokenPipeError):  # the service has ended, perhaps before this process was ready
        pipe.send_bytes(DONE)
        os.nice(_NICE)  # from here on: the start is awaited
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libpng and libtiff write a line about every oddity
        while True:
            _answer(pipe, used)


def _answer(pipe: Connection, used: int) -> None:
    """One picture; nothing of it is held while the next is awaited. EOFError where the pipe is closed."""
    import resource

    seconds, memory, max_pixels, quality, size, fit = HEAD.unpack(pipe.recv_bytes())
    data = pipe.recv_bytes()
    if used:
        resource.setrlimit(resource.RLIMIT_AS, (used + memory + _SLACK, resource.RLIM_INFINITY))
    signal.setitimer(signal.ITIMER_PROF, seconds)  # at its end the kernel ends the process
    reply = _reply(partial(_pack, data, FITS[fit], quality, max_pixels, size))
    signal.setitimer(signal.ITIMER_PROF, 0)
    pipe.send_bytes(reply)


def _pack(data: bytes, fit: image.Fit, quality: int, max_pixels: int, size: int) -> bytes:
    structure.check(data)
    return image.pack(data, fit, quality, max_pixels, size)


def _reply(work: Callable[[], bytes]) -> bytes:
    try:
        return DONE + work()
    except BadImage as error:
        problem = {"reason": error.reason, "message": str(error)}
    except MemoryError:
        problem = {"reason": "too_large", "message": _TOO_LARGE}
    except Exception:  # whatever hostile bytes lead a decoder to
        problem = {"reason": "unreadable", "message": UNREADABLE}
    return BAD + json.dumps(problem).encode()


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))

"""The error that a person can cause and mend."""

import re

# in messages of the system, SQLite and libraries that raise errors of their own
DISK_FULL = re.compile("No space left on device|database or disk is full|Disk quota exceeded", re.IGNORECASE)


class PawprintError(Exception):
    """Something a person can put right.

    The message names the file or field, says what is wrong with it and what to do, in one or two sentences.
    The command line and the flows print it without a traceback (unless PAWPRINT_DEBUG=1) and exit with 1.
    """


class DivergedError(PawprintError):
    """The loss of a training is not a number."""


class Stopped(KeyboardInterrupt):
    """A signal requested a stop, and what was done until then is kept; the message says how to go on."""

"""pawprint: from a photograph to an answer and back.

Importing it turns the telemetry of every library off (see telemetry.py), so import it first.
"""

from pawprint import telemetry as telemetry

__version__ = "0.1.0"

"""Where training reports: the flow hands it a logger, so that it need not know MLflow."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol


class RunLogger(Protocol):
    """One run's record. The tracking room has the real one."""

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Numbers of this step (an epoch, from 1), or of the run where there is no step."""

    def params(self, values: Mapping[str, Any]) -> None:
        """What the run was given."""

    def artifact(self, path: Path, folder: str = "") -> None:
        """A file to keep with the run."""


class NullLogger:
    """The logger of a process that has nothing to report."""

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Nothing."""

    def params(self, values: Mapping[str, Any]) -> None:
        """Nothing."""

    def artifact(self, path: Path, folder: str = "") -> None:
        """Nothing."""

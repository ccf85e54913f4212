"""Which photographs are bad, by name and reason."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Bad:
    """A photograph that is left out, and why."""

    path: Path
    reason: str  # short code: empty, not_an_image, truncated, too_large, copy
    message: str

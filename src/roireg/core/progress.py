"""Progress events: algorithms announce stages, whoever listens draws them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Progress", "ProgressEvent", "silent"]


@dataclass(frozen=True)
class ProgressEvent:
    """One step of one stage.

    Attributes
    ----------
    stage : what is being done, in words a user understands ("matching regions").
    fraction : how much of the stage is done, 0..1.
    detail : a short value worth showing, such as the current loss; may be empty.
    notice : the detail is for people who see no progress, too, such as the time that a stage will take.
    """

    stage: str
    fraction: float
    detail: str = ""
    notice: bool = False


Progress = Callable[[ProgressEvent], None]


def silent(event: ProgressEvent) -> None:
    """Ignore every event."""

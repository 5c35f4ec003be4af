"""Progress events: algorithms announce stages, and a listener shows them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import accumulate

__all__ = ["Position", "Progress", "ProgressEvent", "silent"]


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


class Position:
    """How much of a run is done, told by its stages.

    Parameters
    ----------
    shares : stages in the order they usually have, and how long they usually take, in any unit; empty when the
        fraction of a stage is that of the run.
    """

    def __init__(self, shares: Mapping[str, float]) -> None:
        total = sum(shares.values())
        starts = accumulate(shares.values(), initial=0.0)
        self.spans = {name: (at / total, shares[name] / total) for name, at in zip(shares, starts, strict=False)}
        self.done = 0.0

    def at(self, event: ProgressEvent) -> float:
        """Return the part of the run that is done after an event, 0..1; it never decreases."""
        start, share = self.spans.get(event.stage, (0.0, 0.0)) if self.spans else (0.0, 1.0)
        self.done = max(self.done, start + share * min(event.fraction, 1.0))
        return self.done

"""Progress of a command: one bar with the remaining time, or lines in a log."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from roireg.core.progress import Position

__all__ = ["Position", "bar", "time_left"]


class _Clock(ProgressColumn):
    """Seconds since the program was started, and how many are left once that can be told."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        super().__init__()
        self.seconds = seconds

    def render(self, task: Task) -> Text:
        now = self.seconds()
        return Text(f"{_time(now)}{time_left(now, task.completed)}")


def time_left(seconds: float, share: float) -> str:
    """Return how long a run will go on, as words to append; nothing before that can be told.

    Parameters
    ----------
    seconds : for which it has run. share : of it that is done, 0..1.
    """
    return f", about {_time(seconds * (1 - share) / share)} left" if 0.1 < share < 1 else ""


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 99.5 else f"{seconds / 60:.0f} min"


@contextmanager
def bar(
    shares: Mapping[str, float], *, seconds: Callable[[], float], notice: Callable[[Any], None], keep: bool
) -> Iterator[Callable[[Any], None]]:
    """Yield a listener for progress events that draws one bar on the terminal.

    Parameters
    ----------
    shares : see `Position`.
    seconds : says how long the program has run.
    notice : prints what an event wants everybody to know.
    keep : leave the bar there at the end.
    """
    position = Position(shares)
    columns = (
        BarColumn(bar_width=28),
        TextColumn("{task.percentage:>3.0f}%"),
        _Clock(seconds),
        TextColumn("{task.description}  [dim]{task.fields[detail]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=not keep) as bars:
        task = bars.add_task("", total=1.0, detail="")

        def listen(event: Any) -> None:
            if event.notice:
                notice(event)
            else:
                bars.update(task, completed=position.at(event), description=event.stage, detail=event.detail)

        yield listen

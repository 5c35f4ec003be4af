"""Standard output and error, which may be closed, full, or no longer read."""

from __future__ import annotations

import io
import os
import sys

from rich.console import Console

__all__ = ["Terminal", "open_streams", "silence"]


class Terminal(Console):
    """A console that says when its stream is no longer read, instead of ending the program."""

    def on_broken_pipe(self) -> None:
        raise


def open_streams() -> None:
    """Open the standard streams that are closed, so that nothing printed ends up in another file.

    The first file that is opened takes the number of a closed stream, and what a library says of an error would go
    into that file.
    """
    number = 0
    while number <= 2:
        number = os.open(os.devnull, os.O_RDWR)
    os.close(number)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that knows ASCII alone shows "?" for "²" instead of ending the program.
            stream.reconfigure(errors="replace")


def silence(stream: object) -> None:
    """Discard what is left in a stream that cannot be written, so that the interpreter can end."""
    if stream in (sys.__stdout__, sys.__stderr__) and isinstance(stream, io.TextIOWrapper):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)

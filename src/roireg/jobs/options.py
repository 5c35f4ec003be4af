"""Options that several jobs share. An option is declared once: name, help, type and job field are one annotation.

`typer` reads these annotations when the command line is built from the fields of a job; jobs read the marks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from roireg.core.errors import InputError

__all__ = [
    "ASIDE",
    "CARRIED",
    "STARTED",
    "STEERED",
    "Device",
    "FixedLabels",
    "FixedPoints",
    "FixedImage",
    "Frame",
    "Frames",
    "MovingImage",
    "MovingLabels",
    "MovingPoints",
    "NetworkOptions",
    "OutFolder",
    "Resume",
    "Seed",
    "Side",
    "Unit",
    "Words",
    "option",
    "parse_frames",
    "parse_numbers",
    "words_or_file",
]

ASIDE = "aside"
"""Mark of a field that has no part in what is computed, such as where the result goes."""

CARRIED = "Carried along and scored"
NETWORK = "Network"
STARTED = "Regions and start"
STEERED = "Steering"

Side = Literal["fixed", "moving"]
Unit = Literal["px", "mm"]


@dataclass(frozen=True)
class Words:
    """Mark of a field that takes one of some words, or the path of a file."""

    words: tuple[str, ...]


def option(*names: str, help: str, panel: str | None = None, **more: Any) -> Any:
    """Return what `typer` needs to know of an option."""
    return typer.Option(*names, help=help, rich_help_panel=panel, **more)


def words_or_file(words: tuple[str, ...], *, help: str, panel: str | None = None) -> Any:
    """Return an option that completes `words`."""

    def complete(incomplete: str) -> list[str]:
        return [word for word in words if word.startswith(incomplete)]

    return option(help=help, panel=panel, metavar=f"[{'|'.join(words)}|FILE]", autocompletion=complete)


# An image is given in its place or by name.
FixedImage = Annotated[
    Path,
    typer.Argument(help="The image that stays: a file, or a folder with a DICOM series."),
    typer.Option("--fixed", "-f", help="The same by name."),
]
MovingImage = Annotated[
    Path,
    typer.Argument(help="The image that is brought onto it."),
    typer.Option("--moving", "-m", help="The same by name."),
]
OutFolder = Annotated[Path, typer.Option("--out", "-o", help="Result folder."), ASIDE]
Resume = Annotated[
    bool, typer.Option("--resume", help="Keep a result of the same inputs, options and version that is there."), ASIDE
]

Frame = Annotated[int | None, typer.Option(min=0, help="Which volume of a 4D file, from 0.")]
Frames = Annotated[
    str | None,
    typer.Option(metavar="N[,M]", help="Which volume of 4D files, from 0: N for both, or FIXED,MOVING."),
]
Seed = Annotated[int, typer.Option(min=0, help="Equal seeds give equal results.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]

FixedLabels = Annotated[Path | None, option(help="Label map of the fixed image.", panel=CARRIED)]
MovingLabels = Annotated[Path | None, option(help="Label map of the moving image.", panel=CARRIED)]
FixedPoints = Annotated[Path | None, option(help="Points of the fixed image: .csv, .mrk.json, .fcsv.", panel=CARRIED)]
MovingPoints = Annotated[
    Path | None, option(help="Points of the moving image, by name or row as the fixed.", panel=CARRIED)
]


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """A network by name or path, and how it is run; see `roireg.pipeline.Config.with_network`."""

    model: Annotated[
        str | None,
        option(metavar="NAME|PATH", help="A network for the regions; see `roireg models list`.", panel=NETWORK),
    ] = None
    profile: Annotated[
        Literal["fast", "balanced", "full"] | None,
        option(help="How much time it takes.", panel=NETWORK, show_default="balanced"),
    ] = None
    window: Annotated[
        str | None,
        option(
            metavar="NAME", help="CT window it is shown: lung, liver, bone, ...; else percentiles.", panel=NETWORK
        ),
    ] = None
    cache: Annotated[
        Path | None, option(help="Folder that keeps encoded images between runs.", panel=NETWORK), ASIDE
    ] = None

    def check_network(self) -> None:
        """Refuse options of a network where none is named."""
        for name, value in (("--profile", self.profile), ("--window", self.window), ("--cache", self.cache)):
            if value is not None and self.model is None:
                raise InputError(f"{name} is for a network, found {value} without --model; name the network too")


def parse_frames(text: str | None) -> tuple[int | None, int | None]:
    """Turn ``N`` (both images) or ``FIXED,MOVING`` into two numbers; None where nothing is said.

    Raises
    ------
    InputError
        When it is neither.
    """
    if text is None:
        return None, None
    parts = [p.strip() for p in text.split(",")]
    if len(parts) not in (1, 2) or not all(p.isascii() and p.isdigit() and len(p) < 10 for p in parts):
        raise InputError(f"--frame is a number from 0, or two as FIXED,MOVING, found {text!r}")
    return int(parts[0]), int(parts[-1])


def parse_numbers(name: str, text: str, counts: Sequence[int]) -> list[float]:
    """Turn ``1.5,2,3`` into numbers, of which there must be one of `counts`.

    Raises
    ------
    InputError
        When there are others or one is not finite, naming the option.
    """
    try:
        numbers = [float(p) for p in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in counts:
        wanted = " or ".join(map(str, counts))
        raise InputError(f"{name} takes {wanted} numbers separated by commas, found {text!r}")
    if not all(number - number == 0 for number in numbers):
        raise InputError(f"{name} {text}: a coordinate is no finite number; give numbers")
    return numbers

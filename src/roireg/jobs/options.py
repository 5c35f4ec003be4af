"""Options that several jobs share. An option is declared once: name, help, type and job field are one annotation.

`typer` reads these annotations when the command line is built from the fields of a job; jobs read the marks.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from roireg.core.errors import InputError
from roireg.core.words import ProfileName

__all__ = [
    "ASIDE",
    "CARRIED",
    "Channel",
    "STARTED",
    "STEERED",
    "Device",
    "FixedLabels",
    "FixedPoints",
    "FixedImage",
    "Frame",
    "Frames",
    "Level",
    "MaxMemory",
    "MovingImage",
    "MovingLabels",
    "MovingPoints",
    "NetworkOptions",
    "OutFolder",
    "Page",
    "PicturesOptions",
    "Resume",
    "Seed",
    "Strict",
    "Words",
    "option",
    "parse_frames",
    "parse_numbers",
    "parse_picture",
    "parse_size",
    "words_or_file",
]

ASIDE = "aside"
"""Mark of a field that has no part in what is computed, such as where the result goes."""

CARRIED = "Carried along and scored"
NETWORK = "Network"
STARTED = "Regions and start"
STEERED = "Steering"


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
Strict = Annotated[
    bool, typer.Option("--strict", help="Exit code 3 also when the verdict is uncertain; for scripts."), ASIDE
]
MaxMemory = Annotated[
    str | None,
    typer.Option(metavar="SIZE", help="Most memory to use, such as 4G or 800M; a run that needs more is refused."),
    ASIDE,
]
Seed = Annotated[int, typer.Option(min=0, help="Equal seeds give equal results.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]

FixedLabels = Annotated[Path | None, option(help="Label map of the fixed image.", panel=CARRIED)]
MovingLabels = Annotated[Path | None, option(help="Label map of the moving image.", panel=CARRIED)]
FixedPoints = Annotated[Path | None, option(help="Points of the fixed image: .csv, .mrk.json, .fcsv.", panel=CARRIED)]
MovingPoints = Annotated[
    Path | None, option(help="Points of the moving image, by name or row as the fixed.", panel=CARRIED)
]


Level = Annotated[int | None, typer.Option(min=0, help="Level of a pyramid (TIFF), 0 is full resolution.")]
Page = Annotated[
    str | None, typer.Option(metavar="N|all", help="Which of several pictures (TIFF), from 0; all are slices.")
]
Channel = Annotated[str | None, typer.Option(metavar="N|NAME", help="One channel (TIFF), from 0 or by its name.")]


@dataclass(frozen=True, kw_only=True)
class PicturesOptions:
    """Which pictures of files that hold several: one value for both images, or FIXED,MOVING."""

    frame: Frames = None
    level: Annotated[str | None, option(metavar="N[,M]", help="Levels of pyramids (TIFF), 0 is full resolution.")] = (
        None
    )
    page: Annotated[
        str | None, option(metavar="N[,M]", help="Which of several pictures (TIFF), from 0; all stacks them.")
    ] = None
    channel: Annotated[
        str | None, option(metavar="N[,M]", help="One channel of each (TIFF), from 0 or by its name.")
    ] = None

    @property
    def frames(self) -> tuple[int | None, int | None]:
        """Which volume of the fixed and of the moving files to take."""
        return parse_frames(self.frame)

    @property
    def pictures(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """What `read_image` is told of the fixed and of the moving image.

        Raises
        ------
        InputError
            When an option is malformed.
        """
        texts = {name: _both(name, getattr(self, name)) for name in ("level", "page", "channel")}
        sides = [
            parse_picture(frame, **{name: both[i] for name, both in texts.items()})
            for i, frame in enumerate(self.frames)
        ]
        return sides[0], sides[1]


def parse_picture(
    frame: int | None, level: str | int | None, page: str | None, channel: str | None
) -> dict[str, Any]:
    """Return what `read_image` is told of which picture to take; numbers may be text.

    Raises
    ------
    InputError
        When a level is no number, or a page neither a number nor "all".
    """
    if level is not None and not str(level).isdecimal():
        raise InputError(f"--level is a number from 0, or two as FIXED,MOVING, found {level!r}")
    if page is not None and page != "all" and not page.isdecimal():
        raise InputError(f"--page is a number from 0 or all, or two as FIXED,MOVING, found {page!r}")
    return {
        "frame": frame,
        "level": None if level is None else int(level),
        "page": int(page) if page is not None and page.isdecimal() else page,
        "channel": int(channel) if channel is not None and channel.isdecimal() else channel,
    }


def _both(name: str, text: str | None) -> tuple[str | None, str | None]:
    if text is None:
        return None, None
    parts = [p.strip() for p in text.split(",")]
    if len(parts) > 2 or not all(parts):
        raise InputError(f"--{name} takes one value, or two as FIXED,MOVING, found {text!r}")
    return parts[0], parts[-1]


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """A network by name or path, and how it is run; see `roireg.pipeline.Config.with_network`."""

    model: Annotated[
        str | None,
        option(metavar="NAME|PATH", help="A network for the regions; see `roireg models list`.", panel=NETWORK),
    ] = None
    profile: Annotated[
        ProfileName | None,
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


def parse_size(text: str) -> int:
    """Turn ``4G``, ``800M`` or ``1.5GB`` into bytes.

    Raises
    ------
    InputError
        When it is neither.
    """
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)\s*([KMGT])i?B?", text.strip(), re.ASCII | re.IGNORECASE)
    if match is None or float(match[1]) == 0:
        raise InputError(f"--max-memory is a size such as 4G or 800M, found {text!r}")
    return int(float(match[1]) * 1000 ** ("KMGT".index(match[2].upper()) + 1))


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
        lengths = " or ".join(map(str, counts))
        raise InputError(f"{name} takes {lengths} numbers separated by commas, found {text!r}")
    if not all(number - number == 0 for number in numbers):
        raise InputError(f"{name} {text}: a coordinate is no finite number; give numbers")
    return numbers

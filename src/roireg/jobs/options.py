"""Options that several jobs share. An option is declared once: name, help, type and job field are one annotation.

`typer` reads these annotations when the command line is built from the fields of a job; jobs read the marks.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from roireg.core.errors import InputError
from roireg.core.words import MODELS, PresetName, ProfileName, Unit
from roireg.jobs.names import FEATURE_NAME, MODEL_NAME, completing

__all__ = [
    "ASIDE",
    "CarriedOptions",
    "ClassOptions",
    "STARTED",
    "STEERED",
    "Device",
    "Features",
    "FixedImage",
    "MaxMemory",
    "MovingImage",
    "NetworkOptions",
    "OutFile",
    "OutFolder",
    "PictureOptions",
    "PicturesOptions",
    "PointOptions",
    "Replace",
    "Resume",
    "Seed",
    "SettingsOptions",
    "Strict",
    "Words",
    "is_index",
    "option",
    "parse_fill",
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


several = partial(option, panel="Files that hold several pictures")


def words_or_file(words: tuple[str, ...], *, help: str, panel: str | None = None) -> Any:
    """Return an option that completes `words`."""
    return option(help=help, panel=panel, metavar=f"[{'|'.join(words)}|FILE]", autocompletion=completing(words))


# An image is given in its place or by name.
FixedImage = Annotated[
    Path,
    typer.Argument(help="The image that stays: a file, or a folder with a DICOM series."),
    typer.Option("--fixed", "-f", help="FIXED, by name instead of by place."),
]
MovingImage = Annotated[
    Path,
    typer.Argument(help="The image that is brought onto it."),
    typer.Option("--moving", "-m", help="MOVING, by name instead of by place."),
]
OutFile = Annotated[Path, typer.Option("--out", "-o", help="File to write."), ASIDE]
OutFolder = Annotated[Path, typer.Option("--out", "-o", help="Result folder."), ASIDE]
Replace = Annotated[
    bool, typer.Option("--replace", help="Replace OUT even if roireg did not write it, or if it was changed."), ASIDE
]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="Keep the result that is there if inputs, options and version are the same."),
    ASIDE,
]

Strict = Annotated[
    bool, typer.Option("--strict", help="Exit with code 3 when the verdict is uncertain, too; for scripts."), ASIDE
]
MaxMemory = Annotated[
    str | None,
    typer.Option(metavar="SIZE", help="Memory limit, such as 4G or 800M; a run that needs more is refused."),
    ASIDE,
]
Seed = Annotated[int, typer.Option(min=0, metavar="N", help="Equal seeds give equal results.")]
Features = Annotated[
    str | None,
    option(
        help="Features that regions are compared by; default: the network's, or intensity.",
        panel=NETWORK,
        autocompletion=completing(FEATURE_NAME.names),
    ),
    FEATURE_NAME,
]
Device = Annotated[str, typer.Option(metavar="NAME", help="auto, cpu, cuda, cuda:N or mps.")]


@dataclass(frozen=True, kw_only=True)
class CarriedOptions:
    """Label maps and points of both images, to be moved and scored."""

    fixed_labels: Annotated[Path | None, option(help="Label map of the fixed image.", panel=CARRIED)] = None
    moving_labels: Annotated[Path | None, option(help="Label map of the moving image.", panel=CARRIED)] = None
    fixed_points: Annotated[
        Path | None, option(help="Points of the fixed image: .csv, .mrk.json, .fcsv.", panel=CARRIED)
    ] = None
    moving_points: Annotated[
        Path | None, option(help="Points of the moving image; partners share a name, or a row.", panel=CARRIED)
    ] = None


@dataclass(frozen=True, kw_only=True)
class PictureOptions:
    """Which picture of a file that holds several."""

    frame: Annotated[int | None, several(min=0, help="Which volume of a 4D file, from 0.")] = None
    level: Annotated[int | None, several(min=0, help="Level of a pyramid (TIFF), 0 is full resolution.")] = None
    page: Annotated[
        str | None,
        several(metavar="N|all", help="Which of several pictures (TIFF), from 0; all: a stack of slices."),
    ] = None
    channel: Annotated[str | None, several(metavar="N|NAME", help="One channel (TIFF), from 0 or by its name.")] = (
        None
    )

    @property
    def picture(self) -> dict[str, Any]:
        """Arguments of `read_image` that choose a picture.

        Raises
        ------
        InputError
            When an option is malformed.
        """
        return parse_picture(self.frame, self.level, self.page, self.channel)


@dataclass(frozen=True, kw_only=True)
class PicturesOptions:
    """Which pictures of files that hold several: one value for both images, or FIXED,MOVING."""

    frame: Annotated[
        str | None,
        several(metavar="N[,M]", help="Which volume of 4D files, from 0: N for both, or FIXED,MOVING."),
    ] = None
    level: Annotated[
        str | None, several(metavar="N[,M]", help="Levels of pyramids (TIFF), 0 is full resolution.")
    ] = None
    page: Annotated[
        str | None,
        several(metavar="N[,M]", help="Which of several pictures (TIFF), from 0; all: a stack of slices."),
    ] = None
    channel: Annotated[
        str | None, several(metavar="N[,M]", help="One channel of each (TIFF), from 0 or by its name.")
    ] = None

    @property
    def pictures(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Arguments of `read_image` for the fixed and for the moving image.

        Raises
        ------
        InputError
            When an option is malformed.
        """
        names = ("frame", "level", "page", "channel")
        fixed, moving = zip(*(_both(name, getattr(self, name)) for name in names), strict=True)
        return parse_picture(*fixed), parse_picture(*moving)

    @property
    def frames(self) -> tuple[int | None, int | None]:
        """Which volume of the fixed and of the moving files to take."""
        return self.pictures[0]["frame"], self.pictures[1]["frame"]


def parse_picture(
    frame: str | int | None, level: str | int | None, page: str | None, channel: str | None
) -> dict[str, Any]:
    """Return the arguments of `read_image` that choose a picture; numbers may be text.

    Raises
    ------
    InputError
        When a frame or level is no number, or a page neither a number nor "all".
    """
    numbers = {
        name: int(value) if value is not None and is_index(str(value)) else value
        for name, value in (("frame", frame), ("level", level), ("page", page), ("channel", channel))
    }
    for name in ("frame", "level", "page"):
        if isinstance(numbers[name], str) and (name, numbers[name]) != ("page", "all"):
            words = "a number from 0 or all" if name == "page" else "a number from 0"
            raise InputError(f"--{name} is {words}, or two as FIXED,MOVING, found {numbers[name]!r}")
    return numbers


def is_index(text: str) -> bool:
    """Tell whether a text is a number from 0 in plain digits, of no more than any file needs."""
    return text.isascii() and text.isdigit() and len(text) < 10


def _both(name: str, text: str | None) -> tuple[str | None, str | None]:
    if text is None:
        return None, None
    parts = [p.strip() for p in text.split(",")]
    if len(parts) > 2 or not all(parts):
        raise InputError(f"--{name} takes one value, or two as FIXED,MOVING, found {text!r}")
    return parts[0], parts[-1]


@dataclass(frozen=True, kw_only=True)
class PointOptions:
    """Points, with their labels, and a box, which make one prompt."""

    point: Annotated[
        list[str] | None, option(metavar="X,Y[,Z]", help="A point; several, with their labels, make one prompt.")
    ] = None
    label: Annotated[
        list[int] | None, option(min=0, max=1, help="Per --point: 1 inside the region (default), 0 outside.")
    ] = None
    box: Annotated[
        str | None, option(metavar="X0,Y0[,Z0],X1,Y1[,Z1]", help="Two opposite corners around the region.")
    ] = None
    unit: Annotated[
        Unit | None, option(help="Of --point and --box: px (voxel index from 0) or mm (LPS). px for PNG, JPEG, TIFF.")
    ] = None

    def check_points(self) -> None:
        """Refuse what makes no prompt in any image.

        Raises
        ------
        InputError
            When a text holds no numbers, or labels and points do not fit together.
        """
        for text in self.point or ():
            parse_numbers("--point", text, (2, 3))
        if self.box is not None:
            parse_numbers("--box", self.box, (4, 6))
        count = len(self.point or ())
        if self.unit is not None and not count and self.box is None:
            raise InputError(
                f"--unit is of --point and --box, found {self.unit} with neither of them; points of a file are mm "
                "(LPS), or px in 2D"
            )
        if self.label and not count:
            raise InputError("--label says whether a --point is inside (1) or outside (0); give points too")
        if self.label and len(self.label) != count:
            raise InputError(f"--label is given once per --point, found {count} points and {len(self.label)} labels")
        if self.label and self.box is None and not any(self.label):
            raise InputError(
                f"--label: all {count} points are outside the region (label 0); give at least one point inside it "
                "(label 1), or a --box around it"
            )


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """A network by name or path, and how it is run; see `roireg.pipeline.Config.with_network`."""

    model: Annotated[
        str | None,
        option(
            metavar="NAME|PATH",
            help="A network for the regions; see `roireg models list`.",
            panel=NETWORK,
            autocompletion=completing(MODELS),
        ),
        MODEL_NAME,
    ] = None
    profile: Annotated[
        ProfileName | None,
        option(help="Speed against detail of the network.", panel=NETWORK, show_default="balanced"),
    ] = None
    window: Annotated[
        str | None,
        option(
            metavar="NAME",
            help="CT window the network sees: lung, liver, bone, ...; default: percentiles.",
            panel=NETWORK,
        ),
    ] = None
    cache: Annotated[
        Path | None, option(help="Folder that keeps encoded images between runs.", panel=NETWORK), ASIDE
    ] = None

    def network(self) -> str | None:
        """Return the name or path of the network that has a part in the result."""
        return self.model

    def check_network(self) -> None:
        """Refuse options of a network where none is named."""
        for name, value in (("--profile", self.profile), ("--window", self.window), ("--cache", self.cache)):
            if value is not None and self.model is None:
                raise InputError(f"{name} is for a network, found {value} without --model; name the network too")


@dataclass(frozen=True, kw_only=True)
class ClassOptions(NetworkOptions):
    """Where regions come from: a network that is prompted, or a segmenter that names classes."""

    segmenter: Annotated[
        str | None,
        option(
            metavar="NAME|PATH",
            help="A network whose classes are the regions, such as meshnet-30.",
            panel=NETWORK,
            autocompletion=completing(MODELS),
        ),
        MODEL_NAME,
    ] = None
    segmenter_command: Annotated[
        str | None,
        option(metavar="COMMAND", help='A program that writes a label map: "prog {image} {labels}".', panel=NETWORK),
    ] = None

    def network(self) -> str | None:
        return self.segmenter or self.model

    def check_network(self) -> None:
        super().check_network()
        ways = (
            ("--model", self.model),
            ("--segmenter", self.segmenter),
            ("--segmenter-command", self.segmenter_command),
        )
        named = [name for name, value in ways if value is not None]
        if len(named) > 1:
            raise InputError(f"{' and '.join(named)} both say where regions come from; give one of them")
        if self.segmenter_command is not None:
            from roireg.io.programs import split_command

            split_command(self.segmenter_command)


@dataclass(frozen=True, kw_only=True)
class SettingsOptions(ClassOptions):
    """Settings by the name of a preset or from a file, and what options change of them."""

    preset: Annotated[
        PresetName,
        option(help="Named settings; `roireg info --presets` prints all of them."),
    ] = "default"
    config: Annotated[Path | None, option(help="YAML file of settings; replaces the preset.")] = None
    features: Features = None

    def network(self) -> str | None:
        named = super().network()
        if named is not None or self.config is None:
            return named
        from roireg.pipeline import Config

        settings = Config.load(self.config)
        return settings.classes.segmenter or settings.network.model

    def check_network(self) -> None:
        super().check_network()
        if self.config is not None:
            from roireg.io.documents import read_settings

            read_settings(self.config)

    def stage_weights(self) -> list[str]:
        """Return the files of trained networks that stages of the settings use."""
        if self.config is None:
            return []
        from roireg.pipeline import Config

        named = (getattr(stage, "weights", None) for stage in Config.load(self.config).stages)
        return [str(weights) for weights in named if weights is not None]


def parse_size(text: str, *, name: str = "--max-memory") -> int:
    """Turn ``4G``, ``800M`` or ``1.5GB`` into bytes; `name` is the option that messages name.

    Raises
    ------
    InputError
        When it is neither.
    """
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)\s*([KMGT])i?B?", text.strip(), re.ASCII | re.IGNORECASE)
    if match is None or float(match[1]) == 0:
        raise InputError(f"{name} is a size such as 4G or 800M, found {text!r}")
    return int(float(match[1]) * 1000 ** ("KMGT".index(match[2].upper()) + 1))


def parse_fill(text: str) -> float | None:
    """Return the value outside an image; None for "auto", where it is found from the image.

    Raises
    ------
    InputError
        When it is neither "auto" nor a number.
    """
    if text == "auto":
        return None
    try:
        return float(text)
    except ValueError:
        raise InputError(f"--fill is auto or a number, found {text!r}") from None


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

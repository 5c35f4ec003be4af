"""Options with the same meaning in several commands, and the long list of `register`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "ConfigFile",
    "Device",
    "FixedLabels",
    "FixedMask",
    "FixedPoints",
    "FixedRois",
    "FrameOption",
    "FramesOption",
    "Init",
    "MovingLabels",
    "MovingMask",
    "MovingPoints",
    "MovingRois",
    "Only",
    "PairsPath",
    "Preset",
    "Seed",
]

CARRIED = "Carried along and scored"
STARTED = "Regions and start"


def _file(text: str, panel: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(help=text, rich_help_panel=panel)
    return option


FramesOption = Annotated[
    str | None,
    typer.Option("--frame", metavar="N[,M]", help="Which volume of 4D files, from 0: N for both, or FIXED,MOVING."),
]
FrameOption = Annotated[int | None, typer.Option("--frame", min=0, help="Which volume of a 4D file, from 0.")]
Seed = Annotated[int, typer.Option(min=0, help="Equal seeds give equal results.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]

Preset = Annotated[
    str, typer.Option(help="Named settings: default (regions, then dense features), samreg (regions only).")
]
ConfigFile = Annotated[Path | None, typer.Option(help="YAML file of settings; replaces the preset.")]
Only = Annotated[
    str | None,
    typer.Option(metavar="NAMES", help="Write only some of transform, inverse, warped, pairs, result, report."),
]
Init = Annotated[str, _file("auto, identity, centers, or a transform FILE to start from.", STARTED)]
PairsPath = Annotated[Path | None, _file("Folder or .zip of ROI pairs to start from.", STARTED)]
FixedRois = Annotated[Path | None, _file("Label map used as the regions of the fixed image.", STARTED)]
MovingRois = Annotated[Path | None, _file("The same for the moving image; equal ids correspond.", STARTED)]
FixedMask = Annotated[Path | None, _file("Where the fixed image counts (not 0).", STARTED)]
MovingMask = Annotated[Path | None, _file("Where the moving image counts (not 0).", STARTED)]

FixedLabels = Annotated[Path | None, _file("Label map of the fixed image.", CARRIED)]
MovingLabels = Annotated[Path | None, _file("Label map of the moving image.", CARRIED)]
FixedPoints = Annotated[Path | None, _file("Points of the fixed image: .csv, .mrk.json, .fcsv.", CARRIED)]
MovingPoints = Annotated[Path | None, _file("Points of the moving image, row by row as the fixed.", CARRIED)]

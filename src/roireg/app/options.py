"""Options with the same meaning in several commands, and the long list of `register`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "CacheFolder",
    "ConfigFile",
    "Device",
    "Features",
    "FixedLabels",
    "FixedMask",
    "FixedPoints",
    "FixedRois",
    "FrameOption",
    "FramesOption",
    "Init",
    "Model",
    "MovingLabels",
    "MovingMask",
    "MovingPoints",
    "MovingRois",
    "Only",
    "PairsOnly",
    "PairsPath",
    "Preset",
    "Profile",
    "PromptPoints",
    "PromptSide",
    "PromptUnit",
    "RoiWeight",
    "Seed",
    "Window",
]

CARRIED = "Carried along and scored"
NETWORK = "Network"
STARTED = "Regions and start"
STEERED = "Steering"


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
    str,
    typer.Option(help="Named settings: default (regions, then dense features), samreg, promptreg (regions only)."),
]
ConfigFile = Annotated[Path | None, typer.Option(help="YAML file of settings; replaces the preset.")]
Only = Annotated[
    str | None,
    typer.Option(metavar="NAMES", help="Write only some of transform, inverse, warped, pairs, result, report."),
]
Init = Annotated[str, _file("auto, identity, centers, or a transform FILE to start from.", STARTED)]
PairsPath = Annotated[Path | None, _file("Folder or .zip of ROI pairs to start from.", STARTED)]
PairsOnly = Annotated[
    bool, typer.Option("--pairs-only", help="With --pairs: look for no others.", rich_help_panel=STARTED)
]
FixedRois = Annotated[Path | None, _file("Label map used as the regions of the fixed image.", STARTED)]
MovingRois = Annotated[Path | None, _file("The same for the moving image; equal ids correspond.", STARTED)]
FixedMask = Annotated[Path | None, _file("Where the fixed image counts (not 0).", STARTED)]
MovingMask = Annotated[Path | None, _file("Where the moving image counts (not 0).", STARTED)]

FixedLabels = Annotated[Path | None, _file("Label map of the fixed image.", CARRIED)]
MovingLabels = Annotated[Path | None, _file("Label map of the moving image.", CARRIED)]
FixedPoints = Annotated[Path | None, _file("Points of the fixed image: .csv, .mrk.json, .fcsv.", CARRIED)]
MovingPoints = Annotated[Path | None, _file("Points of the moving image, row by row as the fixed.", CARRIED)]

Model = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|PATH", help="A network for the regions; see `roireg models list`.", rich_help_panel=NETWORK
    ),
]
Profile = Annotated[
    str | None,
    typer.Option(help="fast, balanced (default) or full: how much time it takes.", rich_help_panel=NETWORK),
]
Window = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="CT window it is shown: lung, liver, bone, ...; else percentiles.",
        rich_help_panel=NETWORK,
    ),
]
CacheFolder = Annotated[
    Path | None,
    typer.Option("--cache", help="Folder that keeps encoded images between runs.", rich_help_panel=NETWORK),
]
Features = Annotated[
    str | None,
    typer.Option(help="What regions are compared by; that of the network, else intensity.", rich_help_panel=NETWORK),
]

PromptPoints = Annotated[
    list[str] | None,
    typer.Option(
        "--prompt",
        metavar="X,Y[,Z]",
        help="A point in a region that must fit; repeatable.",
        rich_help_panel=STEERED,
    ),
]
PromptUnit = Annotated[
    str | None,
    typer.Option(
        help="Of --prompt: px (voxel index from 0) or mm (LPS); px for PNG, JPEG, TIFF.", rich_help_panel=STEERED
    ),
]
PromptSide = Annotated[
    str | None,
    typer.Option(
        "--prompt-in",
        help="The image of --prompt: fixed or moving.",
        show_default="fixed",
        rich_help_panel=STEERED,
    ),
]
RoiWeight = Annotated[
    float | None,
    typer.Option(
        metavar="W", help="Weight of prompts and accepted pairs in the fit, else of all.", rich_help_panel=STEERED
    ),
]

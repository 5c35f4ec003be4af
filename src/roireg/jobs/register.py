"""``register``: two images in, the result folder out."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from roireg.core.errors import InputError
from roireg.core.progress import Progress
from roireg.core.words import INIT_WORDS, OUTPUTS, SearchRange, Side, TransformType, Unit
from roireg.jobs.job import FolderJob, Work
from roireg.jobs.options import (
    STARTED,
    STEERED,
    CarriedOptions,
    Device,
    FixedImage,
    MaxMemory,
    MovingImage,
    PicturesOptions,
    Seed,
    SettingsOptions,
    Strict,
    Words,
    option,
    parse_fill,
    parse_numbers,
    parse_size,
    words_or_file,
)

__all__ = ["RegisterJob", "RegisterSettings"]


@dataclass(frozen=True, kw_only=True)
class RegisterSettings(SettingsOptions, PicturesOptions):
    """How two images are registered, whichever they are."""

    fill: Annotated[
        str, option(metavar="auto|NUMBER", help="Value of the warped image where the moving one has no data.")
    ] = "auto"
    max_memory: MaxMemory = None
    device: Device = "auto"
    seed: Seed = 0
    init: Annotated[str, words_or_file(INIT_WORDS, help="Where to start from.", panel=STARTED), Words(INIT_WORDS)] = (
        "auto"
    )
    type: Annotated[
        TransformType | None,
        option(
            help="Kind of transform, from a translation to a deformation.", show_default="deformable", panel=STARTED
        ),
    ] = None
    search: Annotated[
        SearchRange | None,
        option(
            help="Rotations tried in volumes: up to 45 degrees and quarter turns, or all.",
            show_default="near",
            panel=STARTED,
        ),
    ] = None
    roi_weight: Annotated[
        float | None,
        option(
            metavar="W",
            help="Weight of prompts and accepted pairs, or of all pairs if there are none.",
            panel=STEERED,
        ),
    ] = None

    @property
    def fill_value(self) -> float | None:
        """The value outside the moving image; None lets its kind decide.

        Raises
        ------
        InputError
            When it is neither "auto" nor a finite number.
        """
        value = parse_fill(self.fill)
        if value is not None and not math.isfinite(value):
            raise InputError(f"--fill is auto or a finite number, found {self.fill!r}")
        return value

    def check_settings(self) -> None:
        """Refuse settings that are malformed, whatever the images are.

        Raises
        ------
        InputError
            When one is.
        """
        _ = self.pictures, self.fill_value
        if self.max_memory is not None:
            parse_size(self.max_memory)
        self.check_network()


@dataclass(frozen=True, kw_only=True)
class RegisterJob(CarriedOptions, RegisterSettings, FolderJob):
    """Register two images and carry along what belongs to them."""

    names: ClassVar[tuple[str, ...]] = (
        "transform.h5",
        "inverse.h5",
        "warped.*",
        "pairs/pairs.json",
        "pairs/*_rois*",
        "report.html",
        "moved_*",
    )

    fixed: FixedImage
    moving: MovingImage
    only: Annotated[
        str | None,
        option(
            metavar="NAMES", help="Write only some of transform, inverse, warped, pairs, report; result.json always."
        ),
    ] = None
    strict: Strict = False
    pairs: Annotated[Path | None, option(help="Folder or .zip of ROI pairs to start from.", panel=STARTED)] = None
    pairs_only: Annotated[
        bool, option("--pairs-only", help="With --pairs: use these alone, look for no others.", panel=STARTED)
    ] = False
    fixed_rois: Annotated[
        Path | None, option(help="Label map used as the regions of the fixed image.", panel=STARTED)
    ] = None
    moving_rois: Annotated[
        Path | None, option(help="The same for the moving image; equal ids correspond.", panel=STARTED)
    ] = None
    fixed_mask: Annotated[Path | None, option(help="Where the fixed image counts (not 0).", panel=STARTED)] = None
    moving_mask: Annotated[Path | None, option(help="Where the moving image counts (not 0).", panel=STARTED)] = None
    prompt: Annotated[
        list[str] | None,
        option(metavar="X,Y[,Z]", help="A point in a region that must fit; repeatable.", panel=STEERED),
    ] = None
    unit: Annotated[
        Unit | None,
        option(help="Of --prompt: px (voxel index from 0) or mm (LPS); px for PNG, JPEG, TIFF.", panel=STEERED),
    ] = None
    prompt_in: Annotated[Side | None, option(help="The image of --prompt.", show_default="fixed", panel=STEERED)] = (
        None
    )

    @property
    def outputs(self) -> Collection[str]:
        """The outputs that were asked for.

        Raises
        ------
        InputError
            When one is unknown.
        """
        if self.only is None:
            return OUTPUTS
        names = [name.strip() for name in self.only.split(",") if name.strip()]
        unknown = [name for name in names if name not in OUTPUTS]
        if unknown or not names:
            raise InputError(f"--only takes names out of {', '.join(OUTPUTS)}, found {', '.join(unknown) or 'none'}")
        return names

    def check_options(self) -> None:
        _ = self.outputs
        self.check_settings()
        for name, value, partner, present in (
            ("--unit", self.unit, "--prompt", self.prompt),
            ("--prompt-in", self.prompt_in, "--prompt", self.prompt),
            ("--pairs-only", self.pairs_only or None, "--pairs", self.pairs),
        ):
            if value is not None and not present:
                raise InputError(
                    f"{name} says something about {partner}, which is not given; add it or leave {name} out"
                )
        for text in self.prompt or ():
            parse_numbers("--prompt", text, (2, 3))

    def compute(self, progress: Progress) -> Work:
        from roireg.jobs.registering import compute

        return compute(self, progress)

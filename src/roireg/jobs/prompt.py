"""``prompt``: point at something in one image, get its counterpart in the other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from roireg.core.errors import InputError
from roireg.core.progress import Progress
from roireg.core.words import GUIDE_WORDS, PromptPresetName, Side, Unit
from roireg.jobs.job import Job, Work
from roireg.jobs.options import (
    Device,
    FixedImage,
    MovingImage,
    NetworkOptions,
    PicturesOptions,
    Seed,
    Strict,
    Words,
    option,
    parse_numbers,
    words_or_file,
)

__all__ = ["PromptJob", "check_prompt_options"]


@dataclass(frozen=True, kw_only=True)
class PromptJob(NetworkOptions, PicturesOptions, Job):
    """Prompts in one image and their counterparts in the other, as region pairs.

    Points, labels, box and mask make one prompt each; every point of the file `prompts` is one of its own.
    """

    names: ClassVar[tuple[str, ...]] = ("pairs/pairs.json", "pairs/*_rois*", "overview.png", "registration/*")

    fixed: FixedImage
    moving: MovingImage
    point: Annotated[
        list[str] | None, option(metavar="X,Y[,Z]", help="A point; several, with their labels, make one prompt.")
    ] = None
    label: Annotated[
        list[int] | None, option(min=0, max=1, help="Per --point: 1 inside the region (default), 0 outside.")
    ] = None
    box: Annotated[
        str | None, option(metavar="X0,Y0[,Z0],X1,Y1[,Z1]", help="Two opposite corners around the region.")
    ] = None
    mask: Annotated[Path | None, option(help="The region itself (not 0), on the grid of its image.")] = None
    prompts: Annotated[
        Path | None, option(help="Points, each a prompt of its own: .csv, .mrk.json, .fcsv (LPS mm; px in 2D).")
    ] = None
    unit: Annotated[
        Unit | None, option(help="Of --point and --box: px (voxel index from 0) or mm (LPS). px for PNG, JPEG, TIFF.")
    ] = None
    side: Annotated[Side, option("--in", help="The image that is pointed at.")] = "fixed"
    register: Annotated[
        bool, option("--register", help="Also register from the region pairs, into OUT/registration.")
    ] = False
    strict: Strict = False
    guide: Annotated[
        str | None,
        words_or_file(GUIDE_WORDS, help="What says where things lie: auto is a quick registration."),
        Words(GUIDE_WORDS),
    ] = None
    preset: Annotated[PromptPresetName, option(help="How prompts are carried over.")] = "default"
    segmenter: Annotated[str, option(help="What answers prompts.")] = "hierarchy"
    features: Annotated[
        str | None,
        option(help="What regions are compared by; that of the network, else intensity.", panel="Network"),
    ] = None
    device: Device = "auto"
    seed: Seed = 0

    def check_options(self) -> None:
        _ = self.pictures
        if self.model is not None and self.segmenter != "hierarchy":
            raise InputError(
                f"--model and --segmenter both say what answers prompts ({self.model}, {self.segmenter}); give one"
            )
        self.check_network()
        if self.unit is not None and not self.point and self.box is None:
            raise InputError(
                f"--unit is of --point and --box, found {self.unit} with neither of them; the points of --prompts "
                "are mm (LPS), or px in 2D"
            )
        check_prompt_options(self.point, self.label, self.box)
        if not self.point and self.box is None and self.mask is None and self.prompts is None:
            raise InputError("nothing is asked; give --point, --box, --mask or --prompts")

    def compute(self, progress: Progress) -> Work:
        from roireg.jobs.prompting import compute

        return compute(self, progress)


def check_prompt_options(points: list[str] | None, labels: list[int] | None, box: str | None) -> None:
    """Refuse points, labels and boxes that make no prompt in any image.

    Raises
    ------
    InputError
        When a text holds no numbers, or labels and points do not fit together.
    """
    for text in points or ():
        parse_numbers("--point", text, (2, 3))
    if box is not None:
        parse_numbers("--box", box, (4, 6))
    if labels and not points:
        raise InputError("--label says whether a --point is inside (1) or outside (0); give points too")
    if labels and len(labels) != len(points or ()):
        raise InputError(
            f"--label is given once per --point, found {len(points or ())} points and {len(labels)} labels"
        )
    if labels and box is None and not any(labels):
        raise InputError(
            f"--label: all {len(labels)} points are outside the region (label 0); give at least one point inside it "
            "(label 1), or a --box around it"
        )

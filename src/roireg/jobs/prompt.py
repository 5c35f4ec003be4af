"""``prompt``: point at something in one image, get its counterpart in the other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from roireg.core.errors import InputError
from roireg.core.progress import Progress
from roireg.core.words import GUIDE_WORDS, PromptPresetName, Side
from roireg.jobs.job import FolderJob, Work
from roireg.jobs.options import (
    Device,
    Features,
    FixedImage,
    MovingImage,
    NetworkOptions,
    PicturesOptions,
    PointOptions,
    Seed,
    Strict,
    Words,
    option,
    words_or_file,
)

__all__ = ["PromptJob"]


@dataclass(frozen=True, kw_only=True)
class PromptJob(NetworkOptions, PicturesOptions, PointOptions, FolderJob):
    """Prompts in one image and their counterparts in the other, as region pairs.

    Points, labels, box and mask make one prompt each; every point of the file `prompts` is one of its own.
    """

    names: ClassVar[tuple[str, ...]] = ("pairs/pairs.json", "pairs/*_rois*", "overview.png", "registration/*")

    fixed: FixedImage
    moving: MovingImage
    mask: Annotated[Path | None, option(help="The region itself (not 0), on the grid of its image.")] = None
    prompts: Annotated[
        Path | None, option(help="Points, each a prompt of its own: .csv, .mrk.json, .fcsv (LPS mm; px in 2D).")
    ] = None
    side: Annotated[Side, option("--in", help="Image that the prompts are in.")] = "fixed"
    register: Annotated[
        bool, option("--register", help="Also register from the region pairs, into OUT/registration.")
    ] = False
    strict: Strict = False
    guide: Annotated[
        str | None,
        words_or_file(GUIDE_WORDS, help="Where counterparts are expected; auto: a quick registration says."),
        Words(GUIDE_WORDS),
    ] = None
    preset: Annotated[PromptPresetName, option(help="How prompts are carried over.")] = "default"
    segmenter: Annotated[str, option(help="Segmenter that answers prompts.")] = "hierarchy"
    features: Features = None
    device: Device = "auto"
    seed: Seed = 0

    def check_options(self) -> None:
        _ = self.pictures
        if self.model is not None and self.segmenter != "hierarchy":
            raise InputError(
                f"--model and --segmenter both say what answers prompts ({self.model}, {self.segmenter}); give one"
            )
        self.check_network()
        self.check_points()
        if not self.point and self.box is None and self.mask is None and self.prompts is None:
            raise InputError("nothing is asked; give --point, --box, --mask or --prompts")

    def compute(self, progress: Progress) -> Work:
        from roireg.jobs.prompting import compute

        return compute(self, progress)

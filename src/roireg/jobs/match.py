"""``match``: which regions of two images correspond, without a transform."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from roireg.core.errors import InputError
from roireg.core.progress import Progress
from roireg.core.words import INIT_WORDS
from roireg.jobs.job import FolderJob, Work
from roireg.jobs.options import (
    Device,
    FixedImage,
    MovingImage,
    PicturesOptions,
    Seed,
    SettingsOptions,
    Words,
    option,
    words_or_file,
)

__all__ = ["MatchJob"]

PAIRING = "Which pairs"


@dataclass(frozen=True, kw_only=True)
class MatchJob(SettingsOptions, PicturesOptions, FolderJob):
    """Corresponding regions of two images, as region pairs and a picture."""

    names: ClassVar[tuple[str, ...]] = ("pairs/pairs.json", "pairs/*_rois*", "overview.png")

    fixed: FixedImage
    moving: MovingImage
    top: Annotated[
        int | None, option(metavar="K", help="Keep the K best pairs.", panel=PAIRING, show_default="all")
    ] = None
    epsilon: Annotated[
        float | None,
        option(metavar="E", help="Least similarity of a pair.", panel=PAIRING, show_default="preset"),
    ] = None
    one_to_many: Annotated[
        bool,
        option("--one-to-many", help="A region may have several partners, which are merged.", panel=PAIRING),
    ] = False
    pairs: Annotated[
        Path | None,
        option(help="Pairs of an earlier run: accepted ones stay, rejected ones do not come back.", panel=PAIRING),
    ] = None
    init: Annotated[
        str,
        words_or_file(INIT_WORDS, help="What says where partners lie; auto: the regions alone.", panel=PAIRING),
        Words(INIT_WORDS),
    ] = "auto"
    fixed_rois: Annotated[Path | None, option(help="Label map used as the regions of the fixed image.")] = None
    moving_rois: Annotated[Path | None, option(help="The same for the moving image; equal ids correspond.")] = None
    device: Device = "auto"
    seed: Seed = 0

    def check_options(self) -> None:
        _ = self.pictures
        self.check_network()
        if self.top is not None and self.top < 1:
            raise InputError(f"--top keeps at least 1 pair, found {self.top}")
        if self.epsilon is not None and not -1 <= self.epsilon <= 1:
            raise InputError(f"--epsilon is a similarity from -1 to 1, found {self.epsilon}")
        if self.fixed_rois is not None:
            for name, value in (("--epsilon", self.epsilon), ("--one-to-many", self.one_to_many or None)):
                if value is not None:
                    raise InputError(
                        f"{name} is about pairs by similarity, and label maps pair by their ids; give one"
                    )

    def compute(self, progress: Progress) -> Work:
        from roireg.jobs.matching import compute

        return compute(self, progress)

"""``segment``: the regions of one image, all of them or what a prompt asks for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from roireg.core.errors import InputError
from roireg.core.files import check_file, extension_of, stem_of
from roireg.core.progress import Progress
from roireg.jobs.job import FolderJob, Work
from roireg.jobs.options import ClassOptions, Device, OutFile, PictureOptions, PointOptions, option

__all__ = ["LABEL_MAPS", "SegmentJob"]

LABEL_MAPS = (".nii", ".nii.gz", ".nrrd", ".mha", ".png", ".tif", ".tiff")


@dataclass(frozen=True, kw_only=True)
class SegmentJob(PictureOptions, PointOptions, ClassOptions, FolderJob):
    """Regions of one image as label maps, a list and a picture; the files share the name of `out`."""

    image: Annotated[Path, typer.Argument(help="Image to segment.")]
    out: OutFile
    max_count: Annotated[int, option(min=1, help="Largest number of regions (without a prompt).")] = 64
    min_size: Annotated[float, option(help="Smallest region, as a fraction of the image.")] = 0.0005
    max_size: Annotated[float, option(help="Largest region, as a fraction of the image.")] = 0.5
    device: Device = "auto"

    @property
    def folder(self) -> Path:
        return self.out.absolute().parent

    @property
    def record(self) -> str:  # type: ignore[override]
        """The list of the regions."""
        return f"{stem_of(self.out)}.json"

    @property
    def names(self) -> tuple[str, ...]:  # type: ignore[override]
        stem, kind = stem_of(self.out), extension_of(self.out)
        return f"{stem}_[0-9]*{kind}", f"{stem}_overview.png"

    def check_options(self) -> None:
        _ = self.picture
        self.check_network()
        self.check_points()
        # What may be replaced is in the list of the regions.
        if (self.segmenter or self.segmenter_command) and (self.point or self.box):
            raise InputError(
                "a segmenter of classes answers no prompts; leave --point and --box out, or give --model"
            )
        check_file(self.out, inputs=self.input_files(), replace=True)
        if extension_of(self.out) not in LABEL_MAPS:
            raise InputError(
                f"{self.out}: a label map is written as one of {', '.join(LABEL_MAPS)} (the last three in 2D), "
                f"found {extension_of(self.out)!r}"
            )

    def compute(self, progress: Progress) -> Work:
        from roireg.jobs.segmenting import compute

        return compute(self, progress)

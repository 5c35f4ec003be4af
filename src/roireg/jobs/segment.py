"""``segment``: the regions of one image, all of them or what a prompt asks for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from roireg.core.errors import InputError
from roireg.core.files import check_file, extension_of, stem_of
from roireg.core.progress import Progress
from roireg.jobs.job import Job, Work
from roireg.jobs.options import ASIDE, Channel, Device, Frame, Level, NetworkOptions, Page, option, parse_picture
from roireg.jobs.prompt import check_prompt_options

__all__ = ["LABEL_MAPS", "SegmentJob"]

LABEL_MAPS = (".nii", ".nii.gz", ".nrrd", ".mha", ".png", ".tif", ".tiff")


@dataclass(frozen=True, kw_only=True)
class SegmentJob(NetworkOptions, Job):
    """Regions of one image as label maps, a list and a picture; the files share the name of `out`."""

    image: Annotated[Path, typer.Argument(help="Image to segment.")]
    out: Annotated[Path, typer.Option("--out", "-o", help="Label map to write."), ASIDE]
    point: Annotated[
        list[str] | None, option(metavar="X,Y[,Z]", help="World point in the region (mm, px); repeatable.")
    ] = None
    label: Annotated[list[int] | None, option(min=0, max=1, help="Per --point: 1 inside (default), 0 outside.")] = (
        None
    )
    box: Annotated[
        str | None, option(metavar="X,Y[,Z],X,Y[,Z]", help="Two opposite world corners around the region.")
    ] = None
    max_count: Annotated[int, option(min=1, help="How many regions at most (without a prompt).")] = 64
    min_size: Annotated[float, option(help="Smallest region, as a fraction of the image.")] = 0.0005
    max_size: Annotated[float, option(help="Largest region, as a fraction of the image.")] = 0.5
    frame: Frame = None
    level: Level = None
    page: Page = None
    channel: Channel = None
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

    @property
    def picture(self) -> dict[str, Any]:
        """What `read_image` is told of which picture to take."""
        return parse_picture(self.frame, self.level, self.page, self.channel)

    def check_options(self) -> None:
        _ = self.picture
        self.check_network()
        check_prompt_options(self.point, self.label, self.box)
        check_file(self.out, inputs=self.inputs().values())
        if extension_of(self.out) not in LABEL_MAPS:
            raise InputError(
                f"{self.out}: a label map is written as one of {', '.join(LABEL_MAPS)} (the last three in 2D), "
                f"found {extension_of(self.out)!r}"
            )

    def compute(self, progress: Progress) -> Work:
        from roireg.jobs.segmenting import compute

        return compute(self, progress)

"""``apply``: an image, series, label map or points, and the transforms that carry them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from roireg.core.errors import InputError
from roireg.core.files import extension_of
from roireg.core.progress import Progress
from roireg.core.words import Interpolation
from roireg.jobs.files import POINTS, check_image, check_points, parse_transform
from roireg.jobs.job import Job, Work
from roireg.jobs.options import OutFile, PictureOptions, Replace, option, parse_fill, parse_numbers

__all__ = ["ApplyJob"]


@dataclass(frozen=True, kw_only=True)
class ApplyJob(PictureOptions, Job):
    """Carry an image onto a grid, or points into another space."""

    files: Annotated[
        list[str],
        typer.Argument(
            metavar="[TRANSFORM] IMAGE",
            help="A transform file, a result folder or the prefix of ANTs' numbered files (unless -t names it); and "
            "an image, series, label map or points (.csv, .mrk.json).",
        ),
    ]
    out: OutFile
    replace: Replace = False
    transform: Annotated[
        list[str] | None,
        option(
            "--transform",
            "-t",
            metavar="[i:][ras:|fsl:]FILE",
            help="Several transforms, as antsApplyTransforms orders them: points go through the first named first, "
            "images through the last. i: takes the inverse; ras: (c3d, greedy, NiftyReg) and fsl: (FLIRT) say what a "
            "matrix maps.",
        ),
    ] = None
    reference: Annotated[Path | None, option(help="Image whose grid the result gets; for images.")] = None
    spacing: Annotated[
        str | None, option(metavar="S[,S,S]", help="Other voxel size, x first, in the box of the reference.")
    ] = None
    labels: Annotated[bool, option("--labels", help="A label map: nearest neighbour, no new labels.")] = False
    points: Annotated[bool, option("--points", help="A file of points (known from .csv, .mrk.json).")] = False
    inverse: Annotated[bool, option("--inverse", help="Go the other way, moving to fixed points.")] = False
    fixed_scale: Annotated[
        float, option(metavar="S", help="The fixed image is S times the thumbnail that was registered.")
    ] = 1.0
    moving_scale: Annotated[float, option(metavar="S", help="The same for the moving image.")] = 1.0
    interpolation: Annotated[
        Interpolation | None, option(help="How values between voxels are found.", show_default="linear")
    ] = None
    fill: Annotated[
        str, option(metavar="auto|NUMBER", help="Value outside the image; auto: what lies around its object.")
    ] = "auto"
    fixed: Annotated[Path | None, option(help="The -ref of a FLIRT matrix, if not the reference.")] = None
    moving: Annotated[Path | None, option(help="The -in of a FLIRT matrix, if not IMAGE.")] = None

    @property
    def transforms(self) -> list[str]:
        """Names of the transforms, the one that points go through first coming first."""
        return self.transform or self.files[:1]

    @property
    def subject(self) -> Path:
        """What is carried."""
        return Path(self.files[-1])

    @property
    def carries_points(self) -> bool:
        """Whether points are mapped, by their name or because that is said."""
        return self.points or extension_of(self.subject) in POINTS

    def inputs(self) -> dict[str, Path]:
        if len(self.files) != (1 if self.transform else 2):
            expected = "IMAGE beside -t" if self.transform else "TRANSFORM and IMAGE, or IMAGE with -t TRANSFORM"
            raise InputError(f"apply takes {expected}, found {' '.join(self.files)}")
        places = {f"transform {i}": parse_transform(name)[2] for i, name in enumerate(self.transforms, 1)}
        return {**places, "subject": self.subject, **super().inputs()}

    def check_options(self) -> None:
        (check_points if self.carries_points else check_image)(self.subject)
        _ = self.picture, parse_fill(self.fill)
        if self.spacing is not None and min(parse_numbers("--spacing", self.spacing, (1, 2, 3))) <= 0:
            raise InputError(f"--spacing takes positive numbers, found {self.spacing!r}")
        for name, scale in (("fixed", self.fixed_scale), ("moving", self.moving_scale)):
            if not 0 < scale < float("inf"):
                raise InputError(f"the {name} scale is a positive number, found {scale:g}")
        if self.labels and self.interpolation not in (None, "nearest"):
            raise InputError(
                f"--interpolation {self.interpolation}: a label map takes its nearest label; leave it out"
            )
        if self.labels and self.channel is not None:
            raise InputError(f"{self.subject}: a label map has one channel; leave out --channel")
        if self.reference is None and not self.carries_points:
            raise InputError(
                f"{self.subject}: an image is resampled onto a grid; name an image that has it with --reference (the "
                "fixed image, or the moving one with --inverse)"
            )

    def compute(self, progress: Progress) -> Work:
        from roireg.jobs.applying import compute

        return compute(self, progress)

"""``convert``: one file, and the format it is to have."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from roireg.core.errors import InputError
from roireg.core.files import check_file, check_folder, extension_of
from roireg.core.progress import Progress
from roireg.jobs.files import check_content, kind_of, parse_transform
from roireg.jobs.job import Job, Work
from roireg.jobs.options import ASIDE, PictureOptions, Replace, is_index, option

__all__ = ["ConvertJob"]


@dataclass(frozen=True, kw_only=True)
class ConvertJob(PictureOptions, Job):
    """Write a transform, an image, points or ROI pairs in another format."""

    source: Annotated[Path, typer.Argument(metavar="IN", help="Transform, image, points or ROI pairs.")]
    out: Annotated[Path | None, typer.Argument(help="File to write; its extension chooses the format."), ASIDE] = None
    replace: Replace = False
    kind: Annotated[
        Literal["transform", "image", "labels", "points", "pairs"] | None,
        option(help="What IN is, where its name does not tell."),
    ] = None
    ants: Annotated[
        Path | None, option(metavar="PREFIX", help="Write PREFIX0GenericAffine.mat, PREFIX1Warp.nii.gz, ..."), ASIDE
    ] = None
    reference: Annotated[Path | None, option(help="Image whose grid a displacement field is sampled on.")] = None
    inverse: Annotated[bool, option("--inverse", help="Write the inverse of the transform.")] = False
    cut: Annotated[
        str | None, option("--slice", metavar="AXIS=N", help="Take one slice of a volume as a 2D image.")
    ] = None
    fixed: Annotated[Path | None, option(help="The -ref of a FLIRT matrix (IN is fsl:FILE).")] = None
    moving: Annotated[Path | None, option(help="The -in of a FLIRT matrix.")] = None

    @property
    def content(self) -> str:
        """What the file is taken as."""
        as_transform = self.ants or self.reference or self.inverse
        if self.kind is None and self.out is not None:
            as_transform = as_transform or extension_of(self.out) in (".h5", ".tfm", ".mat")
        if self.kind is None and as_transform:
            return "transform"
        kind = self.kind or kind_of(self.source)
        return "transform" if kind == "result" else kind

    @property
    def axis_and_index(self) -> tuple[str, int]:
        """The voxel axis across the slice, and where it is cut.

        Raises
        ------
        InputError
            When `cut` is malformed.
        """
        axis, _, index = (self.cut or "").partition("=")
        if axis not in ("x", "y", "z") or not is_index(index):
            raise InputError(f"--slice is an axis and an index such as z=10, found {self.cut!r}")
        return axis, int(index)

    def inputs(self) -> dict[str, Path]:
        return {**super().inputs(), "source": parse_transform(self.source)[2]}

    def check_options(self) -> None:
        if (self.out is None) == (self.ants is None):
            raise InputError("name one place to write to: OUT, or --ants PREFIX for the files of ANTs")
        _ = self.picture, self.cut is None or self.axis_and_index
        if self.kind is None and self.content in ("image", "points"):
            check_content(self.source)
        pictures = ("frame", "level", "page", "channel")
        for name, value in (("slice", self.cut), *((name, getattr(self, name)) for name in pictures)):
            if value is not None and self.content not in ("image", "labels"):
                raise InputError(
                    f"--{name} is for images, but {self.source} is taken as {self.content}; leave it out"
                )
        if self.content == "labels" and self.channel is not None:
            raise InputError(f"{self.source}: a label map has one channel; leave out --channel")
        if self.content != "transform" and (self.ants or self.reference or self.inverse):
            raise InputError(
                f"--ants, --reference and --inverse are for transforms, but {self.source} is taken as {self.content}"
            )

    def check_place(self) -> None:
        inputs = self.input_files()
        if self.ants is not None:
            ours = self.ants.parent.glob(f"{self.ants.name}[0-9]*")
            for file in (Path(f"{self.ants}0GenericAffine.mat"), *ours):
                check_file(file, inputs=inputs, replace=self.replace)
        elif self.out is not None and self.content == "pairs" and self.out.suffix.lower() != ".zip":
            check_folder(self.out, inputs=inputs)
        else:
            super().check_place()

    def compute(self, progress: Progress) -> Work:
        from roireg.jobs.converting import compute

        return compute(self, progress)

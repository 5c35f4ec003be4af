"""``evaluate``: what can be scored."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from roireg.core.errors import InputError
from roireg.core.progress import Progress
from roireg.jobs.job import Job, Work
from roireg.jobs.options import ASIDE, CarriedOptions, PicturesOptions, Replace, option

__all__ = ["EvaluateJob"]


@dataclass(frozen=True, kw_only=True)
class EvaluateJob(CarriedOptions, PicturesOptions, Job):
    """Paths of everything that can be scored; None where it is not there."""

    transform: Annotated[
        Path | None, typer.Argument(help="Transform file, result folder or ANTs prefix; none: as things lie.")
    ] = None
    fixed: Annotated[Path | None, typer.Option("--fixed", "-f", help="Fixed image.")] = None
    moving: Annotated[
        Path | None, typer.Option("--moving", "-m", help="Moving image, for its likeness to the fixed.")
    ] = None
    truth: Annotated[Path | None, option(help="The true transform, where it is known.")] = None
    inverse: Annotated[
        Path | None,
        option("--inverse-transform", help="The inverse to check; else inverse.h5 of the folder, or computed."),
    ] = None
    fixed_mask: Annotated[Path | None, option(help="Where folding and true error are measured.")] = None
    out: Annotated[Path | None, typer.Option("--out", "-o", help="JSON file to write as well."), ASIDE] = None
    replace: Replace = False

    def check_options(self) -> None:
        _ = self.pictures
        for what in ("labels", "points"):
            fixed, moving = getattr(self, f"fixed_{what}"), getattr(self, f"moving_{what}")
            if (fixed is None) != (moving is None):
                missing = "moving" if moving is None else "fixed"
                raise InputError(f"{what} are scored against each other; give --{missing}-{what} too")
        if self.moving is not None and self.fixed is None:
            raise InputError("the moving image is compared with the fixed one; give --fixed too")
        for name, value in (("--truth", self.truth), ("--inverse-transform", self.inverse)):
            if value is not None and self.transform is None:
                raise InputError(f"{name} is compared with a transform; name one")

    def compute(self, progress: Progress) -> Work:
        from roireg.jobs.evaluating import compute

        return compute(self, progress)

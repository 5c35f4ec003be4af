"""What `roireg info` is asked for; loads nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from roireg.core.errors import InputError
from roireg.jobs.files import check_content
from roireg.jobs.options import PictureOptions, option

__all__ = ["InfoOptions"]


@dataclass(frozen=True, kw_only=True)
class InfoOptions(PictureOptions):
    """Files to describe, or the presets."""

    files: Annotated[
        list[Path] | None, typer.Argument(help="Images, transforms, points, ROI pairs, result folders.")
    ] = None
    presets: Annotated[bool, option("--presets", help="Print every setting of every preset as YAML instead.")] = False

    def check(self) -> None:
        """Refuse files that are not there, and nothing or two things to say."""
        _ = self.picture
        if self.presets == bool(self.files):
            raise InputError("info needs at least one file, or --presets alone")
        for path in self.files or ():
            check_content(path)

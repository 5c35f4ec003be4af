"""One small picture per run: fixed image, moving image as given, moved image, and both on top of each other."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from roireg.core.image import Image
from roireg.core.transforms import Transform
from roireg.evaluate.planes import Plane, display_planes, sample_plane
from roireg.evaluate.plots import fusion, intensity_window, to_picture
from roireg.io import atomic_path, read_image, read_labels
from roireg_bench.cases import Case, CaseFolder

__all__ = ["PANELS", "Scene", "read_scene", "thumbnail_path", "write_thumbnail"]

PANELS = ("fixed", "moving, before", "moving, after", "fixed orange, after blue")
SIDE = 170
"""Longer side of a panel, pixels: four of them fit beside each other on a page."""

GAP = 4

Picture = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Scene:
    """Two images and the plane of the fixed one that pictures show."""

    fixed: Image
    moving: Image
    plane: Plane

    def strip(self, transform: Transform) -> Picture:
        """Return the four `PANELS` side by side, (rows, columns, 3)."""
        panels = [
            _picture(self.fixed, self.plane, None),
            _picture(self.moving, self.plane, None),
            _picture(self.moving, self.plane, transform),
        ]
        panels.append(fusion(panels[0], panels[2]))
        gap = np.full((panels[0].shape[0], GAP, 3), 255, dtype=np.uint8)
        return np.concatenate([part for panel in panels for part in (gap, panel)][1:], axis=1)


def read_scene(folder: CaseFolder, case: Case) -> Scene:
    """Read the images of a case and choose the plane: the finest one, through the labels where there are any.

    Raises
    ------
    InputError
        When a file is unreadable.
    """
    fixed, moving = read_image(folder.path / case.fixed), read_image(folder.path / case.moving)
    point = fixed.grid.center
    if case.fixed_labels is not None:
        labels = read_labels(folder.path / case.fixed_labels)
        inside = np.argwhere(labels.data[0].numpy() != 0)
        if len(inside):
            point = labels.grid.world_from_index(inside.mean(axis=0))
    planes = display_planes(fixed.grid, point, smallest=SIDE, largest=SIDE, unit=fixed.unit)
    return Scene(fixed, moving, max(planes, key=lambda plane: plane.native.size))


def _picture(image: Image, plane: Plane, transform: Transform | None) -> Picture:
    window = intensity_window(image)
    channels = [0, 1, 2] if image.channels >= 3 else None
    return to_picture(
        sample_plane(image.data, image.grid, plane.display, transform, fill=window[0], channels=channels), window
    )


def thumbnail_path(folder: Path, place: tuple[str, str, str]) -> Path:
    """Return where the picture of a run is kept; `place` is set, pair and method."""
    plain = [re.sub(r"[^A-Za-z0-9._-]+", "-", part)[:60] for part in place]
    # Names that differ only in what a file name cannot hold stay apart.
    mark = "" if tuple(plain) == place else "_" + hashlib.sha256("\0".join(place).encode()).hexdigest()[:8]
    return folder / f"{'__'.join(plain)}{mark}.jpg"


def write_thumbnail(path: Path, picture: Picture) -> None:
    """Write a picture as JPEG.

    Raises
    ------
    OutputError
        When the place cannot be written.
    """
    with atomic_path(path) as temporary:
        PIL.Image.fromarray(picture).save(temporary, "JPEG", quality=82, optimize=True)

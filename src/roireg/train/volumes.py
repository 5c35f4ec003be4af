"""A folder of images to train on: two crops of one image at a time, bent and degraded in a known way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from roireg.core.errors import InputError
from roireg.core.image import Image
from roireg.core.warp import resample
from roireg.features.embedding import shown
from roireg.io import read_image, read_labels
from roireg.train.scenes import ScenePair, looked_at

__all__ = ["ImageSource", "image_files"]

SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".mha", ".mhd", ".png", ".jpg", ".jpeg", ".tif", ".tiff")
IMAGES, LABELS = "images", "labels"
"""Names of the folders of images and of label maps, where there are label maps."""


def image_files(folder: Path) -> list[tuple[Path, Path | None]]:
    """Return the images of a folder, each with its label map or None.

    The images lie in the folder itself, or in its folder `images`; label maps of the same names in `labels`.

    Raises
    ------
    InputError
        When there is no such folder, no image in it, or a label map without its image.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of images to train on; check the path")
    place = folder / IMAGES if (folder / IMAGES).is_dir() else folder
    images = {path.name: path for path in _files(place)}
    labels = {path.name: path for path in _files(folder / LABELS)}
    if alone := sorted(labels.keys() - images.keys()):
        raise InputError(
            f"{labels[alone[0]]}: a label map without an image {place / alone[0]}; add it or leave both out"
        )
    if not images:
        raise InputError(f"{place}: there is no image to train on; expected files such as a.nii.gz")
    return [(path, labels.get(name)) for name, path in sorted(images.items())]


def _files(folder: Path) -> list[Path]:
    paths = folder.iterdir() if folder.is_dir() else ()
    return [p for p in paths if p.is_file() and p.name.lower().endswith(SUFFIXES) and not p.name.startswith(".")]


class ImageSource:
    """Numbered pairs of crops; equal numbers and seeds give equal pairs.

    Parameters
    ----------
    files : as `image_files` gives them; held in memory, at the spacing below.
    ndim : that they must have.
    size : voxels of a crop along every axis.
    spacing : mm between the voxels of a crop.
    seed : of the crops.

    Raises
    ------
    InputError
        When an image cannot be read or has another dimension.
    """

    def __init__(
        self, files: list[tuple[Path, Path | None]], *, ndim: int, size: int, spacing: float, seed: int = 0
    ) -> None:
        self.size, self.seed = size, seed
        self.held = [_held(path, labels, ndim, spacing) for path, labels in files]

    def __getitem__(self, number: int) -> ScenePair:
        """Return a pair of crops by its number."""
        rng = np.random.default_rng([self.seed, number, *b"crops"])
        data, labels = self.held[int(rng.integers(len(self.held)))]
        centre = [rng.uniform(min(self.size / 3, n / 2), max(n - self.size / 3, n / 2)) for n in labels.shape]
        image = data.float()
        return looked_at(rng, image, image, labels, size=self.size, half=self.size / 2, centre=centre)


def _held(path: Path, labels: Path | None, ndim: int, spacing: float) -> tuple[Tensor, Tensor]:
    image = read_image(path, finite=False)
    if image.ndim != ndim:
        raise InputError(f"{path}: is {image.ndim}D in a training of {ndim}D images; take it out or change ndim")
    seen = shown(image, spacing)
    codes = torch.zeros(seen.grid.shape, dtype=torch.int16)
    if labels is not None:
        codes = _aligned(read_labels(labels), seen).to(torch.int16)
    return seen.data.half(), codes


def _aligned(labels: Image, like: Image) -> Tensor:
    return resample(labels, like.grid, mode="nearest").data[0]

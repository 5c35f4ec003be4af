"""A folder of images to train on: two crops of one, bent and degraded in a known way, or two images at a time."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from roireg.core.errors import InputError
from roireg.core.image import Image
from roireg.core.warp import identity_coords, resample
from roireg.features.embedding import shown
from roireg.io import read_image, read_labels
from roireg.train.scenes import ScenePair, looked_at

__all__ = ["ImageSource", "SubjectSource", "image_files"]

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
    affine, bend : how strongly the two crops are displaced, see `roireg.train.scenes.looked_at`.

    Raises
    ------
    InputError
        When an image cannot be read or has another dimension.
    """

    def __init__(
        self,
        files: list[tuple[Path, Path | None]],
        *,
        ndim: int,
        size: int,
        spacing: float,
        seed: int = 0,
        affine: float = 1.0,
        bend: float = 1.0,
    ) -> None:
        self.size, self.seed, self.stream = size, seed, [*b"crops"]
        self.affine, self.bend = affine, bend
        self.held = [_held(path, labels, ndim, spacing) for path, labels in files]

    def other(self, stream: str) -> ImageSource:
        """Return another stream of crops of the same images, which are not read again."""
        twin = copy.copy(self)
        twin.stream = [*stream.encode()]
        return twin

    def __getitem__(self, number: int) -> ScenePair:
        """Return a pair of crops by its number."""
        rng = np.random.default_rng([self.seed, number, *self.stream])
        data, labels = self.held[int(rng.integers(len(self.held)))]
        centre = [rng.uniform(min(self.size / 3, n / 2), max(n - self.size / 3, n / 2)) for n in labels.shape]
        image = data.float()
        half = self.size / 2
        return looked_at(
            rng, image, image, labels, size=self.size, half=half, centre=centre, affine=self.affine, bend=self.bend
        )


class SubjectSource:
    """Numbered pairs of two images, as they lie in the world around the middles of their grids.

    No displacement between them is known: `valid` is False everywhere.

    Parameters
    ----------
    files, ndim, size, spacing, seed : see `ImageSource`; two files at least.

    Raises
    ------
    InputError
        When an image cannot be read or has another dimension.
    """

    def __init__(
        self, files: list[tuple[Path, Path | None]], *, ndim: int, size: int, spacing: float, seed: int = 0
    ) -> None:
        self.size, self.seed, self.stream = size, seed, [*b"subjects"]
        self.held = [_held(path, labels, ndim, spacing) for path, labels in files]

    def other(self, stream: str) -> SubjectSource:
        """Return another stream of pairs of the same images, which are not read again."""
        twin = copy.copy(self)
        twin.stream = [*stream.encode()]
        return twin

    def __getitem__(self, number: int) -> ScenePair:
        """Return a pair by its number."""
        rng = np.random.default_rng([self.seed, number, *self.stream])
        chosen = rng.choice(len(self.held), 2, replace=False)
        first, second = (self.held[int(k)] for k in chosen)
        # The same place in both: within what the smaller one shows beyond a crop.
        spare = [max(0, min(a, b) - self.size) for a, b in zip(first[1].shape, second[1].shape, strict=True)]
        shift = [int(rng.integers(-(s // 2), s // 2 + 1)) for s in spare]
        fixed, fixed_labels = _cut(*first, shift, self.size)
        moving, moving_labels = _cut(*second, shift, self.size)
        shape = tuple(fixed_labels.shape)
        where = identity_coords(shape, torch.device("cpu")).flip(-1).contiguous()
        return ScenePair(fixed, moving, fixed_labels, moving_labels, where, torch.zeros(shape, dtype=torch.bool))


def _cut(data: Tensor, labels: Tensor, shift: list[int], size: int) -> tuple[Tensor, Tensor]:
    """Cut a cube around the middle, moved by whole voxels; beyond an image there is nothing."""
    low = [n // 2 + s - size // 2 for n, s in zip(labels.shape, shift, strict=True)]
    part = tuple(slice(max(0, a), a + size) for a in low)
    padding: list[int] = []
    for a, n in zip(reversed(low), reversed(labels.shape), strict=True):
        padding += [max(0, -a), max(0, a + size - n)]
    return F.pad(data[(slice(None), *part)].float(), padding), F.pad(labels[part], padding)


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

"""What must be true of images, masks, regions, points and the start before a registration is worth computing.

The command line and the Python functions raise the same sentences: the checks look at values, never at files.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from roireg.core.errors import GeometryError, InputError, warn_header
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.kinds import LIKE, UNLIKE, count_and_likeness
from roireg.core.lattice import stored_on
from roireg.core.rois import ROIPairs
from roireg.core.transforms import Affine, Transform
from roireg.core.words import GUIDE_WORDS, INIT_WORDS
from roireg.io import check_image

__all__ = [
    "LabelMaps",
    "check_correspondence",
    "check_guide",
    "check_init",
    "check_inputs",
    "check_pairs",
    "check_points",
    "labels_on",
    "starting_map",
]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LabelMaps:
    """Masks and regions on the grids of their images, None where there are none."""

    fixed_mask: Image | None
    moving_mask: Image | None
    fixed_rois: Image | None
    moving_rois: Image | None


def check_inputs(
    fixed: Image,
    moving: Image,
    *,
    fixed_mask: Image | None = None,
    moving_mask: Image | None = None,
    fixed_rois: Image | None = None,
    moving_rois: Image | None = None,
    pairs: ROIPairs | None = None,
    init: str | Transform = "auto",
) -> LabelMaps:
    """Refuse inputs that no registration can make sense of, and bring label maps onto the grids of their images.

    Parameters
    ----------
    fixed, moving : the images.
    fixed_mask, moving_mask : label maps of voxels of their images, see `labels_on`; voxels other than 0 are inside.
    fixed_rois, moving_rois : label maps used as regions, equal ids correspond; both or none.
    pairs : corresponding regions to start from.
    init : "auto", "identity", "centers" or a transform from fixed to moving.

    Returns
    -------
    The masks and label maps on the grids of their images.

    Raises
    ------
    InputError
        When an image is constant or not finite, a mask or label map is empty, masks do not meet, label maps share no
        label, or `init` is an unknown word.
    GeometryError
        When 2D meets 3D, an axis has one voxel, grids do not fit, or the images share no part of space.
    """
    for image in (fixed, moving):
        check_image(image)
        _check_axes(image)
    if fixed.ndim != moving.ndim:
        flat, deep = sorted((fixed, moving), key=lambda image: image.ndim)
        raise GeometryError(
            f"{flat.name} is 2D ({_size(flat.grid)}) but {deep.name} is 3D ({_size(deep.grid)}); both must have the "
            f"same dimension: take one slice with `roireg convert {deep.name} slice.nii.gz --slice z=N`"
        )
    _check_units(fixed, moving)
    check_init(init, fixed)
    start = starting_map(init, fixed.grid, moving.grid)
    _check_overlap(fixed, moving, start, init)
    if fixed_mask is not None:
        fixed_mask = labels_on(fixed_mask, fixed, what="mask of the fixed image")
    if moving_mask is not None:
        moving_mask = labels_on(moving_mask, moving, what="mask of the moving image")
    if fixed_mask is not None and moving_mask is not None and not _meet(fixed_mask, moving_mask, start):
        raise InputError(
            f"{fixed_mask.name} and {moving_mask.name}: the masks have no voxel in common where the registration "
            "starts; correct them, leave one out, or give a start under which they overlap with --init FILE"
        )
    if (fixed_rois is None) != (moving_rois is None):
        lonely = fixed_rois if fixed_rois is not None else moving_rois
        assert lonely is not None
        other = "moving" if moving_rois is None else "fixed"
        raise InputError(
            f"{lonely.name}: regions from label maps need one map per image, that of the {other} image is missing; "
            f"give --{other}-rois too"
        )
    if fixed_rois is not None and moving_rois is not None:
        fixed_rois = labels_on(fixed_rois, fixed, what="region label map of the fixed image")
        moving_rois = labels_on(moving_rois, moving, what="region label map of the moving image")
        _check_shared(fixed_rois, moving_rois)
    if pairs is not None:
        check_pairs(pairs, fixed, moving)
    return LabelMaps(fixed_mask, moving_mask, fixed_rois, moving_rois)


def check_init(init: str | Transform, fixed: Image) -> None:
    """Refuse a start that is an unknown word or of another dimension than the images.

    Raises
    ------
    InputError
        When `init` is a word other than those of `INIT_WORDS`.
    GeometryError
        When `init` is a transform of another dimension.
    """
    if isinstance(init, str):
        if init not in INIT_WORDS:
            raise InputError(f"the start is {', '.join(INIT_WORDS)} or a transform, found {init!r}; correct --init")
        return
    if init.ndim != fixed.ndim:
        raise GeometryError(
            f"the initial transform is {init.ndim}D but {fixed.name} is {fixed.ndim}D; give a {fixed.ndim}D transform"
        )


def check_correspondence(*, classes: bool, pairs: bool, labels: bool) -> None:
    """Refuse that more than one thing says which regions correspond: a segmenter of classes, ROI pairs, label maps.

    Raises
    ------
    InputError
        When two of them do.
    """
    if classes and (pairs or labels):
        raise InputError(
            "a segmenter of classes says what corresponds, as ROI pairs and label maps do; give one of them"
        )
    if pairs and labels:
        raise InputError("region label maps and ROI pairs both say what corresponds; give one of them")


def check_guide(guide: str | Transform) -> None:
    """Refuse a word that names no guide."""
    if isinstance(guide, str) and guide not in GUIDE_WORDS:
        raise InputError(f"the guide is {', '.join(GUIDE_WORDS)} or a transform, found {guide!r}")


def starting_map(init: str | Transform, fixed: Grid, moving: Grid) -> Transform:
    """Return the transform, fixed to moving, that a start stands for before anything is computed."""
    if isinstance(init, Transform):
        return init
    if init == "centers":
        return Affine.translation(moving.center - fixed.center)
    return Affine.identity(fixed.ndim)


def labels_on(labels: Image, image: Image, *, what: str = "label map") -> Image:
    """Return a label map or mask on the grid of its image.

    It may be stored in another order than the image (flipped or permuted axes), or be cropped to a part of it: the
    voxels must be voxels of the image, to a hundredth of their size. Voxels that it lacks are 0. Pictures without a
    physical size must have the size of their image.

    Raises
    ------
    GeometryError
        When its voxels lie elsewhere.
    InputError
        When every voxel is 0, or, of other things than masks, the values are intensities.
    """
    if labels.ndim != image.ndim:
        raise GeometryError(
            f"{labels.name}: the {what} is {labels.ndim}D ({_size(labels.grid)}) but its image {image.name} is "
            f"{image.ndim}D ({_size(image.grid)}); give a label map on the grid of the image"
        )
    # Pixels without a size have no place in the world, so a smaller picture is a resized one and no crop.
    placed = "px" not in (labels.unit, image.unit) or labels.grid.shape == image.grid.shape
    fitting = stored_on(labels, image.grid) if placed else None
    if fitting is None:
        raise GeometryError(
            f"{labels.name}: the {what} lies on another grid than its image {image.name} "
            f"({_difference(labels.grid, image.grid)}); resample it onto the image, nearest neighbour"
        )
    if not bool((labels.data != 0).any()):
        raise InputError(f"{labels.name}: the {what} is empty, every voxel is 0; expected at least one other value")
    if not what.startswith("mask"):
        _check_names(labels, what)
    return fitting


def _check_names(labels: Image, what: str) -> None:
    """Refuse a label map whose values are intensities, and tell of one that looks so."""
    count, likeness = count_and_likeness(labels)
    if likeness < LIKE:
        text = f"the {what} has {count} values or more that change from voxel to voxel, as those of images do"
        if likeness < UNLIKE:
            raise InputError(f"{labels.name}: {text}; expected one value for all voxels of a region")
        warn_header(labels.name, f"{text}; check that it is a label map")


def check_points(points: ArrayLike, image: Image, *, name: str, partner: ArrayLike | None = None) -> None:
    """Refuse landmarks that do not fit their image, or the landmarks of the other image.

    Parameters
    ----------
    points : (N, d) world points of `image`.
    name : how messages refer to the points, usually their path.
    partner : (N, d) the corresponding points of the other image, if any.

    Raises
    ------
    InputError
        When the points have another dimension than the image, or another number than their partners.
    """
    array = np.asarray(points, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] != image.ndim:
        shape = f"{array.shape[1]} coordinates" if array.ndim == 2 else f"an array of shape {array.shape}"
        columns = "x,y" if image.ndim == 2 else "x,y,z"
        raise InputError(
            f"{name}: the points have {shape} but {image.name} is {image.ndim}D; expected the columns {columns}"
        )
    if partner is not None and len(array) != len(np.asarray(partner)):
        raise InputError(
            f"{name}: found {len(array)} points but {len(np.asarray(partner))} in the other image; row i of one file "
            "must correspond to row i of the other"
        )


def check_pairs(pairs: ROIPairs, fixed: Image, moving: Image) -> None:
    """Refuse ROI pairs of other images, or without any pair.

    The regions may lie on a coarser grid than their image, but must cover the same box of the world.

    Raises
    ------
    GeometryError
        When the regions of a side do not cover the box of its image.
    InputError
        When there is no pair.
    """
    fits = [_same_box(rois.grid, image.grid) for rois, image in ((pairs.fixed, fixed), (pairs.moving, moving))]
    if not all(fits):
        swapped = _same_box(pairs.fixed.grid, moving.grid) and _same_box(pairs.moving.grid, fixed.grid)
        side, rois, image = ("moving", pairs.moving, moving) if fits[0] else ("fixed", pairs.fixed, fixed)
        advice = (
            "fixed and moving look swapped"
            if swapped
            else "give the pairs that belong to these images, or start without --pairs"
        )
        raise GeometryError(
            f"the ROI pairs do not fit {image.name}: their {side} regions lie on {rois.grid!r}, {_span(rois.grid)}, "
            f"but the image on {image.grid!r}, {_span(image.grid)}; {advice}"
        )
    if not pairs.pairs:
        raise InputError("the ROI pairs hold no pair; add at least one, or start without --pairs")


# -- parts ----------------------------------------------------------------------------------------


def _check_axes(image: Image) -> None:
    single = [axis for axis, n in enumerate(image.grid.shape) if n == 1]
    if not single:
        return
    letters = "zyx"[-image.ndim :]
    if image.ndim == 3 and len(single) == 1:
        letter = letters[single[0]]
        raise GeometryError(
            f"{image.name}: the image is 3D ({_size(image.grid)}) with a single slice along {letter}, expected a "
            "volume of at least two slices or a 2D image; make it 2D with "
            f"`roireg convert {image.name} slice.nii.gz --slice {letter}=0`"
        )
    names = " and ".join(letters[a] for a in single)
    raise GeometryError(
        f"{image.name}: the image ({_size(image.grid)}) is one voxel wide along {names}, expected at least two along "
        "every axis; give another image"
    )


def _check_units(fixed: Image, moving: Image) -> None:
    """Refuse an image in mm beside one in pixels where their sizes differ so much that a pixel is no millimetre."""
    ratio = float(np.max(fixed.grid.extent) / np.max(moving.grid.extent))
    if fixed.unit != moving.unit and not 0.1 < ratio < 10:
        sizes = [f"{np.max(i.grid.extent):.3g} {i.unit}" for i in (fixed, moving)]
        raise GeometryError(
            f"{fixed.name} is {sizes[0]} wide and {moving.name} {sizes[1]}: one file has a physical pixel size and "
            "the other none; save both with it, or both without (`roireg convert IMAGE image.png`)"
        )


def _check_overlap(fixed: Image, moving: Image, start: Transform, init: str | Transform) -> None:
    a, b = start.map_points(fixed.grid.corners()), moving.grid.corners()
    if bool((np.minimum(a.max(0), b.max(0)) > np.maximum(a.min(0), b.min(0))).all()):
        return
    if isinstance(init, Transform):
        raise GeometryError(
            f"{fixed.name} and {moving.name}: the images share no part of space under the initial transform (mapped "
            f"fixed image {_range(a)}, moving image {_range(b)}); check its direction, it must map fixed points to "
            "moving points, or use --init centers"
        )
    raise GeometryError(
        f"{fixed.name} and {moving.name}: the images share no part of space (fixed {_range(a)}, moving {_range(b)}); "
        "put their centres on each other with --init centers, or give an initial transform with --init FILE"
    )


def _meet(fixed: Image, moving: Image, start: Transform) -> bool:
    """Tell whether a voxel of the fixed mask falls into the moving mask."""
    inside = torch.nonzero((fixed.data != 0).any(dim=0)).numpy()
    other = (moving.data != 0).any(dim=0).numpy()
    # A stride that is odd and large visits all parts of the mask early; most masks meet in the first block.
    order = (np.arange(len(inside)) * 7919) % len(inside) if len(inside) % 7919 else np.arange(len(inside))
    for first in range(0, len(inside), 100_000):
        points = fixed.grid.world_from_index(inside[order[first : first + 100_000]])
        mapped = start.map_points(points)
        mapped = mapped[moving.grid.contains(mapped)]
        index = np.round(moving.grid.index_from_world(mapped)).astype(np.int64)
        index = np.clip(index, 0, np.array(moving.grid.shape) - 1)
        if other[tuple(index.T)].any():
            return True
    return False


def _check_shared(fixed: Image, moving: Image) -> None:
    ids = [{int(v) for v in torch.unique(labels.data)} - {0} for labels in (fixed, moving)]
    if not ids[0] & ids[1]:
        raise InputError(
            f"{fixed.name} and {moving.name}: the region label maps share no label (fixed {_listed(ids[0])}, moving "
            f"{_listed(ids[1])}); equal ids must mean equal structures"
        )


def _same_box(rois: Grid, image: Grid) -> bool:
    """Tell whether two grids cover the same box of the world, to half a voxel of the coarser one."""
    if rois.ndim != image.ndim:
        return False
    a, b = rois.corners(), image.corners()
    apart = max(np.abs(a.min(0) - b.min(0)).max(), np.abs(a.max(0) - b.max(0)).max())
    return bool(apart <= 0.5 * max(rois.spacing.max(), image.spacing.max()))


def _difference(a: Grid, b: Grid) -> str:
    if a.shape != b.shape:
        return f"{_size(a)} against {_size(b)}"
    apart = float(np.abs(a.corners() - b.corners()).max())
    return f"same size, but corners up to {apart:.3g} mm apart"


def _size(grid: Grid) -> str:
    return " x ".join(map(str, grid.shape[::-1])) + (" pixels" if grid.ndim == 2 else " voxels")


def _span(grid: Grid) -> str:
    return _range(grid.corners())


def _range(corners: Array) -> str:
    low, high = corners.min(0), corners.max(0)
    return ", ".join(f"{axis} {a:.4g} to {b:.4g}" for axis, a, b in zip("xyz", low, high, strict=False))


def _listed(ids: set[int], *, most: int = 8) -> str:
    shown = ", ".join(map(str, sorted(ids)[:most]))
    return f"{shown} and {len(ids) - most} more" if len(ids) > most else shown

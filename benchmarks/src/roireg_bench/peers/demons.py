"""A peer: SimpleITK's diffeomorphic demons, the settings of its examples made fit for thin and small images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import SimpleITK as sitk

from roireg.core.errors import InputError
from roireg.core.image import Image
from roireg.core.transforms import Transform
from roireg.io import from_itk
from roireg_bench.peers.base import Peer, itk_image
from roireg_bench.protocol import Modality

__all__ = ["DemonsOptions", "DemonsPeer", "demons"]


@dataclass(frozen=True)
class DemonsOptions:
    """Settings of the diffeomorphic demons (Vercauteren et al., NeuroImage 45(1), 2009).

    Attributes
    ----------
    shrink : factor per level, coarse to fine.
    iterations : per level; a level ends sooner when its update falls below ITK's threshold.
    sigma : standard deviation of the field's smoothing, voxels of the level.
    least_voxels : an axis is shrunk only as far as it keeps so many.
    histogram_levels, match_points : of the histogram matching of the moving image.
    """

    shrink: tuple[int, ...] = (4, 2, 1)
    iterations: tuple[int, ...] = (100, 60, 30)
    sigma: float = 1.5
    least_voxels: int = 8
    histogram_levels: int = 256
    match_points: int = 15


@dataclass(frozen=True)
class DemonsPeer(Peer):
    """SimpleITK's diffeomorphic demons; see `demons`."""

    name: str = "demons"
    options: DemonsOptions = field(default_factory=DemonsOptions)
    package: ClassVar[str] = "SimpleITK"
    modules: ClassVar[tuple[str, ...]] = ()

    def register(self, fixed: Image, moving: Image, modality: Modality, folder: Path) -> Transform:
        return demons(fixed, moving, self.options)


def demons(fixed: Image, moving: Image, options: DemonsOptions | None = None) -> Transform:
    """Register with three levels of diffeomorphic demons, on the fixed grid, from where the images lie.

    Parameters
    ----------
    fixed, moving : images of one world and dimension, any grids; colour is reduced to gray. The moving image is
        resampled onto the fixed grid (its lowest value outside) and its histogram matched.

    Returns
    -------
    A displacement field in mm on the fixed grid.

    Raises
    ------
    InputError
        When the images differ in dimension, or levels and iterations in number.
    """
    o = options or DemonsOptions()
    if fixed.ndim != moving.ndim:
        raise InputError(f"demons need two images of one dimension, found {fixed.ndim}D and {moving.ndim}D")
    if len(o.shrink) != len(o.iterations):
        raise InputError(f"demons need iterations per level, found {len(o.iterations)} for {len(o.shrink)} levels")
    target, source = itk_image(fixed), itk_image(moving)
    lowest = float(moving.gray().data.min())
    source = sitk.Resample(source, target, sitk.Transform(fixed.ndim, sitk.sitkIdentity), sitk.sitkLinear, lowest)
    source = sitk.HistogramMatching(
        source,
        target,
        numberOfHistogramLevels=o.histogram_levels,
        numberOfMatchPoints=o.match_points,
        thresholdAtMeanIntensity=True,
    )
    field: sitk.Image | None = None
    for shrink, iterations in zip(o.shrink, o.iterations, strict=True):
        factors = [max(1, min(shrink, n // o.least_voxels)) for n in target.GetSize()]
        f, m = _level(target, factors), _level(source, factors)
        field = _demons_level(f, m, field, iterations, o.sigma)
    assert field is not None
    return from_itk(sitk.DisplacementFieldTransform(field), name="demons")


def _demons_level(
    fixed: sitk.Image, moving: sitk.Image, start: sitk.Image | None, iterations: int, sigma: float
) -> sitk.Image:
    step = sitk.DiffeomorphicDemonsRegistrationFilter()
    step.SetNumberOfIterations(iterations)
    step.SetSmoothDisplacementField(True)
    step.SetStandardDeviations(sigma)
    if start is None:
        return step.Execute(fixed, moving)
    identity = sitk.Transform(fixed.GetDimension(), sitk.sitkIdentity)
    # Beyond the centres of the coarse border voxels the field continues as it is there.
    resampler = sitk.ResampleImageFilter()
    resampler.SetReferenceImage(fixed)
    resampler.SetTransform(identity)
    resampler.SetUseNearestNeighborExtrapolator(True)
    return step.Execute(fixed, moving, resampler.Execute(start))


def _level(image: sitk.Image, factors: Sequence[int]) -> sitk.Image:
    if max(factors) == 1:
        return image
    variance = [(0.5 * n) ** 2 if n > 1 else 0.0 for n in factors]
    smooth = sitk.DiscreteGaussian(image, variance=variance, useImageSpacing=False)
    return sitk.Shrink(smooth, [int(n) for n in factors])

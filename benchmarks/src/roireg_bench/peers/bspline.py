"""A peer: SimpleITK's registration framework, affine and then a B-spline on mutual information."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import SimpleITK as sitk

from roireg.core.image import Image
from roireg.core.transforms import Chain, Transform
from roireg.io import from_itk
from roireg_bench.peers.base import Peer, itk_image
from roireg_bench.protocol import Modality

__all__ = ["BSplinePeer"]


@dataclass(frozen=True)
class BSplinePeer(Peer):
    """Affine and free-form deformation (Rueckert et al., IEEE TMI 18(8), 1999) on Mattes' mutual information.

    Three levels each. Optimisers, levels and the growing mesh are those of SimpleITK's examples; the mesh is finer
    than theirs, which is meant for one head, and both line search and steps are cut to keep the time of the others.

    Attributes
    ----------
    shrink, sigma : factor and smoothing (voxels) per level, coarse to fine.
    least_voxels : images are shrunk only as far as the middle one of their axes keeps so many.
    bins : of the joint histogram.
    samples : voxels that the metric looks at, drawn once per level.
    mesh, growth : cells along the longest axis at the first level, and how often as many at each level; cells of
        the other axes are as long.
    affine_steps, steps, search : steps of both optimisers per level, and evaluations of a line search.
    """

    name: str = "sitk-bspline"
    shrink: tuple[int, ...] = (4, 2, 1)
    sigma: tuple[float, ...] = (2.0, 1.0, 0.0)
    least_voxels: int = 32
    bins: int = 50
    samples: int = 20_000
    mesh: int = 4
    growth: tuple[int, ...] = (1, 2, 4)
    affine_steps: int = 100
    steps: int = 30
    search: int = 5
    seed: int = 1
    package: ClassVar[str] = "SimpleITK"
    modules: ClassVar[tuple[str, ...]] = ()

    def register(self, fixed: Image, moving: Image, modality: Modality, folder: Path) -> Transform:
        target, source = itk_image(fixed), itk_image(moving)
        centred = sitk.CenteredTransformInitializer(
            target, source, sitk.AffineTransform(fixed.ndim), sitk.CenteredTransformInitializerFilter.GEOMETRY
        )
        method = self._method(target)
        method.SetOptimizerAsGradientDescent(
            1.0, self.affine_steps, convergenceMinimumValue=1e-6, convergenceWindowSize=10
        )
        method.SetOptimizerScalesFromPhysicalShift()
        method.SetInitialTransform(centred, inPlace=False)
        affine = method.Execute(target, source)
        method = self._method(target)
        method.SetMovingInitialTransform(affine)
        method.SetOptimizerAsGradientDescentLineSearch(
            5.0,
            self.steps,
            convergenceMinimumValue=1e-4,
            convergenceWindowSize=5,
            lineSearchMaximumIterations=self.search,
        )
        extent = fixed.grid.extent[::-1]
        cells = [max(1, round(self.mesh * float(e / extent.max()))) for e in extent]
        spline = sitk.BSplineTransformInitializer(target, cells)
        method.SetInitialTransformAsBSpline(spline, inPlace=False, scaleFactors=list(self.growth))
        spline = method.Execute(target, source)
        return Chain((from_itk(spline, name=self.name), from_itk(affine, name=self.name)))

    def _method(self, target: sitk.Image) -> sitk.ImageRegistrationMethod:
        method = sitk.ImageRegistrationMethod()
        method.SetMetricAsMattesMutualInformation(self.bins)
        method.SetMetricSamplingStrategy(method.RANDOM)
        method.SetMetricSamplingPercentage(min(1.0, self.samples / target.GetNumberOfPixels()), self.seed)
        method.SetInterpolator(sitk.sitkLinear)
        most = max(1, sorted(target.GetSize())[target.GetDimension() // 2] // self.least_voxels)
        method.SetShrinkFactorsPerLevel([min(factor, most) for factor in self.shrink])
        method.SetSmoothingSigmasPerLevel(list(self.sigma))
        method.SetSmoothingSigmasAreSpecifiedInPhysicalUnits(False)
        return method

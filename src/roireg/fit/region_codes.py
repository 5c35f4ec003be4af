"""Regions coded in a few channels: a term of the dense fit whose cost does not grow with their number.

Every pair of regions gets a unit vector, and both images a map that is the sum of the vectors of the regions at a
voxel. Where the maps agree under a transform, all regions do. The squared difference, summed over the image and
scaled by the volumes of the regions, is a weighted mean of one minus their Dice coefficients.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from roireg.core.filters import gaussian_smooth
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.rois import ROIPairs
from roireg.core.transforms import Affine
from roireg.core.warp import resample, sample, voxel_coords, warp
from roireg.segment.promptable import NetworkAnswers

__all__ = ["CodedAgreement", "RegionCodes"]

CHANNELS = 8
"""Channels of the maps; so many pairs have vectors at right angles, more share them at random."""

POINTS = 150_000
"""Places that are looked at in one step, drawn anew for every step out of those near a border."""

BLUR = 0.7
"""Standard deviation in voxels of the low-pass of the maps, so that a border pulls before it is crossed."""


@dataclass(frozen=True, eq=False)
class RegionCodes:
    """Code maps of both images.

    Attributes
    ----------
    fixed, moving : (C, *shape) maps on grids over the images.
    """

    fixed: Image
    moving: Image

    @classmethod
    def of(cls, pairs: ROIPairs, weights: Tensor) -> RegionCodes:
        """Give every pair its code; weights are (K,).

        Pairs that share a region (one-to-many) are one group with one vector: it does not matter which part of the
        one goes to which of the many.
        """
        group = _groups(pairs)
        count = int(group.max()) + 1
        channels = min(CHANNELS, count)
        vectors = torch.eye(channels)
        if count > channels:
            vectors = torch.randn(count, channels, generator=torch.Generator().manual_seed(0))
            vectors = vectors / vectors.norm(dim=1, keepdim=True)
        total = torch.zeros(count).index_add_(0, torch.as_tensor(group), weights.cpu().float())
        masks = []
        for rois, index in (
            (pairs.fixed, [p.fixed for p in pairs.pairs]),
            (pairs.moving, [p.moving for p in pairs.pairs]),
        ):
            # Where a segmenter says how probable its regions are, borders are as soft as it is unsure of them.
            soft = rois.soft if isinstance(rois, NetworkAnswers) else None
            shares = rois.masks.to(torch.uint8) * 255 if soft is None else soft
            united = torch.zeros(count, *rois.grid.shape, dtype=torch.uint8, device=rois.masks.device)
            for k, g in zip(index, group.tolist(), strict=True):
                torch.maximum(united[g], shares[k], out=united[g])
            masks.append(united)
        size = torch.zeros(count)
        for united, rois in zip(masks, (pairs.fixed, pairs.moving), strict=True):
            size += (
                united.flatten(1).sum(1, dtype=torch.float64).float().cpu() / 255 * float(np.prod(rois.grid.spacing))
            )
        # Between counting every voxel alike (small regions are lost) and every region alike (large ones are bent).
        share = total / size.clamp(min=1e-6).sqrt()
        share = share * (total.sum() / (share * size).sum())
        vectors = vectors * share.sqrt()[:, None]
        maps = []
        for united, rois in zip(masks, (pairs.fixed, pairs.moving), strict=True):
            data = torch.zeros(channels, *rois.grid.shape, device=united.device)
            for mask, vector in zip(united, vectors, strict=True):
                there = mask > 0
                data[:, there] += vector[:, None].to(data.device) * (mask[there].float() / 255)
            maps.append(Image(data, rois.grid, name="regions"))
        return cls(*maps)

    def at(self, spacing: float) -> RegionCodes:
        """Return the maps at voxels of at least `spacing` mm, low-passed."""
        maps = []
        for image in (self.fixed, self.moving):
            grid = image.grid.with_spacing(np.maximum(image.grid.spacing, spacing))
            coarse = resample(image, grid) if grid.shape != image.grid.shape else image
            sigma = np.where(np.array(grid.shape) > 1, BLUR * grid.spacing.min() / grid.spacing, 0.0)
            maps.append(coarse.with_data(gaussian_smooth(coarse.data, sigma)))
        return RegionCodes(*maps)


class CodedAgreement:
    """Squared difference of code maps, summed over the image in mm^d: a weighted sum of 1 - Dice.

    Parameters
    ----------
    codes : at the resolution of the level.
    affine : map that follows the flow.
    control : lattice of the displacement.
    seed : of the places that are drawn; equal seeds and calls give equal places.
    """

    def __init__(self, codes: RegionCodes, affine: Affine, control: Grid, *, seed: int = 0) -> None:
        fixed, device = codes.fixed, codes.fixed.data.device
        moved = warp(codes.moving, affine, fixed.grid, fill=0.0)
        # Everything within three voxels of a border in either image; elsewhere nothing would pull.
        span = torch.zeros_like(fixed.data[0])
        for data in (fixed.data, moved.data):
            span = torch.maximum(span, _range(data).amax(0))
        near = torch.nonzero(_dilated(span > 1e-3 * float(span.max())), as_tuple=False)
        self.total = len(near) * float(np.prod(fixed.grid.spacing))
        points = torch.as_tensor(fixed.grid.world_from_index(near.cpu().numpy()))
        self.codes = fixed.data[(slice(None), *near.T)]
        self.control_coords = voxel_coords(control, points).float().to(device)
        self.coords = voxel_coords(codes.moving.grid, affine.map_points(points)).float().to(device)
        linear = np.linalg.inv(codes.moving.grid.affine[:-1, :-1])[::-1] @ affine.matrix[:-1, :-1]
        self.linear = torch.as_tensor(linear.copy(), dtype=torch.float32, device=device)
        self.moving = codes.moving.data[None]
        self.size = torch.tensor(codes.moving.grid.shape[::-1], dtype=torch.float32, device=device)
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, displacement: Tensor) -> Tensor:
        """Loss under a (d, *control) displacement in mm."""
        count = len(self.coords)
        control, base, codes = self.control_coords, self.coords, self.codes
        if count > POINTS:
            index = torch.randint(count, (POINTS,), generator=self.generator).to(base.device)
            control, base, codes = control[index], base[index], codes[:, index]
        shape = (1, *[1] * (displacement.ndim - 2), -1, displacement.shape[0])
        u = sample(displacement[None], control.reshape(shape)).flatten(2)[0]
        coords = base + (self.linear @ u).T
        outside = ((coords < -0.5) | (coords > self.size - 0.5)).any(-1)
        warped = sample(self.moving, coords.reshape(shape)).flatten(2)[0] * ~outside
        if not len(coords):
            return displacement.sum() * 0
        return self.total * (warped - codes).square().sum(0).mean()


def _groups(pairs: ROIPairs) -> NDArray[np.int64]:
    """(K,) number of the group of every pair: pairs that share a region, directly or through others."""
    group = np.arange(len(pairs))
    for side in ("fixed", "moving"):
        first: dict[int, int] = {}
        for k, pair in enumerate(pairs.pairs):
            region = getattr(pair, side)
            if region in first:
                group[group == group[k]] = group[first[region]]
            else:
                first[region] = k
    return np.unique(group, return_inverse=True)[1]


def _range(data: Tensor) -> Tensor:
    """Largest minus smallest value in the 3^d neighbourhood of every voxel."""
    pool = F.max_pool3d if data.ndim == 4 else F.max_pool2d
    window = [3 if n > 1 else 1 for n in data.shape[1:]]
    padding = [w // 2 for w in window]
    return pool(data[None], window, 1, padding)[0] + pool(-data[None], window, 1, padding)[0]


def _dilated(mask: Tensor) -> Tensor:
    pool = F.max_pool3d if mask.ndim == 3 else F.max_pool2d
    window = [5 if n > 1 else 1 for n in mask.shape]
    return pool(mask.float()[None, None], window, 1, [w // 2 for w in window])[0, 0] > 0

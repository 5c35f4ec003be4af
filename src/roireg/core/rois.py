"""Regions of interest, pairs of them, and the prompts that ask for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from roireg.core.errors import GeometryError, InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.warp import resample

__all__ = ["ROIPair", "ROIPairs", "ROISet", "Prompt"]

STATUSES = ("proposed", "accepted", "rejected")


@dataclass(frozen=True, eq=False)
class Prompt:
    """What a person points at: points in or out of the region, a box, or both.

    Parameters
    ----------
    points : (N, d) world points, (x, y[, z]) mm; may be empty.
    labels : (N,) 1 for "inside the region", 0 for "outside".
    box : (2, d) world corners of a box around the region (axis-aligned in index space), or None.

    Raises
    ------
    InputError
        When shapes do not fit, labels are not 0/1, or there is neither a positive point nor a box.
    """

    points: NDArray[np.float64]
    labels: NDArray[np.int64]
    box: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        points = np.atleast_2d(np.asarray(self.points, dtype=np.float64))
        labels = np.asarray(self.labels, dtype=np.int64).reshape(-1)
        if points.size == 0:
            points = points.reshape(0, points.shape[-1] or 2)
        if len(points) != len(labels):
            raise InputError(f"a prompt needs one label per point, found {len(points)} points, {len(labels)} labels")
        if not np.isin(labels, (0, 1)).all():
            raise InputError(f"prompt labels are 1 (inside) or 0 (outside), found {sorted(set(labels.tolist()))}")
        if self.box is None and not (labels == 1).any():
            raise InputError("a prompt needs at least one positive point or a box")
        object.__setattr__(self, "points", points)
        object.__setattr__(self, "labels", labels)
        if self.box is not None:
            object.__setattr__(self, "box", np.asarray(self.box, dtype=np.float64).reshape(2, -1))

    @classmethod
    def at(cls, *points: ArrayLike) -> Prompt:
        """Return a prompt of positive points, each (x, y[, z]) mm."""
        array = np.atleast_2d(np.asarray(points, dtype=np.float64))
        return cls(array, np.ones(len(array), dtype=np.int64))


@dataclass(frozen=True, eq=False)
class ROISet:
    """K regions on one grid; they may overlap.

    Parameters
    ----------
    masks : (K, *shape) bool tensor, no mask empty.
    grid : the grid of the masks; it need not be the grid of the image they came from.
    names : K class names, None where a region has no class.
    scores : (K,) float tensor, how sure the segmenter is of each region, 0..1 (1 when it does not say).

    Raises
    ------
    GeometryError
        When masks and grid differ in shape.
    InputError
        When a mask is empty or the number of names or scores differs from K.
    """

    masks: Tensor
    grid: Grid
    names: tuple[str | None, ...] = ()
    scores: Tensor | None = None

    def __post_init__(self) -> None:
        if self.masks.dtype != torch.bool or tuple(self.masks.shape[1:]) != self.grid.shape:
            raise GeometryError(
                f"region masks are bool of shape (K, {', '.join(map(str, self.grid.shape))}), "
                f"found {self.masks.dtype} of shape {tuple(self.masks.shape)}"
            )
        k = len(self.masks)
        if not self.names:
            object.__setattr__(self, "names", (None,) * k)
        if self.scores is None:
            object.__setattr__(self, "scores", torch.ones(k, device=self.masks.device))
        assert self.scores is not None
        if len(self.names) != k or len(self.scores) != k:
            raise InputError(
                f"{k} regions need as many names and scores, found {len(self.names)}, {len(self.scores)}"
            )
        # As bytes: twenty times as fast as `any` of truth values.
        if k and not bool(self.masks.view(torch.uint8).flatten(1).amax(1).all()):
            raise InputError("a region mask is empty")

    @classmethod
    def empty(cls, grid: Grid) -> ROISet:
        """Return a set without regions."""
        return cls(torch.zeros((0, *grid.shape), dtype=torch.bool, device="cpu"), grid)

    @classmethod
    def from_labels(cls, labels: Tensor, grid: Grid, *, names: dict[int, str] | None = None) -> ROISet:
        """Return one region per non-zero value of a (*shape) integer label map, ascending, named by `names`."""
        ids = [int(i) for i in torch.unique(labels) if int(i) != 0]
        if not ids:
            return cls.empty(grid)
        masks = torch.stack([labels == i for i in ids])
        return cls(masks, grid, tuple((names or {}).get(i, str(i)) for i in ids))

    def __len__(self) -> int:
        return len(self.masks)

    def subset(self, index: Sequence[int]) -> ROISet:
        """Return the regions at `index`, in that order."""
        assert self.scores is not None
        rows = torch.as_tensor(list(index), dtype=torch.long, device=self.masks.device)
        return ROISet(self.masks[rows], self.grid, tuple(self.names[i] for i in index), self.scores[rows])

    def to(self, device: torch.device | str) -> ROISet:
        """Return the set on another device."""
        assert self.scores is not None
        return replace(self, masks=self.masks.to(device), scores=self.scores.to(device))

    def on(self, grid: Grid) -> ROISet:
        """Return the same regions on another grid over the same box of the world; none vanishes."""
        if self.grid == grid or not len(self):
            return self if self.grid == grid else ROISet.empty(grid)
        masks = torch.stack([self._on(k, grid) for k in range(len(self))])
        return ROISet(masks, grid, self.names, self.scores)

    def _on(self, k: int, grid: Grid) -> Tensor:
        """(*shape) bool: what one region covers by half, or else the voxels that it covers most."""
        share = resample(Image(self.masks[k][None].float(), self.grid), grid).data[0]
        most = float(share.max())
        if most > 0:
            return (share > 0) & (share >= min(most, 0.5))
        # It may lie between voxel centres: the voxel it is in.
        index = np.clip(np.round(grid.index_from_world(self.centroids[k])), 0, np.array(grid.shape) - 1)
        share[tuple(index.astype(int).tolist())] = 1
        return share > 0

    @cached_property
    def _moments(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        d = self.grid.ndim
        first, second = [], []
        for mask in self.masks.cpu().numpy():
            index = np.stack(np.unravel_index(np.flatnonzero(mask), mask.shape), axis=-1).astype(np.float64)
            mean = index.mean(0)
            deviation = index - mean
            first.append(mean)
            # 1/12 is the second moment of one voxel, so that thin regions keep a width.
            second.append(deviation.T @ deviation / len(index) + np.eye(d) / 12)
        if not first:
            return np.zeros((0, d)), np.zeros((0, d, d))
        linear = self.grid.affine[:-1, :-1]
        return (
            self.grid.world_from_index(np.array(first)),
            linear @ np.array(second) @ linear.T,
        )

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """(K,) voxels."""
        # By NumPy: ten times as fast as a sum of truth values in torch.
        return np.array([np.count_nonzero(mask) for mask in self.masks.cpu().numpy()], dtype=np.int64)

    @property
    def volumes(self) -> NDArray[np.float64]:
        """(K,) area in mm² or volume in mm³."""
        return np.asarray(self.sizes * float(np.prod(self.grid.spacing)), dtype=np.float64)

    @property
    def centroids(self) -> NDArray[np.float64]:
        """(K, d) world centroids, (x, y[, z]) mm."""
        return self._moments[0]

    @property
    def covariances(self) -> NDArray[np.float64]:
        """(K, d, d) second central moments in mm², world axes."""
        return self._moments[1]

    def layers(self) -> list[tuple[Tensor, list[int]]]:
        """Pack the regions into as few label maps as a first-fit needs.

        Returns a list of ((*shape) int32 label map, region indices); value j + 1 in a map is the j-th region
        of its list. Regions that overlap go to different layers.
        """
        packed: list[tuple[Tensor, list[int]]] = []
        for k, mask in enumerate(self.masks):
            for labels, members in packed:
                if not bool((labels[mask] != 0).any()):
                    members.append(k)
                    labels[mask] = len(members)
                    break
            else:
                labels = torch.zeros(self.grid.shape, dtype=torch.int32, device=self.masks.device)
                labels[mask] = 1
                packed.append((labels, [k]))
        return packed

    def __repr__(self) -> str:
        return f"ROISet({len(self)} regions, {self.grid!r})"


@dataclass(frozen=True)
class ROIPair:
    """One correspondence.

    Attributes
    ----------
    moving, fixed : index of the region in the moving and in the fixed set.
    similarity : what the matcher measured (cosine for features, 1 for equal classes).
    confidence : how far to trust the pair, 0..1.
    probability : how probable it is that both regions are the same thing, 0..1; None where that is not known.
    source : who proposed it ("labels", "regions", "prompt", "user" ...).
    status : "proposed", "accepted" (kept whatever the matcher says) or "rejected" (never used).
    name : class name, if any.
    prompts : prompts in the moving image that led to the pair.
    """

    moving: int
    fixed: int
    similarity: float
    confidence: float
    source: str = "regions"
    status: str = "proposed"
    name: str | None = None
    prompts: tuple[Prompt, ...] = ()
    probability: float | None = None

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise InputError(f"the status of a pair is one of {', '.join(STATUSES)}, found {self.status!r}")


@dataclass(frozen=True, eq=False)
class ROIPairs:
    """Corresponding regions of two images, unmatched regions included.

    Parameters
    ----------
    moving, fixed : all regions of either image; pairs point into them.
    pairs : the correspondences, best first. A region may occur in several pairs.

    Raises
    ------
    InputError
        When a pair points to a region that is not there.
    """

    moving: ROISet
    fixed: ROISet
    pairs: tuple[ROIPair, ...] = field(default=())

    def __post_init__(self) -> None:
        object.__setattr__(self, "pairs", tuple(self.pairs))
        for p in self.pairs:
            if not (0 <= p.moving < len(self.moving) and 0 <= p.fixed < len(self.fixed)):
                raise InputError(
                    f"pair ({p.moving}, {p.fixed}) points outside the {len(self.moving)} moving "
                    f"and {len(self.fixed)} fixed regions"
                )

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def active(self) -> ROIPairs:
        """The same regions without the rejected pairs."""
        return replace(self, pairs=tuple(p for p in self.pairs if p.status != "rejected"))

    def moving_masks(self) -> ROISet:
        """Return the moving region of every pair, pair order."""
        return self.moving.subset([p.moving for p in self.pairs])

    def fixed_masks(self) -> ROISet:
        """Return the fixed region of every pair, pair order."""
        return self.fixed.subset([p.fixed for p in self.pairs])

    @property
    def similarity(self) -> NDArray[np.float64]:
        """(K,) similarities in pair order."""
        return np.array([p.similarity for p in self.pairs], dtype=np.float64)

    @property
    def confidence(self) -> NDArray[np.float64]:
        """(K,) confidences in pair order."""
        return np.array([p.confidence for p in self.pairs], dtype=np.float64)

    @property
    def unmatched_moving(self) -> list[int]:
        """Indices of moving regions that no pair uses."""
        used = {p.moving for p in self.active.pairs}
        return [i for i in range(len(self.moving)) if i not in used]

    @property
    def unmatched_fixed(self) -> list[int]:
        """Indices of fixed regions that no pair uses."""
        used = {p.fixed for p in self.active.pairs}
        return [i for i in range(len(self.fixed)) if i not in used]

    def __repr__(self) -> str:
        return f"ROIPairs({len(self)} pairs of {len(self.moving)} moving and {len(self.fixed)} fixed regions)"

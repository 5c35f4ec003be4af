"""The regions of two images before they are paired, and how alike they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from roireg.core.image import Image
from roireg.core.rois import ROIPairs, ROISet
from roireg.core.transforms import Affine
from roireg.match.geometry import Hypothesis, affine_hypotheses
from roireg.match.matcher import MatchOptions, match, region_similarity

__all__ = ["RegionCandidates"]


@dataclass(frozen=True, eq=False)
class RegionCandidates:
    """Regions of two images, with what they are compared by.

    Attributes
    ----------
    fixed, moving : regions.
    fixed_features, moving_features : (C, *shape) feature maps with the same channels.
    options : how regions are compared and paired.
    embeddings : anatomical embeddings (fixed, moving), where descriptors count them.
    """

    fixed: ROISet
    moving: ROISet
    fixed_features: Image
    moving_features: Image
    options: MatchOptions
    embeddings: tuple[Image, Image] | None = None

    @cached_property
    def similarity(self) -> NDArray[np.float64]:
        """(M, F) similarities, rows moving."""
        if not (len(self.moving) and len(self.fixed)):
            return np.zeros((len(self.moving), len(self.fixed)))
        return region_similarity(
            self.fixed,
            self.moving,
            self.fixed_features,
            self.moving_features,
            options=self.options,
            embeddings=self.embeddings,
        )

    def hypotheses(self, rng: np.random.Generator) -> list[Hypothesis]:
        """Return the affine maps that bring many similar regions together, see `affine_hypotheses`."""
        if not self.similarity.size:
            return []
        return affine_hypotheses(self.fixed, self.moving, self.similarity, rng=rng, options=self.options.geometry)

    def paired(
        self,
        *,
        guide: Affine | None = None,
        excluded: Sequence[tuple[int, int]] = (),
        rng: np.random.Generator | None = None,
    ) -> ROIPairs:
        """Pair the regions, see `match`."""
        return match(
            self.fixed,
            self.moving,
            self.fixed_features,
            self.moving_features,
            options=self.options,
            excluded=excluded,
            guide=guide,
            similarity=self.similarity,
            rng=rng,
        )

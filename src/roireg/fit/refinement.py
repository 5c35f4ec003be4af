"""The refinement of a global map as a stage: the last step of rigid, similarity, affine and perspective results."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from roireg.core.transforms import Affine, Chain, Transform
from roireg.core.words import GlobalType
from roireg.fit.perspective import perspective_flow
from roireg.fit.region_affine import affine_part
from roireg.fit.search import evidence_of, refine
from roireg.fit.stage import Problem, Stage

__all__ = ["Refine"]


class Refine(Stage):
    """Global map of one type near the start; a start that `--init` names is refined, too.

    On orientations of edges, then on intensities where these explain each other; see `roireg.fit.search.refine`.
    """

    title: ClassVar[str] = "refining the map"

    stage: Literal["refine"] = "refine"
    type: GlobalType = Field("affine", description="freedom of the map; homography in 2D only")

    def __call__(self, problem: Problem, start: Transform) -> Transform:
        grid, search = problem.pair.fixed.grid, problem.search
        starts = [affine_part(start, grid)]
        if problem.searchable:
            starts += [c.affine for c in problem.starts]
        maps = [refine(problem.pair, affine, self.type, search=search) for affine in starts]
        best = max(maps, key=lambda m: evidence_of(search, m.affine).structure)
        if self.type != "homography" or not np.any(best.matrix[-1, :-1]):
            return Affine(best.matrix)
        flow = perspective_flow(best.matrix, best.affine, grid)
        problem.trace.perspective = flow
        return Chain((flow, best.affine))

"""Geometric consistency of region pairs: several plausible affine hypotheses, ranked.

Regions are summarised by centroid and second moments. Hypotheses come from single pairs (translation; scale and
orientation of the moments) and from samples of two to four pairs; they are scored over all regions at once
in the manner of MSAC (Torr and Zisserman, CVIU 78:138-156, 2000), weighted by similarity, and the best are
refined on the pairs that agree (locally optimised RANSAC, Chum et al., DAGM 2003).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from roireg.core.errors import GeometryError
from roireg.core.grid import Grid
from roireg.core.rois import ROISet
from roireg.core.transforms import Affine
from roireg.match.moments import (
    batched_matrices,
    fit_affine,
    fit_similarity,
    moment_rotations,
    overlap_coefficient,
    plausible,
)

__all__ = ["GeometryOptions", "Hypothesis", "affine_hypotheses", "pair_agreement"]

Array = NDArray[np.float64]
Index = NDArray[np.int64]


class GeometryOptions(BaseModel):
    """Limits and effort of the search for an affine map on which regions agree."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tolerance: float = Field(
        0.7, gt=0, description="largest distance of a mapped centroid from its partner, in radii of the region"
    )
    floor: float = Field(0.03, gt=0, description="the same for small regions, in radii of the fixed image")
    max_scale: float = Field(2.0, gt=1, description="largest stretch along any direction (and its inverse)")
    max_shear: float = Field(1.6, gt=1, description="largest ratio of two stretches")
    max_rotation: float | None = Field(
        None, gt=0, le=180, description="largest rotation in degrees; None: any in 2D, 45 in 3D"
    )
    min_visible: float = Field(
        0.3, ge=0, le=1, description="least share of the fixed regions that land in the moving image"
    )
    prior: float = Field(
        0.3,
        ge=0,
        description="how unlikely a large motion is: a rotation by 90 degrees, the largest scale and the largest "
        "shear each lower the score by the factor exp(-prior / 2)",
    )
    samples: int = Field(1500, ge=0, description="random samples of two to four pairs")
    partners: int = Field(8, ge=1, description="most similar partners per region that are considered")
    refined: int = Field(16, ge=1, description="hypotheses that are refined")
    separation: float = Field(
        0.06, gt=0, description="hypotheses whose maps differ by less than this many image radii are one"
    )
    max_regions: int = Field(100, ge=1, description="regions per image that take part, the largest first")


@dataclass(frozen=True, eq=False)
class Hypothesis:
    """One way in which the regions of both images fit together.

    Attributes
    ----------
    affine : fixed world -> moving world, mm.
    score : share of the regions' weight that finds a similar partner in place, 0..1.
    pairs : (moving, fixed) indices of the mutually best pairs that agree with the affine, best first.
    residuals : (len(pairs),) distance in mm between mapped fixed and moving centroid.
    kind : "translation", "similarity" or "affine": the freest model used on the way.
    """

    affine: Affine
    score: float
    pairs: tuple[tuple[int, int], ...]
    residuals: Array
    kind: str

    def __repr__(self) -> str:
        return f"Hypothesis({self.kind}, score {self.score:.3f}, {len(self.pairs)} pairs, {self.affine!r})"


def pair_agreement(fixed: ROISet, moving: ROISet, affine: Affine, *, options: GeometryOptions | None = None) -> Array:
    """(M, F) Bhattacharyya coefficient of the regions' Gaussians under an affine; 1 when they coincide."""
    # Every region counts here, also those too small to take part in the search.
    options = (options or GeometryOptions()).model_copy(update={"max_regions": max(len(moving), len(fixed))})
    problem = _Problem.build(fixed, moving, np.ones((len(moving), len(fixed))), options)
    return problem.agreement(affine.matrix)


def affine_hypotheses(
    fixed: ROISet,
    moving: ROISet,
    similarity: Array,
    *,
    rng: np.random.Generator,
    count: int = 10,
    options: GeometryOptions | None = None,
) -> list[Hypothesis]:
    """Find distinct affine maps that bring many similar regions together.

    Parameters
    ----------
    fixed, moving : F and M regions, world mm.
    similarity : (M, F) similarities; entries <= 0 or -inf are never paired.
    rng : random numbers for the samples (`core.seeds.generator`).
    count : at most so many hypotheses.
    options : limits and effort.

    Returns
    -------
    Hypotheses, best score first, at least `options.separation` apart. Empty when no pair has a
    positive similarity. The order of the regions does not matter except through the random samples.

    Raises
    ------
    GeometryError
        When the images differ in dimension or the similarity matrix does not fit the regions.
    """
    options = options or GeometryOptions()
    if moving.grid.ndim != fixed.grid.ndim:
        raise GeometryError(
            f"moving regions are {moving.grid.ndim}D and fixed regions {fixed.grid.ndim}D; both must agree"
        )
    if similarity.shape != (len(moving), len(fixed)):
        raise GeometryError(
            f"{len(moving)} moving and {len(fixed)} fixed regions need a similarity of that shape, "
            f"found {similarity.shape}"
        )
    problem = _Problem.build(fixed, moving, similarity, options)
    if not (problem.similarity > 0).any():
        return []
    matrices = np.concatenate(list(_proposals(problem, rng)))
    matrices = matrices[plausible(matrices, options.max_scale, options.max_shear, problem.max_rotation)]
    scores = problem.coarse_scores(matrices)
    # Half of the starts near the best, half spread out: one broad peak shall not hide the others.
    near = problem.distinct(matrices, scores, options.refined // 2)
    spread = problem.distinct(matrices, scores, options.refined - len(near), separation=4 * options.separation)
    starts = list(dict.fromkeys([*near, *spread]))
    refined = [problem.refine(matrices[i]) for i in starts]
    refined_matrices = np.array([matrix for matrix, _, _ in refined])
    refined_scores = np.array([score for _, score, _ in refined])
    return [
        problem.hypothesis(*refined[i])
        for i in problem.distinct(refined_matrices, refined_scores, count)
        if refined_scores[i] > 0
    ]


@dataclass(frozen=True, eq=False)
class _Problem:
    """The regions of both images as Gaussians, in a common frame: mm, weights, tolerances."""

    options: GeometryOptions
    grid_f: Grid
    grid_m: Grid
    index_f: NDArray[np.int64]
    index_m: NDArray[np.int64]
    mean_f: Array
    mean_m: Array
    cov_f: Array
    cov_m: Array
    radius_f: Array
    radius_m: Array
    weight_f: Array
    weight_m: Array
    similarity: Array
    probes: Array
    size: float
    max_rotation: float

    @classmethod
    def build(cls, fixed: ROISet, moving: ROISet, similarity: Array, options: GeometryOptions) -> _Problem:
        d = fixed.grid.ndim
        sides = []
        for rois in (fixed, moving):
            radius = rois.volumes ** (1 / d)
            index = np.sort(np.argsort(-radius, kind="stable")[: options.max_regions])
            sides.append((index, rois.centroids[index], rois.covariances[index], radius[index]))
        (jf, cf, sf, rf), (im, cm, sm, rm) = sides
        rotation = options.max_rotation if options.max_rotation is not None else (180.0 if d == 2 else 45.0)
        clean = np.where(np.isfinite(similarity), similarity, 0.0).clip(0, 1)
        return cls(
            options,
            fixed.grid,
            moving.grid,
            jf,
            im,
            cf,
            cm,
            sf,
            sm,
            rf,
            rm,
            _weights(fixed, jf, rf),
            _weights(moving, im, rm),
            clean[np.ix_(im, jf)],
            fixed.grid.corners() * 0.5 + fixed.grid.center * 0.5,
            float(np.prod(fixed.grid.extent) ** (1 / d)),
            rotation,
        )

    @property
    def d(self) -> int:
        return self.grid_f.ndim

    def candidates(self) -> NDArray[np.int64]:
        """(P, 2) (moving, fixed) pairs worth trying: the best partners of every region, best first."""
        k = self.options.partners
        s = self.similarity
        mask = np.zeros(s.shape, dtype=bool)
        rows = np.argsort(-s, axis=1, kind="stable")[:, :k]
        columns = np.argsort(-s, axis=0, kind="stable")[:k]
        np.put_along_axis(mask, rows, True, axis=1)
        np.put_along_axis(mask, columns, True, axis=0)
        pairs = np.argwhere(mask & (s > 0))
        importance = s[pairs[:, 0], pairs[:, 1]] * np.sqrt(self.radius_m[pairs[:, 0]] * self.radius_f[pairs[:, 1]])
        return pairs[np.argsort(-importance, kind="stable")]

    # -- scores -----------------------------------------------------------------------------------

    def prior(self, matrices: Array) -> Array:
        """(H,) factor in (0, 1] that prefers small rotations and scales."""
        u, s, vt = np.linalg.svd(matrices[:, :-1, :-1])
        cosine = (np.trace(u @ vt, axis1=1, axis2=2) - (self.d - 2)) / 2
        angle = np.arccos(np.clip(cosine, -1, 1)) / (np.pi / 2)
        scale = np.abs(np.log(s)).max(1) / np.log(self.options.max_scale)
        shear = np.log(s[:, 0] / s[:, -1]) / np.log(self.options.max_shear)
        return np.asarray(np.exp(-self.options.prior * (np.minimum(angle, 1) + scale**2 + shear**2) / 2))

    def visible(self, matrices: Array) -> tuple[Array, Array]:
        """(H, F) and (H, M): whose centroids fall inside the other image."""
        forward = self.mean_f @ matrices[:, :-1, :-1].transpose(0, 2, 1) + matrices[:, None, :-1, -1]
        inverse = np.linalg.inv(matrices)
        backward = self.mean_m @ inverse[:, :-1, :-1].transpose(0, 2, 1) + inverse[:, None, :-1, -1]
        return self.grid_m.contains(forward).astype(float), self.grid_f.contains(backward).astype(float)

    def combine(self, gain: NDArray[np.floating[Any]], matrices: Array) -> Array:
        """(H,) scores from (H, M, F) gains, prior left out: both directions, hidden regions are half a miss."""
        seen_f, seen_m = self.visible(matrices)
        score = np.zeros(len(matrices))
        for best, visible, weight in ((gain.max(1), seen_f, self.weight_f), (gain.max(2), seen_m, self.weight_m)):
            shown = visible @ weight
            score += 0.5 * (best * visible) @ weight / (0.5 + 0.5 * shown)
            score[shown < self.options.min_visible] = 0
        return score

    def coarse_scores(self, matrices: Array) -> Array:
        """(H,) MSAC scores on centroids and volumes, in slabs of bounded memory."""
        o = self.options
        # Thousands of maps times all pairs of regions: single precision, a slab that stays in the cache, no copies.
        tolerance = np.sqrt(self.radius_m[:, None] * self.radius_f[None]) * o.tolerance
        falloff = (1 / (tolerance**2 + (o.floor * self.size) ** 2)).astype(np.float32)
        ratio = (self.d * np.log(self.radius_f[None] / self.radius_m[:, None])).astype(np.float32)
        similarity = self.similarity.astype(np.float32)
        out = np.empty(len(matrices))
        step = max(1, 250_000 // max(1, similarity.size))
        for start in range(0, len(matrices), step):
            part = matrices[start : start + step]
            mapped = self.mean_f @ part[:, :-1, :-1].transpose(0, 2, 1) + part[:, None, :-1, -1]
            # |a - b|^2 expanded about the centre of the moving image, to keep digits.
            a = (self.mean_m - self.grid_m.center).astype(np.float32)
            b = (mapped - self.grid_m.center).astype(np.float32)
            gain = a @ b.transpose(0, 2, 1)
            gain *= -2
            gain += (a**2).sum(-1)[None, :, None]
            gain += (b**2).sum(-1)[:, None]
            gain *= falloff
            np.subtract(1, gain, out=gain)
            np.maximum(gain, 0, out=gain)
            gain *= similarity
            growth = np.log(np.abs(np.linalg.det(part[:, :-1, :-1]))).astype(np.float32)[:, None, None] + ratio
            growth *= growth
            growth += 1
            gain /= growth
            out[start : start + step] = self.combine(gain, part) * self.prior(part)
        return out

    def agreement(self, matrix: Array) -> Array:
        """(M, F) Bhattacharyya coefficients, covariances widened by the smallest tolerance."""
        widen = np.eye(self.d) * (self.options.floor * self.size) ** 2
        linear = matrix[:-1, :-1]
        mean = self.mean_f @ linear.T + matrix[:-1, -1]
        cov = linear @ self.cov_f @ linear.T + widen
        return overlap_coefficient(self.mean_m, self.cov_m + widen, mean, cov)

    def evaluate(self, matrix: Array) -> tuple[float, Array]:
        """Score of one affine with whole moments instead of centroids, and the (M, F) gains behind it."""
        # Squared: regions one radius apart still have a coefficient of about a half, which is no agreement.
        gain = self.similarity * self.agreement(matrix) ** 2
        return float(self.combine(gain[None], matrix[None])[0]), gain

    # -- search -----------------------------------------------------------------------------------

    def distinct(self, matrices: Array, scores: Array, count: int, *, separation: float | None = None) -> list[int]:
        """Indices of the best scores whose maps differ by more than the separation, best first."""
        least = (self.options.separation if separation is None else separation) * self.size
        probes = self.probes @ matrices[:, :-1, :-1].transpose(0, 2, 1) + matrices[:, None, :-1, -1]
        indices: list[int] = []
        for i in np.argsort(-scores, kind="stable"):
            if len(indices) == count:
                break
            apart = np.linalg.norm(probes[indices] - probes[i], axis=-1).mean(-1)
            if not (apart < least).any():
                indices.append(int(i))
        return indices

    def refine(self, matrix: Array, *, rounds: int = 4) -> tuple[Array, float, str]:
        """Refit on the mutually best pairs, freer models as more pairs support them; keep what scores best."""
        (best_score, best_gain), best, kind = self.evaluate(matrix), matrix, "translation"
        for model in ("translation", "similarity", "affine"):
            current, gain = best, best_gain
            for _ in range(rounds):
                m, f, weight = self.mutual(gain)
                needed = {"translation": 1, "similarity": self.d + 1, "affine": 2 * self.d + 2}[model]
                if len(m) < needed:
                    break
                current = self._fit(model, current, m, f, weight)
                if not plausible(current[None], self.options.max_scale, self.options.max_shear, self.max_rotation)[0]:
                    break
                score, gain = self.evaluate(current)
                # Least squares over many pairs is worth a trifle of score, which is flat near its top.
                if score < 0.995 * best_score:
                    break
                best, best_score, best_gain, kind = current, score, gain, model
        return best, best_score * float(self.prior(best[None])[0]), kind

    def _fit(self, model: str, current: Array, m: Index, f: Index, weight: Array) -> Array:
        source, target = self.mean_f[f], self.mean_m[m]
        if model == "translation":
            updated = current.copy()
            mapped = source @ current[:-1, :-1].T + current[:-1, -1]
            updated[:-1, -1] += np.average(target - mapped, axis=0, weights=weight)
            return updated
        if model == "similarity":
            return fit_similarity(source[None], target[None], weight[None])[0]
        return fit_affine(source, target, weight, ridge=0.05)

    def mutual(self, gain: Array, *, least: float = 0.2) -> tuple[Index, Index, Array]:
        """Pairs that are each other's best partner by (M, F) gains, with weights, best first."""
        f = gain.argmax(1)
        m = np.arange(len(f))
        keep = (gain.argmax(0)[f] == m) & (gain[m, f] > least * max(float(self.similarity.max()), 1e-12))
        m, f = m[keep], f[keep]
        order = np.argsort(-gain[m, f], kind="stable")
        m, f = m[order], f[order]
        return m, f, gain[m, f] ** 2 * np.sqrt(self.radius_m[m] * self.radius_f[f])

    def hypothesis(self, matrix: Array, score: float, kind: str) -> Hypothesis:
        m, f, _ = self.mutual(self.evaluate(matrix)[1])
        residuals = np.linalg.norm(self.mean_f[f] @ matrix[:-1, :-1].T + matrix[:-1, -1] - self.mean_m[m], axis=1)
        pairs = tuple((int(self.index_m[i]), int(self.index_f[j])) for i, j in zip(m, f, strict=True))
        return Hypothesis(Affine(matrix), score, pairs, residuals, kind)


def _weights(rois: ROISet, index: NDArray[np.int64], radius: Array) -> Array:
    """(K,) importance, summing to 1: by radius, less where the image border cuts the region.

    A cut region has its centroid, size and shape from the crop and not from the anatomy.
    """
    d = rois.grid.ndim
    weight = np.empty(len(index))
    for i, k in enumerate(index):
        mask = rois.masks[k]
        cut = sum(int(mask.select(a, j).sum()) for a, n in enumerate(rois.grid.shape) if n > 2 for j in (0, n - 1))
        surface = 2 * d * float(mask.sum()) ** ((d - 1) / d)
        weight[i] = radius[i] * max(0.1, 1 - 2 * cut / surface)
    return np.asarray(weight / max(weight.sum(), 1e-30))


def _proposals(problem: _Problem, rng: np.random.Generator) -> Iterator[Array]:
    """Yield batches of (H, d+1, d+1) matrices worth scoring."""
    d = problem.d
    eye = np.eye(d)
    pairs = problem.candidates()
    m, f = pairs.T
    yield np.eye(d + 1)[None]
    yield batched_matrices(eye[None], (problem.grid_m.center - problem.grid_f.center)[None])
    yield batched_matrices(np.broadcast_to(eye, (len(m), d, d)), problem.mean_m[m] - problem.mean_f[f])
    scale = (problem.radius_m[m] / problem.radius_f[f])[:, None, None]

    def about(linear: Array, i: Index, j: Index) -> Array:
        return batched_matrices(linear, problem.mean_m[i] - np.einsum("nij,nj->ni", linear, problem.mean_f[j]))

    yield about(scale * eye, m, f)
    few = slice(0, 400)
    for rotation in moment_rotations(problem.cov_f[f[few]], problem.cov_m[m[few]]):
        yield about(rotation, m[few], f[few])
        yield about(scale[few] * rotation, m[few], f[few])
    # Large and similar regions are drawn more often: they are fewer and better defined.
    chance = problem.similarity[m, f] * np.sqrt(problem.radius_m[m] * problem.radius_f[f])
    chance = chance / chance.sum()
    for size, share in ((2, 0.5), (3, 0.3), (d + 1, 0.2)):
        if len(pairs) < size:
            continue
        drawn = rng.choice(len(pairs), size=(int(share * problem.options.samples), size), p=chance)
        distinct = np.ones(len(drawn), dtype=bool)
        for a, b in itertools.combinations(range(size), 2):
            distinct &= (m[drawn[:, a]] != m[drawn[:, b]]) & (f[drawn[:, a]] != f[drawn[:, b]])
        drawn = drawn[distinct]
        if len(drawn) == 0:
            continue
        source, target = problem.mean_f[f[drawn]], problem.mean_m[m[drawn]]
        weight = np.ones(source.shape[:2])
        if size == 2 and d == 3:
            yield fit_similarity(source, target, weight, rotate=False)
        else:
            yield fit_similarity(source, target, weight)

"""Closed forms on centroids and second moments, batched: fits, rotations, overlaps, plausibility."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "batched_matrices",
    "fit_affine",
    "fit_projective",
    "fit_similarity",
    "map_projective",
    "moment_rotations",
    "overlap_coefficient",
    "plausible",
    "rotation_angle",
]

Array = NDArray[np.float64]


def batched_matrices(linear: Array, offset: Array) -> Array:
    """(H, d+1, d+1) homogeneous matrices from (H, d, d) linear parts and (H, d) offsets in mm."""
    h, d = offset.shape
    out = np.zeros((h, d + 1, d + 1))
    out[:, :d, :d] = linear
    out[:, :d, d] = offset
    out[:, d, d] = 1
    return out


def fit_similarity(source: Array, target: Array, weight: Array, *, rotate: bool = True) -> Array:
    """Weighted least-squares similarity (Umeyama, IEEE TPAMI 13:376-380, 1991), batched.

    Parameters
    ----------
    source, target : (H, N, d) points in mm; the map takes source to target.
    weight : (H, N) weights >= 0.
    rotate : False fits scale and translation only.

    Returns
    -------
    (H, d+1, d+1) matrices; where the source points coincide the linear part is 0 (implausible).
    """
    w = weight / weight.sum(1, keepdims=True)
    mean_s, mean_t = np.einsum("hn,hnd->hd", w, source), np.einsum("hn,hnd->hd", w, target)
    s, t = source - mean_s[:, None], target - mean_t[:, None]
    cross = np.einsum("hn,hni,hnj->hij", w, t, s)
    power = np.einsum("hn,hni,hni->h", w, s, s)
    safe = np.where(power > 0, power, 1.0)
    if rotate:
        u, singular, vt = np.linalg.svd(cross)
        sign = np.ones_like(singular)
        sign[:, -1] = np.sign(np.linalg.det(u) * np.linalg.det(vt))
        rotation = (u * sign[:, None]) @ vt
        scale = (singular * sign).sum(1) / safe
    else:
        rotation = np.broadcast_to(np.eye(source.shape[-1]), cross.shape)
        scale = np.trace(cross, axis1=1, axis2=2) / safe
    linear = np.where(power > 0, scale, 0.0)[:, None, None] * rotation
    return batched_matrices(linear, mean_t - np.einsum("hij,hj->hi", linear, mean_s))


def fit_affine(source: Array, target: Array, weight: Array, *, ridge: float = 0.0) -> Array:
    """Weighted least-squares affine, drawn towards the similarity fit.

    Parameters
    ----------
    source, target : (N, d) points in mm.
    weight : (N,) weights > 0.
    ridge : strength of the pull towards the similarity as a fraction of the mean variance of the source
        points; keeps directions that the points do not span well behaved.

    Returns
    -------
    (d+1, d+1) matrix, source to target.
    """
    start = fit_similarity(source[None], target[None], weight[None])[0]
    w = weight / weight.sum()
    mean_s, mean_t = w @ source, w @ target
    s, t = source - mean_s, target - mean_t
    variance = (s * w[:, None]).T @ s
    pull = ridge * np.trace(variance) / len(variance) * np.eye(len(variance))
    cross = (t * w[:, None]).T @ s + start[:-1, :-1] @ pull
    linear = np.linalg.lstsq((variance + pull).T, cross.T, rcond=None)[0].T
    return batched_matrices(linear[None], (mean_t - linear @ mean_s)[None])[0]


def fit_projective(source: Array, target: Array) -> Array:
    """Least-squares homography of the plane by the normalised linear method (Hartley, IEEE TPAMI 19:580-593, 1997).

    Parameters
    ----------
    source, target : (N, 2) points in mm, four or more.

    Returns
    -------
    (3, 3) matrix of determinant 1 or -1, source to target.
    """
    s, t = (_normaliser(points) for points in (source, target))
    (x, y), (u, v) = map_projective(s, source).T, map_projective(t, target).T
    one, zero = np.ones_like(x), np.zeros_like(x)
    rows = [[x, y, one, zero, zero, zero, -u * x, -u * y, -u], [zero, zero, zero, x, y, one, -v * x, -v * y, -v]]
    system = np.concatenate([np.stack(row, axis=1) for row in rows])
    solution = np.linalg.eigh(system.T @ system)[1][:, 0]
    matrix = np.linalg.inv(t) @ solution.reshape(3, 3) @ s
    return np.asarray(matrix / np.cbrt(np.linalg.det(matrix)))


def map_projective(matrix: Array, points: Array) -> Array:
    """Map (N, d) points in mm by a (d+1, d+1) homogeneous matrix; returns (N, d)."""
    mapped = points @ matrix[:, :-1].T + matrix[:, -1]
    return np.asarray(mapped[:, :-1] / mapped[:, -1:])


def _normaliser(points: Array) -> Array:
    """(3, 3) matrix that brings points around 0, at a mean distance of the square root of 2."""
    centre = points.mean(0)
    scale = np.sqrt(2) / max(float(np.linalg.norm(points - centre, axis=1).mean()), 1e-12)
    return np.array([[scale, 0, -scale * centre[0]], [0, scale, -scale * centre[1]], [0, 0, 1]])


def moment_rotations(fixed: Array, moving: Array) -> Iterator[Array]:
    """Yield every (P, d, d) batch of rotations that aligns the principal axes of fixed with moving moments.

    Second moments leave the sign of each axis open: 2 proper rotations in 2D, 4 in 3D.
    """
    axes_m = np.linalg.eigh(moving)[1]
    axes_f = np.linalg.eigh(fixed)[1]
    d = moving.shape[-1]
    # Right-handed frames, so that the product of signs alone decides properness.
    axes_m[:, :, 0] *= np.sign(np.linalg.det(axes_m))[:, None]
    axes_f[:, :, 0] *= np.sign(np.linalg.det(axes_f))[:, None]
    for signs in itertools.product((1.0, -1.0), repeat=d):
        if np.prod(signs) > 0:
            yield (axes_m * np.array(signs)) @ axes_f.transpose(0, 2, 1)


def overlap_coefficient(mean_a: Array, cov_a: Array, mean_b: Array, cov_b: Array) -> Array:
    """(A, B) Bhattacharyya coefficient of two sets of Gaussians; 1 when equal, symmetric, in (0, 1].

    Parameters: (A, d) and (B, d) means in mm, (A, d, d) and (B, d, d) covariances in mm^2.
    """
    middle = 0.5 * (cov_a[:, None] + cov_b[None])
    delta = mean_a[:, None] - mean_b[None]
    adjugate, determinant = _adjugate(middle)
    mahalanobis = np.einsum("abi,abij,abj->ab", delta, adjugate, delta) / determinant
    determinants = np.sqrt(_adjugate(cov_a)[1][:, None] * _adjugate(cov_b)[1][None])
    return np.asarray(np.exp(-mahalanobis / 8) * np.sqrt(determinants / determinant))


def _adjugate(m: Array) -> tuple[Array, Array]:
    """Adjugates and determinants of (..., d, d) symmetric matrices; much faster than LAPACK one by one."""
    if m.shape[-1] == 2:
        a, b, c = m[..., 0, 0], m[..., 0, 1], m[..., 1, 1]
        adjugate = np.stack([c, -b, -b, a], axis=-1).reshape(m.shape)
        return adjugate, a * c - b * b
    a, b, c = m[..., 0, 0], m[..., 0, 1], m[..., 0, 2]
    e, f, i = m[..., 1, 1], m[..., 1, 2], m[..., 2, 2]
    xx, xy, xz = e * i - f * f, c * f - b * i, b * f - c * e
    yy, yz, zz = a * i - c * c, b * c - a * f, a * e - b * b
    adjugate = np.stack([xx, xy, xz, xy, yy, yz, xz, yz, zz], axis=-1).reshape(m.shape)
    return adjugate, a * xx + b * xy + c * xz


def rotation_angle(linear: Array) -> Array:
    """(H,) rotation angle in degrees of the polar factor of (H, d, d) matrices with positive determinant."""
    u, _, vt = np.linalg.svd(linear)
    d = linear.shape[-1]
    cosine = (np.trace(u @ vt, axis1=1, axis2=2) - (d - 2)) / 2
    return np.asarray(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def plausible(matrices: Array, max_scale: float, max_shear: float, max_rotation: float) -> NDArray[np.bool_]:
    """(H,) whether homogeneous matrices stay within the limits of `GeometryOptions`; reflections never do."""
    linear = matrices[:, :-1, :-1]
    singular = np.linalg.svd(linear, compute_uv=False)
    largest, smallest = singular[:, 0], singular[:, -1]
    # A whisker of tolerance, so that limits of 1 admit what rounding made of 1.
    slack = 1 + 1e-9
    fits = (largest <= max_scale * slack) & (smallest * max_scale * slack >= 1)
    fits &= largest <= max_shear * smallest * slack
    fits &= np.linalg.det(linear) > 0
    return np.asarray(fits & (rotation_angle(linear) <= max_rotation + 1e-6))

"""How probable it is that a registration is right, from evidence that means the same for every modality.

Seven numbers are measured of a result: how its position compares with others, how well the orientations of
edges agree, how well one image predicts the intensities of the other, and how much the transform bends and stretches.
A logistic model turns them into a probability. Its weights were fitted by `roireg bench calibrate` on results and on
generated misregistrations, and are kept in ``calibration.json`` with what they were made from.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

from roireg.core.transforms import Affine, Transform
from roireg.fit.search import GlobalSearch, evidence_of

__all__ = ["Calibration", "Trust", "calibration", "evidence"]

POINTS = 12
"""Points per axis, over what the fixed image shows, at which the deformation is looked at."""


@dataclass(frozen=True)
class Trust:
    """The probability that the mean error of a transform is at most `within`.

    Attributes
    ----------
    probability : 0..1. within : world units of the fixed image; a fixed share of the diagonal of what it shows.
    evidence : what the probability was computed from, by name; see `evidence`.
    """

    probability: float
    within: float
    evidence: dict[str, float]


def evidence(search: GlobalSearch, transform: Transform, affine: Affine) -> dict[str, float]:
    """Measure what distinguishes right from wrong results in any modality.

    Parameters
    ----------
    search : between the two images.
    transform, affine : fixed world -> moving world, the result and its global part.

    Returns
    -------
    ``rival`` log ratio of the score of the best global position elsewhere to that of this one, at most log 4 either
    way; ``correlation`` of the orientation channels under the affine map; ``structure`` the same under the transform;
    ``contrast`` share of the fixed intensities that the moving ones explain; ``shared`` part of what the fixed image
    shows that the moving image shows too; ``stretch`` log ratio of the largest and smallest stretch of the affine
    map; ``bend`` mean displacement besides the affine map, in diagonals of what the fixed image shows.
    """
    judged = search.score_of(affine)
    after = evidence_of(search, transform)
    stretches = np.log(np.linalg.svd(affine.matrix[:-1, :-1], compute_uv=False))
    low, high = search.boxes[0]
    axes = [np.linspace(a, b, POINTS) for a, b in zip(low, high, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))
    bend = np.linalg.norm(transform.map_points(points) - affine.map_points(points), axis=1).mean()
    return {
        "rival": float(np.log(np.clip(judged.rival, 0.25, 4.0))),
        "correlation": judged.correlation,
        "structure": after.structure,
        "contrast": after.contrast,
        "shared": judged.overlap,
        "stretch": float(stretches.max() - stretches.min()),
        "bend": float(bend / np.linalg.norm(high - low)),
    }


@dataclass(frozen=True)
class Calibration:
    """A logistic model: probability = 1 / (1 + exp(-(bias + Σ weights (value - centre) / scale))).

    Attributes
    ----------
    names : of the evidence, in the order of the arrays. within : the error that is meant, in diagonals.
    made_from : sets, results and figures of the fit.
    """

    names: tuple[str, ...]
    centre: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float
    within: float
    made_from: dict[str, object]

    def probability(self, values: dict[str, float]) -> float:
        """Return the probability of an error of at most `within` diagonals."""
        x = np.array([values[name] for name in self.names])
        z = self.bias + float(np.dot(self.weights, (x - self.centre) / np.array(self.scale)))
        return float(1 / (1 + np.exp(-np.clip(z, -40, 40))))

    def trust(self, search: GlobalSearch, transform: Transform, affine: Affine) -> Trust:
        """Judge a result."""
        values = evidence(search, transform, affine)
        diagonal = float(np.linalg.norm(np.ptp(search.boxes[0], axis=0)))
        return Trust(self.probability(values), self.within * diagonal, values)


@cache
def calibration() -> Calibration:
    """Return the model that is shipped."""
    stored = json.loads(files("roireg.pipeline").joinpath("calibration.json").read_text(encoding="utf-8"))
    tuples: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()}
    return Calibration(**tuples)

"""What speaks for a counterpart, and how far to trust it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Evidence", "confidence_of"]

CALIBRATION = (-5.2, 1.6, 2.2, 2.5, 1.4)
"""Logistic weights: constant, guided, appearance, overlap, returned overlap; rounded fit on development pairs."""


@dataclass(frozen=True)
class Evidence:
    """What speaks for a counterpart.

    Attributes
    ----------
    appearance : how alike the features in and around both regions are, 0..1.
    overlap : Dice of the counterpart with the region as the guide carries it; without a guide, agreement in size.
    certainty : product of the segmenter's own scores of both regions.
    guided : whether a guide said where to look.
    returned_overlap : Dice of the region with what its counterpart, carried back, gives.
    returned_distance : mm from the prompt, carried there and back, to the region; 0 inside.
    """

    appearance: float
    overlap: float
    certainty: float
    guided: bool
    returned_overlap: float = 0.0
    returned_distance: float = float("inf")


def confidence_of(evidence: Evidence) -> float:
    """Turn evidence into the share of right answers to expect, 0..1.

    A logistic model; right means that the counterpart overlaps a labelled structure of its image at least three
    quarters as well as the region at the prompt overlaps the same structure of the other one. The weights were fitted
    on pairs with a right, a coarse, a wrong and no guide, and on images that share no structure at all. The returned
    distance says nothing that the returned overlap does not.
    """
    parts = (1.0, float(evidence.guided), evidence.appearance, evidence.overlap, evidence.returned_overlap)
    return float(1 / (1 + np.exp(-np.dot(CALIBRATION, parts))))

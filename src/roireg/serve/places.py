"""Places that are worth a look: where a fit is worst by every measure that its verdict speaks of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from roireg.core.image import Image
from roireg.core.transforms import Transform, jacobian_determinant
from roireg.serve.board import Board
from roireg.serve.local import LocalDoubt

__all__ = ["Place", "places_of"]

LATTICE = {2: 40_000, 3: 60_000}
"""Points at which the deformation is looked at."""


@dataclass(frozen=True, eq=False)
class Place:
    """A point to jump to.

    Attributes
    ----------
    point : (d,) fixed world. what : what is there, in words. topics : words of reasons that it belongs to.
    """

    point: NDArray[np.float64]
    what: str
    topics: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {"point": self.point.tolist(), "what": self.what, "topics": list(self.topics)}


def places_of(
    images: tuple[Image, Image], transform: Transform, inverse: Transform, board: Board, doubt: LocalDoubt
) -> list[Place]:
    """Return where the fit folds or stretches most, agrees least, does not return, and misses pairs most."""
    fixed, unit = images[0], images[0].unit
    grid = fixed.grid.coarsened(LATTICE[fixed.ndim])
    points = grid.points()
    determinant = jacobian_determinant(transform, grid).reshape(-1).cpu().numpy()
    places = []
    mapped = transform.map_points(points)
    inside = images[1].grid.contains(mapped)
    least = int(determinant.argmin())
    low = float(determinant[least])
    if low <= 0:
        places.append(Place(points[least], f"the deformation folds here (det J {low:.2f})", ("folds",)))
    if inside.any():
        # Beside what the map does on the whole, and where there is something to compare.
        usual = max(float(np.median(determinant[inside])), 1e-3)
        change = np.where(inside, np.log(np.maximum(determinant / usual, 1e-3)), 0.0)
        strongest = int(np.abs(change).argmax())
        if abs(change[strongest]) > 0.05:
            word = "shrinks" if change[strongest] < 0 else "grows"
            what = f"space {word} most here (det J {determinant[strongest]:.2f}, {usual:.2f} in the middle of all)"
            places.append(Place(points[strongest], what, ("stretches",)))
    if inside.any():
        back = np.linalg.norm(inverse.map_points(mapped[inside]) - points[inside], axis=1)
        worst = int(back.argmax())
        place = points[inside][worst]
        places.append(Place(place, f"the way back misses by {back[worst]:.2g} {unit} here", ("inverse",)))
    point, agreement = doubt.least_agreement()
    places.append(
        Place(point, f"the images agree least here (local correlation {agreement:.2f})", ("agree", "unlike", "start"))
    )
    pairs = board.chosen("accepted", "proposed")
    if pairs:
        own = np.stack([p.fixed.centroids[0] for p in pairs])
        theirs = np.stack([p.moving.centroids[0] for p in pairs])
        apart = np.linalg.norm(transform.map_points(own) - theirs, axis=1)
        k = int(apart.argmax())
        what = f"pair {pairs[k].number} is furthest from its counterpart ({apart[k]:.1f} {unit})"
        places.append(Place(own[k], what, ("pairs", "prompt")))
    unsure = int(torch.argmax(doubt.radius.reshape(-1)))
    index = np.array(np.unravel_index(unsure, doubt.grid.shape))
    radius = float(doubt.radius.reshape(-1)[unsure])
    what = f"counterparts are least certain here (about {radius:.1f} {unit})"
    places.append(Place(doubt.grid.world_from_index(index), what, ("uncertain",)))
    return places

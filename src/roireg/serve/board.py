"""The pairs of a session and what a person does to them: values, with undo and redo."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from roireg.core.errors import InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.masks import iou
from roireg.core.rois import STATUSES, Prompt, ROIPair, ROIPairs, ROISet
from roireg.evaluate.outlines import outlines
from roireg.evaluate.planes import Plane, display_planes
from roireg.serve.pictures import hung

__all__ = ["Board", "BoardPair", "History", "Landmark", "region_grid"]

REGION_VOXELS = {2: 1_000_000, 3: 1_500_000}
"""Voxels of the grid that the regions of a side are kept on."""

ALIKE = 0.5
"""Regions with an intersection over union above this are the same thing, to a person."""

SAME = 0.8
"""A region with an intersection over union above this with another is that one, asked for again."""

REMEMBERED = 100
"""Steps that can be undone."""

Mask = NDArray[np.bool_]


def region_grid(image: Image) -> Grid:
    """Return the grid that the regions of an image are kept and edited on."""
    return image.grid.coarsened(REGION_VOXELS[image.ndim])


@dataclass(frozen=True, eq=False)
class BoardPair:
    """A pair of regions with a number that stays.

    Attributes
    ----------
    number : what both panes and the list call it.
    fixed, moving : (1, *shape) regions on the grid of their side.
    """

    number: int
    fixed: ROISet
    moving: ROISet
    similarity: float
    confidence: float
    source: str
    status: str = "proposed"
    name: str | None = None
    prompts: tuple[Prompt, ...] = ()
    edited: bool = False

    def region(self, side: str) -> ROISet:
        """Return the region of a side."""
        return self.fixed if side == "fixed" else self.moving


@dataclass(frozen=True)
class Landmark:
    """A place in both images, world coordinates; None where it is not set yet."""

    number: int
    name: str
    fixed: tuple[float, ...] | None = None
    moving: tuple[float, ...] | None = None


@dataclass(frozen=True, eq=False)
class Board:
    """Everything a person decides in a session. A value: every change makes another.

    Attributes
    ----------
    pairs : by number. landmarks : in the order they were set. used : numbers that were given to pairs.
    """

    pairs: tuple[BoardPair, ...] = ()
    landmarks: tuple[Landmark, ...] = ()
    used: int = 0

    def pair(self, number: int) -> BoardPair:
        """Return a pair by its number.

        Raises
        ------
        InputError
            When there is none.
        """
        for pair in self.pairs:
            if pair.number == number:
                return pair
        raise InputError(f"there is no pair {number}; it may have been deleted in another window")

    def with_pair(self, pair: BoardPair) -> Board:
        """Return the board with one pair changed."""
        self.pair(pair.number)
        return replace(self, pairs=tuple(pair if p.number == pair.number else p for p in self.pairs))

    def with_new(self, pairs: Iterable[BoardPair]) -> Board:
        """Return the board with more pairs, numbered on from the last number that was used."""
        numbered = [replace(p, number=self.used + k) for k, p in enumerate(pairs, start=1)]
        return replace(self, pairs=(*self.pairs, *numbered), used=self.used + len(numbered))

    def with_answer(self, pair: BoardPair) -> tuple[Board, int]:
        """Return the board with an answer that a person keeps, and its number.

        A region that is asked for again keeps its number, and its new counterpart takes the place of the one that
        it overlaps, unless that was edited by hand. Counterparts apart from each other are pieces; both stay.
        """
        for earlier in self.chosen("accepted"):
            if earlier.source == "prompt" and not earlier.edited and _asked_again(earlier, pair):
                return self.with_pair(replace(pair, number=earlier.number, name=earlier.name)), earlier.number
        board = self.with_new([pair])
        return board, board.used

    def without_pair(self, number: int) -> Board:
        """Return the board without a pair; its number is not used again."""
        self.pair(number)
        return replace(self, pairs=tuple(p for p in self.pairs if p.number != number))

    def with_status(self, number: int, status: str) -> Board:
        """Return the board with another status of a pair.

        Raises
        ------
        InputError
            When there is no such pair or status.
        """
        if status not in STATUSES:
            raise InputError(f"the status of a pair is one of {', '.join(STATUSES)}, found {status!r}")
        return self.with_pair(replace(self.pair(number), status=status))

    def with_landmark(self, landmark: Landmark) -> Board:
        """Return the board with a landmark set or changed."""
        if any(m.number == landmark.number for m in self.landmarks):
            changed = tuple(landmark if m.number == landmark.number else m for m in self.landmarks)
            return replace(self, landmarks=changed)
        return replace(self, landmarks=(*self.landmarks, landmark))

    def without_landmark(self, number: int) -> Board:
        """Return the board without a landmark."""
        return replace(self, landmarks=tuple(m for m in self.landmarks if m.number != number))

    def chosen(self, *statuses: str) -> list[BoardPair]:
        """Return the pairs of some statuses."""
        return [p for p in self.pairs if p.status in statuses]

    def complete_landmarks(self) -> list[Landmark]:
        """Return the landmarks that are set in both images."""
        return [m for m in self.landmarks if m.fixed is not None and m.moving is not None]

    def proposed_again(self, proposals: ROIPairs, grids: tuple[Grid, Grid]) -> Board:
        """Return the decisions of the person with the proposals of a new fit in place of the earlier ones.

        A proposal that is like an earlier one keeps its number.

        Parameters
        ----------
        proposals : pairs as a registration returns them; those that repeat decisions are left out.
        grids : of the regions of the fixed and of the moving side.
        """
        decided = tuple(p for p in self.pairs if p.status != "proposed" or p.source in ("prompt", "user", "labels"))
        earlier = [p for p in self.pairs if p not in decided]
        new = [p for p in board_pairs(proposals, grids) if p.status == "proposed"]
        new = [p for p in new if not any(_alike(p, d) for d in decided)]
        kept, fresh = [], []
        for pair in new:
            same = next((e for e in earlier if _alike(pair, e)), None)
            if same is None:
                fresh.append(pair)
            else:
                earlier.remove(same)
                kept.append(replace(pair, number=same.number, name=same.name))
        pairs = tuple(sorted((*decided, *kept), key=lambda p: p.number))
        return replace(self, pairs=pairs).with_new(fresh)


def _alike(a: BoardPair, b: BoardPair) -> bool:
    return min(_overlaps(a, b)) > ALIKE


def _asked_again(a: BoardPair, b: BoardPair) -> bool:
    return max(_overlaps(a, b)) > SAME and min(_overlaps(a, b)) > 0


def _overlaps(a: BoardPair, b: BoardPair) -> list[float]:
    """Return the intersection over union of both sides."""
    return [float(iou(a.region(s).masks, b.region(s).masks)[0, 0]) for s in ("fixed", "moving")]


def board_pairs(pairs: ROIPairs, grids: tuple[Grid, Grid]) -> list[BoardPair]:
    """Return the pairs of a registration or a file, without numbers, their regions on the grids of a session."""
    return [
        BoardPair(
            0,
            pairs.fixed.subset([p.fixed]).on(grids[0]),
            pairs.moving.subset([p.moving]).on(grids[1]),
            p.similarity,
            p.confidence,
            p.source,
            p.status,
            p.name,
            p.prompts,
        )
        for p in pairs.pairs
    ]


def roi_pairs(pairs: Sequence[BoardPair], grids: tuple[Grid, Grid]) -> ROIPairs:
    """Return pairs of a board as the registration takes them."""

    def side(name: str, grid: Grid) -> ROISet:
        regions = [p.region(name) for p in pairs]
        if not regions:
            return ROISet.empty(grid)
        return ROISet(torch.cat([r.masks for r in regions]), grid, tuple(p.name for p in pairs))

    return ROIPairs(
        side("moving", grids[1]),
        side("fixed", grids[0]),
        tuple(
            ROIPair(
                k, k, p.similarity, p.confidence, source=p.source, status=p.status, name=p.name, prompts=p.prompts
            )
            for k, p in enumerate(pairs)
        ),
    )


# -- editing --------------------------------------------------------------------------------------


def brushed(region: ROISet, points: NDArray[np.float64], radius: float, *, erase: bool) -> ROISet:
    """Return a region with everything within `radius` (world units) of a stroke added or taken away.

    Parameters
    ----------
    points : (N, d) world points of the stroke, joined by straight lines.

    Raises
    ------
    InputError
        When nothing of the region would be left, or the radius is not positive.
    """
    if not radius > 0:
        raise InputError(f"a brush has a radius above 0, found {radius}")
    grid = region.grid
    reach = radius + float(grid.spacing.max())
    lines = list(itertools.pairwise(points)) or [(points[0], points[0])]
    mask = region.masks[0].clone()
    for start, end in lines:
        box = _box_of(grid, np.stack([start, end]), reach)
        if box is None:
            continue
        index = np.stack(np.meshgrid(*(np.arange(s.start, s.stop) for s in box), indexing="ij"), axis=-1)
        world = grid.world_from_index(index)
        along = end - start
        length = float(along @ along)
        t = np.clip((world - start) @ along / length, 0, 1) if length > 0 else np.zeros(world.shape[:-1])
        distance = np.linalg.norm(world - (start + t[..., None] * along), axis=-1)
        within = distance <= max(radius, 0.51 * float(grid.spacing.min()))
        part = mask[box]
        part[torch.from_numpy(within)] = not erase
    if not bool(mask.any()):
        raise InputError("nothing of the region would be left; delete the pair instead")
    return ROISet(mask[None], grid, region.names)


def _box_of(grid: Grid, points: NDArray[np.float64], reach: float) -> tuple[slice, ...] | None:
    index = grid.index_from_world(points)
    margin = reach / grid.spacing
    low = np.maximum(np.floor(index.min(0) - margin), 0).astype(int)
    high = np.minimum(np.ceil(index.max(0) + margin) + 1, grid.shape).astype(int)
    return None if (high <= low).any() else tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))


def outline_on(region: ROISet, plane: Plane) -> list[list[list[float]]]:
    """Return the outlines of a region on a plane, each a list of (column, row) in pixels of the plane.

    They are those of the slice of the region's own grid that is nearest to the plane.
    """
    native, own = plane.native, _own_plane(region.grid, plane.name, tuple(plane.native.center))
    mask = hung(region.masks, region.grid, own)[0].numpy()
    if not mask.any():
        return []
    scale = np.array([native.shape[-1] / mask.shape[1], native.shape[-2] / mask.shape[0]])
    return [np.round((line + 0.5) * scale - 0.5, 2).tolist() for line in outlines(mask)]


@lru_cache(maxsize=64)
def _own_plane(grid: Grid, name: str, point: tuple[float, ...]) -> Grid:
    """Return the plane of a name of a grid over the same box as an image, through a point."""
    return next(p.native for p in display_planes(grid, point) if p.name == name)


# -- undo -----------------------------------------------------------------------------------------


@dataclass
class History:
    """A board with what came before and after it.

    Attributes
    ----------
    board : as it is now. actions : what was done, for the record: one entry per change.
    """

    board: Board = field(default_factory=Board)
    actions: list[dict[str, Any]] = field(default_factory=list)
    _past: deque[tuple[Board, str]] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    _future: list[tuple[Board, str]] = field(default_factory=list)

    def change(self, board: Board, action: str, **details: Any) -> None:
        """Put another board in place of this one, and remember how it came about."""
        self._past.append((self.board, action))
        self._future.clear()
        self.board = board
        self.actions.append({"action": action, **details})

    def settle(self, board: Board) -> None:
        """Put another board in place that no person asked for, such as new proposals; undo does not see it."""
        self.board = board

    def undo(self) -> str | None:
        """Go one step back; return what was undone, None where there is nothing."""
        if not self._past:
            return None
        board, action = self._past.pop()
        self._future.append((self.board, action))
        self.board = replace(board, used=max(board.used, self.board.used))
        self.actions.append({"action": "undo", "of": action})
        return action

    def redo(self) -> str | None:
        """Go one step forward again; return what was done again, None where there is nothing."""
        if not self._future:
            return None
        board, action = self._future.pop()
        self._past.append((self.board, action))
        self.board = replace(board, used=max(board.used, self.board.used))
        self.actions.append({"action": "redo", "of": action})
        return action

    @property
    def undoable(self) -> str | None:
        """What `undo` would take back."""
        return self._past[-1][1] if self._past else None

    @property
    def redoable(self) -> str | None:
        """What `redo` would do again."""
        return self._future[-1][1] if self._future else None

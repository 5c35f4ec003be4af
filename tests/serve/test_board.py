"""Decisions as values, and how sharply images agree place by place."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from roireg.core.errors import InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.rois import ROIPair, ROIPairs, ROISet
from roireg.core.transforms import Affine
from roireg.serve.board import Board, BoardPair, History, Landmark, brushed
from roireg.serve.local import LocalDoubt

GRID = Grid.pixels((40, 50))


def square(row: int, column: int, size: int = 8) -> ROISet:
    mask = torch.zeros((1, *GRID.shape), dtype=torch.bool)
    mask[0, row : row + size, column : column + size] = True
    return ROISet(mask, GRID)


def pair(row: int, column: int, **more) -> BoardPair:
    return BoardPair(0, square(row, column), square(row, column + 2), 1.0, 0.5, "regions", **more)


def test_new_proposals_keep_decisions_and_numbers() -> None:
    board = Board().with_new([pair(0, 0), pair(10, 10), pair(20, 20)])
    board = board.with_status(1, "accepted").with_status(3, "rejected")
    # The fit finds the second again, the rejected one, which is not taken, and one more.
    places = [(10, 10), (20, 20), (30, 30)]
    sets = [ROISet(torch.cat([square(r, c + d).masks for r, c in places]), GRID) for d in (2, 0)]
    proposals = ROIPairs(sets[0], sets[1], tuple(ROIPair(k, k, 1.0, 0.9) for k in range(3)))
    after = board.proposed_again(proposals, (GRID, GRID))
    assert [(p.number, p.status) for p in after.pairs] == [
        (1, "accepted"),
        (2, "proposed"),
        (3, "rejected"),
        (4, "proposed"),
    ]
    assert after.pair(2).confidence == 0.9 and after.used == 4


def test_the_same_region_asked_for_again_is_the_same_pair() -> None:
    def answer(row: int, column: int) -> BoardPair:
        return BoardPair(0, square(10, 10), square(row, column), 1.0, 0.5, "prompt", "accepted")

    board, first = Board().with_answer(answer(10, 12))
    again, number = board.with_answer(answer(10, 14))
    assert number == first and len(again.pairs) == 1
    assert bool(again.pair(first).moving.masks[0, 10, 21]), "the later answer counts"
    # A counterpart elsewhere is another piece; so is an edited pair never lost to a click.
    pieces, number = board.with_answer(answer(30, 30))
    assert number != first and len(pieces.pairs) == 2
    edited = board.with_pair(replace(board.pair(first), edited=True))
    kept, number = edited.with_answer(answer(10, 14))
    assert number != first and len(kept.pairs) == 2


def test_undo_never_gives_a_number_twice() -> None:
    history = History()
    history.change(history.board.with_new([pair(0, 0)]), "accept")
    assert history.undo() == "accept" and history.board.pairs == ()
    history.change(history.board.with_new([pair(0, 0)]), "accept")
    assert [p.number for p in history.board.pairs] == [2]
    assert history.redo() is None, "a new change ends what could be done again"


def test_a_landmark_is_complete_with_both_sides() -> None:
    board = Board().with_landmark(Landmark(1, "L1", fixed=(1.0, 2.0)))
    assert board.complete_landmarks() == []
    board = board.with_landmark(Landmark(1, "L1", (1.0, 2.0), (3.0, 4.0)))
    assert len(board.landmarks) == len(board.complete_landmarks()) == 1


def test_the_brush_is_round_in_the_world_and_not_in_voxels() -> None:
    grid = Grid.of_array((20, 40, 40), spacing=(4.0, 1.0, 1.0))
    start = torch.zeros((1, *grid.shape), dtype=torch.bool)
    start[0, 0, 0, 0] = True
    centre = grid.world_from_index([10, 20, 20])
    ball = brushed(ROISet(start, grid), centre[None], 8.0, erase=False)
    extent = torch.nonzero(ball.masks[0, 1:]).numpy()
    assert np.ptp(extent, axis=0).tolist() == [4, 16, 16]
    assert ball.volumes[0] == pytest.approx(4 / 3 * np.pi * 8**3, rel=0.1)
    with pytest.raises(InputError, match="above 0"):
        brushed(ball, centre[None], 0.0, erase=False)


def test_the_circle_is_small_at_structure_large_without_and_covers_a_known_shift() -> None:
    rng = np.random.default_rng(3)
    texture = torch.from_numpy(rng.normal(size=(120, 160))).float()
    texture = torch.nn.functional.avg_pool2d(texture[None, None], 5, stride=1, padding=2)[0]
    texture[:, :, 90:] = 0.0  # nothing to be seen there
    fixed = Image(texture, Grid.pixels((120, 160)))
    right = LocalDoubt.of(fixed, fixed, Affine.identity(2))
    seen, empty = right.at(np.array([[40.0, 60.0], [130.0, 60.0]]))
    assert seen < 1.5 < 3 < empty
    shifted = LocalDoubt.of(fixed, fixed, Affine.translation([3.0, 0.0]))
    assert 2.5 < shifted.at(np.array([[40.0, 60.0]]))[0] < 4.5
    point, agreement = right.least_agreement()
    assert point[0] > 85 and agreement < 0.1

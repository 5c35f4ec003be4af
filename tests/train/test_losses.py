"""The contrastive loss against the same computed point by point."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from roireg.train.losses import described, info_nce


def _maps(batch: int, seed: int) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(batch, 6, 8, 10, generator=rng), dim=1)


def test_info_nce_against_a_naive_reference():
    shape, radius, hard, diverse, temperature = (16, 20), 5.0, 7, 4, 0.2
    maps = _maps(3, 0)
    rng = torch.Generator().manual_seed(1)
    places = torch.rand(3, 5, 2, generator=rng) * torch.tensor([15.0, 19.0])
    queries = F.normalize(torch.randn(3, 5, 6, generator=rng), dim=2)
    positives = described(maps, places, shape)
    cells = torch.randperm(80, generator=rng)[:50]
    total = 0.0
    for b in range(3):
        for n in range(5):
            scores = []
            for cell in cells.tolist():
                row, column = divmod(cell, 10)
                gap = math.hypot(row * 2 + 0.5 - float(places[b, n, 0]), column * 2 + 0.5 - float(places[b, n, 1]))
                if gap >= radius:
                    scores.append(float(queries[b, n] @ maps[b, :, row, column]))
            scores = sorted(scores, reverse=True)[:hard]
            for cell in cells.tolist()[:diverse]:
                scores.append(float(queries[b, n] @ maps[(b - 1) % 3].flatten(1)[:, cell]))
            own = float(queries[b, n] @ positives[b, n])
            exponents = [math.exp(s / temperature) for s in (own, *scores)]
            total -= math.log(exponents[0] / sum(exponents))
    loss = info_nce(
        queries, positives, places, maps, shape,
        cells=cells, radius=radius, hard=hard, diverse=diverse, temperature=temperature,
    )  # fmt: skip
    assert abs(float(loss) - total / 15) < 1e-4


def test_descriptors_at_the_centres_of_cells_are_the_cells():
    maps = _maps(1, 2)
    places = torch.tensor([[[0.5, 0.5], [4.5, 6.5], [14.5, 18.5]]])
    expected = torch.stack([maps[0, :, 0, 0], maps[0, :, 2, 3], maps[0, :, 7, 9]])
    assert torch.allclose(described(maps, places, (16, 20))[0], expected, atol=1e-6)


def test_descriptors_between_cells_are_interpolated_to_unit_length():
    maps = _maps(1, 3)
    between = described(maps, torch.tensor([[[1.5, 0.5]]]), (16, 20))[0, 0]
    expected = F.normalize(maps[0, :, 0, 0] + maps[0, :, 1, 0], dim=0)
    assert torch.allclose(between, expected, atol=1e-6)


def test_a_single_pair_has_no_diverse_negatives():
    maps = _maps(1, 4)
    places = torch.tensor([[[8.0, 8.0]]])
    query = described(maps, places, (16, 20))
    loss = info_nce(
        query, query, places, maps, (16, 20),
        cells=torch.arange(80), radius=3.0, hard=80, diverse=10, temperature=0.1,
    )  # fmt: skip
    assert 0 < float(loss) < math.log(80)

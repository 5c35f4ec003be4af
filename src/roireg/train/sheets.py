"""Sample sheets: what a training sees, for people to look at."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.train.scenes import ScenePair

__all__ = ["sheet"]


def sheet(pairs: Sequence[ScenePair], *, columns: int = 4) -> Image:
    """Put pairs into one picture, moving image beside fixed image; of volumes the middle slices across z and y."""
    rows = []
    for start in range(0, len(pairs), columns):
        tiles = [_tile(pair) for pair in pairs[start : start + columns]]
        tiles += [torch.ones_like(tiles[0])] * (columns - len(tiles))
        rows.append(torch.cat(tiles, dim=1))
    picture = (torch.cat(rows) * 255).round().to(torch.uint8)[None]
    return Image(picture, Grid.pixels(picture.shape[1:]), "sheet", unit="px", dtype="uint8")


def _tile(pair: ScenePair) -> Tensor:
    """(y, x) values 0..1 of one pair, with a dark line around each view and a light one around all."""
    views = []
    for image in (pair.moving[0], pair.fixed[0]):
        slices = [image] if image.ndim == 2 else [image[image.shape[0] // 2], image[:, image.shape[1] // 2]]
        views += [torch.nn.functional.pad(view, (1, 1, 1, 1)) for view in slices]
    return torch.nn.functional.pad(torch.cat(views, dim=1), (2, 2, 2, 2), value=1.0)

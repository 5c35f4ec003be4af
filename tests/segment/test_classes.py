"""Classes as regions: both sides of a body apart, soft probabilities, pairs by name."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.rois import ROISet
from roireg.fit.region_codes import RegionCodes
from roireg.match import match_classes
from roireg.segment import ClassSegmenter
from roireg.segment.classes import midplane
from roireg.segment.promptable import NetworkAnswers, probabilities
from support import make_grid, rotation


@dataclass(frozen=True)
class Known:
    """A network that always gives the same map."""

    map_: Image
    classes: tuple[str, ...]
    sided: frozenset[str] = frozenset()
    key: str = "known"

    @property
    def card(self):
        return SimpleNamespace(name="known")

    @property
    def device(self):
        return torch.device("cpu")

    def class_map(self, image: Image) -> Image:
        return self.map_


def head(grid: Grid, middle: float) -> torch.Tensor:
    """(2, *shape) bytes: two lobes beside the plane x = middle (world), and a rod in it."""
    x, y, z = (torch.from_numpy(grid.points())[:, k].reshape(grid.shape) for k in range(3))
    out = torch.zeros(2, *grid.shape, dtype=torch.uint8)
    for side in (-1, 1):
        out[0][((x - middle - side * 9) / 7) ** 2 + (y / 12) ** 2 + (z / 12) ** 2 < 1] = 200
    out[1][((x - middle) / 2) ** 2 + (y / 4) ** 2 < 1] = 230
    return out


def test_what_two_sides_share_is_parted_by_the_plane_between_them():
    grid = Grid.from_itk((40, 30, 28), (1.0, 1.2, 1.1), (-21.0, -17.0, -15.0), np.eye(3))
    model = Known(Image(head(grid, 1.3), grid), ("lobe", "rod"), frozenset({"lobe"}))
    regions = ClassSegmenter(model)(Image(torch.zeros(1, *grid.shape), grid, name="head"))
    assert regions.names == ("rod", "Left-lobe", "Right-lobe")
    # In LPS, x grows to the left.
    where = dict(zip(regions.names, regions.centroids[:, 0], strict=True))
    assert where["Left-lobe"] == pytest.approx(10.3, abs=0.7) and where["Right-lobe"] == pytest.approx(-7.7, abs=0.7)
    assert regions.scores.tolist() == pytest.approx([230 / 255, 200 / 255, 200 / 255])
    assert isinstance(regions, NetworkAnswers) and float(probabilities(regions)[1].max()) == pytest.approx(200 / 255)


def test_the_midplane_of_a_tilted_body_is_tilted():
    points = np.random.default_rng(0).uniform(-1, 1, (4000, 3)) * (30, 50, 40)
    points[:, 0] += 4 + 0.1 * points[:, 1] - 0.05 * points[:, 2]
    offset, slopes = midplane(points)
    assert offset == pytest.approx(4, abs=1.5)
    np.testing.assert_allclose(slopes, (0.1, -0.05), atol=0.05)


def test_the_most_probable_class_has_the_voxel_and_others_have_none():
    grid = make_grid((12, 10, 14), spacing=(1, 1, 1), direction=rotation(3, seed=0))
    map_ = torch.zeros(3, *grid.shape, dtype=torch.uint8)
    map_[0, 2:8], map_[1, 5:9], map_[2, 0, 0, :3] = 120, 130, 255
    regions = ClassSegmenter(Known(Image(map_, grid), ("a", "b", "tiny")))(
        Image(torch.zeros(1, *grid.shape), grid, name="x")
    )
    assert regions.names == ("b",)  # the background is more probable than "a" alone
    assert bool(regions.masks[0, 5:9].all()) and int(regions.masks[0, :5].sum()) == 0


def test_classes_pair_by_name_with_their_joint_probability():
    grid = Grid.pixels((4, 6))
    masks = torch.zeros(3, 4, 6, dtype=torch.bool)
    masks[0, 0], masks[1, 1], masks[2, 2] = True, True, True
    fixed = ROISet(masks, grid, ("liver", "spleen", "heart"), torch.tensor([0.9, 0.5, 0.7]))
    moving = ROISet(masks[:2], grid, ("spleen", "liver"), torch.tensor([0.8, 0.9]))
    pairs = match_classes(fixed, moving)
    assert [(p.name, p.moving, p.fixed, p.source) for p in pairs.pairs] == [
        ("liver", 1, 0, "classes"),
        ("spleen", 0, 1, "classes"),
    ]
    assert [p.probability for p in pairs.pairs] == pytest.approx([0.81, 0.4])
    assert pairs.unmatched_fixed == [2]


def test_codes_are_as_soft_as_a_segmenter_is_unsure():
    grid = Grid.pixels((6, 8))
    masks = torch.zeros(1, 6, 8, dtype=torch.bool)
    masks[:, :, 3:6] = True
    soft = torch.zeros(1, 6, 8, dtype=torch.uint8)
    soft[:, :, 2], soft[:, :, 3:6] = 51, 255
    rois = NetworkAnswers(masks, grid, ("a",), torch.ones(1), soft)
    codes = RegionCodes.of(match_classes(rois, rois), torch.ones(1)).fixed.data[0]
    assert float(codes[0, 2] / codes[0, 4]) == pytest.approx(0.2) and float(codes[0, 1]) == 0

from __future__ import annotations

import numpy as np
import pytest
import torch

from roireg.core.errors import GeometryError, InputError
from roireg.core.image import Image
from roireg.segment import LabelSegmenter
from support import make_grid

NAMES = {1: "liver", 2: "kidney", 5: "spleen"}


@pytest.fixture
def scene():
    grid = make_grid((40, 50), (2.0, 1.0))
    labels = torch.zeros(40, 50, dtype=torch.uint8)
    labels[5:15, 5:25] = 1
    labels[20:30, 30:40] = 2
    labels[35, 45] = 7
    return Image(torch.zeros(1, 40, 50), grid, name="scan.nii"), labels, grid


def test_all_classes_ascending_named_by_map_or_number(scene):
    image, labels, grid = scene
    rois = LabelSegmenter(labels, grid, NAMES)(image)
    assert rois.names == ("liver", "kidney", "7")
    assert torch.equal(rois.masks[1], labels == 2) and rois.grid == grid


def test_a_subset_by_name_or_id_in_the_order_asked(scene):
    image, labels, grid = scene
    segmenter = LabelSegmenter(labels[None], grid, NAMES, classes=["kidney", 1, "7", 5])
    assert segmenter(image).names == ("kidney", "liver", "7")
    assert segmenter.missing == ("spleen",)


def test_coarser_working_grid_keeps_small_labels_and_invents_none(scene):
    image, labels, grid = scene
    rois = LabelSegmenter(labels, grid, NAMES, max_voxels=100)(image)
    assert rois.grid.size <= 100 and rois.names == ("liver", "kidney", "7")
    assert int(rois.masks.sum(0).max()) == 1 or rois.masks[2].sum() == 1
    np.testing.assert_allclose(rois.volumes[0], 2.0 * 200, rtol=0.35)
    true = grid.world_from_index([35, 45])
    assert np.abs(rois.centroids[2] - true).max() <= rois.grid.spacing.max() / 2 + 1e-9


def test_floats_that_are_whole_numbers_are_labels_and_fractions_are_not(scene):
    image, labels, grid = scene
    assert len(LabelSegmenter(labels.float(), grid)(image)) == 3
    with pytest.raises(InputError, match="found fractions"):
        LabelSegmenter(labels.float() * 0.5, grid)


@pytest.mark.parametrize(
    ("classes", "message"),
    [(["lung"], "'lung' is unknown"), ([5, 9], "asked for: 5, 9"), ([0], "background")],
)
def test_classes_that_cannot_be_served_are_named(scene, classes, message):
    image, labels, grid = scene
    with pytest.raises(InputError, match=message):
        LabelSegmenter(labels, grid, NAMES, classes=classes)(image)


def test_an_empty_label_map_is_refused(scene):
    image, labels, grid = scene
    with pytest.raises(InputError, match=r"scan\.nii has no class at all"):
        LabelSegmenter(torch.zeros_like(labels), grid)(image)


def test_another_grid_than_the_image_is_refused(scene):
    image, labels, _ = scene
    with pytest.raises(GeometryError, match="another grid than the image"):
        LabelSegmenter(labels, make_grid((40, 50), (2.0, 1.1)))(image)
    with pytest.raises(GeometryError, match="does not fit a grid"):
        LabelSegmenter(labels[:-1], make_grid((40, 50)))
    with pytest.raises(InputError, match="same class name"):
        LabelSegmenter(labels, make_grid((40, 50)), {1: "a", 2: "a"})

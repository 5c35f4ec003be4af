from __future__ import annotations

import numpy as np
import pytest

from roireg.segment.tree import CRITERIA, build_tree, partition
from support import make_grid


@pytest.fixture(params=[(17, 23), (5, 13, 11), (1, 30, 7)], ids=str)
def parts(request):
    shape = request.param
    data = np.random.default_rng(1).random((1, *shape)).astype(np.float32)
    return partition(data, make_grid(shape), sigma=0.7, count=40)


def test_superpixels_cover_everything_and_are_near_the_count(parts):
    assert 15 <= len(parts.size) <= 40
    assert parts.size.sum() == parts.labels.size
    assert np.array_equal(np.unique(parts.labels), np.arange(len(parts.size)))


def test_adjacency_counts_every_shared_face_once(parts):
    faces = sum(
        int((np.diff(parts.labels, axis=a) != 0).sum()) for a in range(parts.labels.ndim) if parts.labels.shape[a] > 1
    )
    assert parts.length.sum() == faces
    assert (parts.edges[:, 0] < parts.edges[:, 1]).all()


def test_shared_area_is_in_mean_faces_of_a_voxel():
    data = np.zeros((1, 4, 6), dtype=np.float32)
    data[:, 2:] = 1.0
    parts = partition(data, make_grid((4, 6), (2.0, 1.0)), sigma=0.0, count=2)
    assert len(parts.size) == 2
    # The border is 6 mm long; a mean side is the square root of 2 mm².
    np.testing.assert_allclose(parts.length, 6 / np.sqrt(2))
    assert parts.strength >= parts.length


@pytest.mark.parametrize("cost", CRITERIA)
def test_tree_sizes_means_and_boxes_equal_a_naive_count(parts, cost):
    tree = build_tree(parts, cost)
    n = len(parts.size)
    assert len(tree.parent) == 2 * n - 1 and (tree.parent == -1).sum() == 1
    assert (tree.altitude[tree.parent[:-1]] >= tree.altitude[:-1]).all()
    for k in range(2 * n - 1):
        leaves = tree.order[tree.start[k] : tree.stop[k]]
        mask = np.isin(parts.labels, leaves)
        assert mask.sum() == tree.size[k]
        index = np.argwhere(mask)
        np.testing.assert_array_equal(index.min(0), tree.low[k])
        np.testing.assert_array_equal(index.max(0), tree.high[k])
        expected = (parts.mean[leaves] * parts.size[leaves, None]).sum(0) / parts.size[leaves].sum()
        np.testing.assert_allclose(tree.mean[k], expected)
    np.testing.assert_allclose(tree.sums(parts.size), tree.size)


def test_the_cheapest_pair_merges_first():
    data = np.zeros((1, 1, 30), dtype=np.float32)
    data[..., 10:20], data[..., 20:] = 0.2, 1.0
    parts = partition(data, make_grid((1, 30)), sigma=0.0, count=3)
    tree = build_tree(parts, CRITERIA[0])
    assert len(parts.size) == 3
    first = parts.labels[0, [0, 15]]
    assert tree.parent[first[0]] == tree.parent[first[1]] == 3
    assert tree.size[3] == 20


def test_one_superpixel_is_a_tree_of_one_node():
    parts = partition(np.zeros((1, 1, 1), dtype=np.float32), make_grid((1, 1)), sigma=0.7, count=5)
    tree = build_tree(parts, CRITERIA[0])
    assert tree.parent.tolist() == [-1] and tree.size.tolist() == [1]

"""Generated scenes: two images of one anatomy, and where everything went."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from roireg.core.errors import InputError
from roireg.train.layouts import KINDS, draw_layout, smooth_noise
from roireg.train.points import point_batch
from roireg.train.scenes import SceneSource, draw_scene
from roireg.train.sheets import sheet

SIZES = {2: 64, 3: 32}


@pytest.fixture(scope="module", params=(2, 3))
def pairs(request):
    source = SceneSource(request.param, SIZES[request.param], seed=3)
    return [source[k] for k in range(8)]


def test_images_have_values_from_0_to_1_and_something_on_them(pairs):
    for pair in pairs:
        for image in (pair.fixed, pair.moving):
            assert image.shape == (1, *pair.valid.shape) and bool(torch.isfinite(image).all())
            assert float(image.min()) >= 0 and float(image.max()) <= 1 and float(image.std()) > 0.01


def test_what_corresponds_has_the_same_label(pairs):
    agreement = []
    for pair in pairs:
        index = pair.moving_from_fixed.round().long()
        there = pair.moving_labels[tuple(index[..., a].clamp(0, n - 1) for a, n in enumerate(pair.valid.shape))]
        agreement.append(float((there == pair.fixed_labels)[pair.valid].float().mean()))
    # Voxels that a border of labels cuts differ by rounding.
    assert np.mean(agreement) > 0.9
    # A field that is off by some voxels would be told apart from this.
    shifted = [float((p.moving_labels == p.fixed_labels)[p.valid].float().mean()) for p in pairs]
    assert np.mean(shifted) < 0.8


def test_points_correspond_inside_both_images(pairs):
    batch = point_batch(pairs, np.random.default_rng(0), 64)
    size = pairs[0].valid.shape[0]
    assert batch.fixed.shape[0] == batch.fixed_points.shape[0] == len(pairs)
    assert float(batch.moving_points.min()) > -0.5 and float(batch.moving_points.max()) < size - 0.5
    for k, pair in enumerate(pairs):
        index = tuple(batch.fixed_points[k].long().unbind(-1))
        assert torch.equal(pair.fixed_labels[index], batch.fixed_codes[k])
        assert torch.equal(pair.moving_from_fixed[index], batch.moving_points[k])


def test_the_displacement_is_strong_and_never_folds(pairs):
    rotations = []
    for pair in pairs:
        d = pair.valid.ndim
        inner = pair.moving_from_fixed.double().numpy()
        jacobian = np.stack([np.stack(np.gradient(inner[..., c]), -1) for c in range(d)], -2)
        assert (np.linalg.det(jacobian) > 0).all()
        rotations.append(np.abs(jacobian - np.eye(d)).mean())
    assert np.mean(rotations) > 0.05


def test_a_scene_is_known_by_seed_number_and_stream():
    one, again = SceneSource(2, 32, seed=1)[5], SceneSource(2, 32, seed=1)[5]
    assert torch.equal(one.fixed, again.fixed) and torch.equal(one.moving_from_fixed, again.moving_from_fixed)
    for other in (
        SceneSource(2, 32, seed=2)[5],
        SceneSource(2, 32, seed=1)[6],
        SceneSource(2, 32, seed=1, stream="x")[5],
    ):
        assert not torch.equal(one.fixed, other.fixed)


@pytest.mark.parametrize("ndim", (2, 3))
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_layout_paints_labels_with_parents(kind, ndim):
    layout = draw_layout(np.random.default_rng(1), ndim, SIZES[ndim], kind=kind)
    assert layout.labels.shape == (SIZES[ndim],) * ndim
    assert len(np.unique(layout.labels)) > 1 and layout.labels.max() < len(layout.parents)
    assert layout.parents[0] == -1 and all(0 <= p < k for k, p in enumerate(layout.parents) if k)


def test_two_renderings_may_look_different_but_show_the_same(pairs):
    # Inversions, other curves and other modalities: correlation of corresponding intensities is far from 1 in some.
    similarity = []
    for pair in pairs:
        index = pair.moving_from_fixed.round().long()
        there = pair.moving[0][tuple(index[..., a].clamp(0, n - 1) for a, n in enumerate(pair.valid.shape))]
        similarity.append(float(np.corrcoef(there[pair.valid], pair.fixed[0][pair.valid])[0, 1]))
    assert min(similarity) < 0.5 < max(similarity)


def test_smooth_noise_is_normalised():
    field = smooth_noise(np.random.default_rng(0), (40, 50), 5)
    assert abs(float(field.mean())) < 1e-5 and abs(float(field.std()) - 1) < 1e-4
    assert np.abs(np.diff(field, axis=0)).max() < 1.0


def test_unsuitable_sizes_are_refused():
    with pytest.raises(InputError, match="sides of 32 or more, found 2D of 16"):
        SceneSource(2, 16)
    with pytest.raises(InputError, match="found 4D"):
        SceneSource(4, 64)


def test_a_sheet_shows_all_pairs():
    pairs = [draw_scene(np.random.default_rng(k), 2, 32) for k in range(5)]
    picture = sheet(pairs, columns=3)
    assert picture.data.dtype == torch.uint8 and picture.grid.shape == (2 * 38, 3 * 72)
    volumes = [draw_scene(np.random.default_rng(0), 3, 32)]
    assert sheet(volumes, columns=1).grid.shape == (38, 4 * 34 + 4)

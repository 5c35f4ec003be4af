"""MIND-SSC: against a naive loop, invariances, spacing, thin axes."""

from itertools import combinations, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from roireg.core.errors import InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.features import MindFeatures, mind_ssc
from roireg.features.mind import mind_offsets


def naive_mind(data: np.ndarray, offset: tuple[int, ...], patch: tuple[int, ...]) -> np.ndarray:
    """Voxel by voxel, straight from the definition; borders repeat, patches that reach outside too."""
    d = data.ndim

    def value(index: np.ndarray) -> float:
        return float(data[tuple(np.clip(index, 0, np.array(data.shape) - 1))])

    around = [s * offset[a] * np.eye(d, dtype=int)[a] for a in range(d) for s in (-1, 1)]
    pairs = [(i, j) for i, j in combinations(range(2 * d), 2) if i // 2 != j // 2]
    cells = list(product(*(range(-p, p + 1) for p in patch)))
    out = np.zeros((len(pairs), *data.shape))
    for x in np.ndindex(*data.shape):
        for c, (i, j) in enumerate(pairs):
            out[(c, *x)] = np.mean(
                [(value(np.add(x, around[i]) + q) - value(np.add(x, around[j]) + q)) ** 2 for q in cells]
            )
    out -= out.min(0, keepdims=True)
    variance = out.mean(0, keepdims=True)
    return np.exp(-out / np.clip(variance, 0.001 * variance.mean(), 1000 * variance.mean()))


@pytest.mark.parametrize("shape", [(9, 8), (6, 5, 7)])
def test_equals_the_definition_inside(shape):
    data = torch.rand((1, *shape), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = naive_mind(data[0].numpy(), (1,) * len(shape), (1,) * len(shape))
    inner = (slice(None), *[slice(2, -2)] * len(shape))
    # V is bounded by its image mean, which the border patches enter; those bounds are not active here.
    np.testing.assert_allclose(mind_ssc(data).numpy()[inner], expected[inner], rtol=1e-6)


@settings(max_examples=20, deadline=None)
@given(a=st.floats(0.2, 50), b=st.floats(-100, 100), seed=st.integers(0, 100))
def test_linear_contrast_changes_nothing(a, b, seed):
    data = torch.rand((1, 7, 9), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    torch.testing.assert_close(mind_ssc(a * data + b), mind_ssc(data), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(mind_ssc(1 - data), mind_ssc(data), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("shape", "channels"), [((12, 10), 4), ((8, 9, 10), 12), ((1, 9, 10), 12), ((1, 10), 4)])
def test_shapes_and_range(shape, channels):
    features = mind_ssc(torch.rand((1, *shape), generator=torch.Generator().manual_seed(0)))
    assert features.shape == (channels, *shape)
    assert bool(torch.isfinite(features).all())
    assert float(features.min()) > 0 and float(features.max()) == 1.0


def test_a_constant_image_is_featureless():
    assert bool((mind_ssc(torch.full((1, 6, 6), 3.0)) == 1).all())


def test_offsets_follow_the_spacing():
    assert mind_offsets((40, 40, 40), (5.0, 1.0, 0.5), 1.0) == [1, 1, 2]
    assert mind_offsets((1, 40, 2), (1.0, 1.0, 0.2), 2.0) == [0, 2, 1]


def test_spacing_reaches_the_descriptor():
    data = torch.rand((1, 16, 16), generator=torch.Generator().manual_seed(0))
    wide = mind_ssc(data, spacing=(0.5, 0.5), radius=1.0)
    torch.testing.assert_close(wide, mind_ssc(data, spacing=(1.0, 1.0), radius=2.0))
    assert float((wide - mind_ssc(data)).abs().max()) > 0.1


def test_differentiable_and_translation_equivariant():
    data = torch.rand(
        (1, 20, 20), generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True
    )
    mind_ssc(data).sum().backward()
    assert data.grad is not None and float(data.grad.abs().max()) > 0
    moved = mind_ssc(torch.roll(data.detach(), 3, dims=2))
    # The variance bounds depend on the image mean, which rolling leaves but for the seam.
    torch.testing.assert_close(moved[:, 4:-4, 8:-4], mind_ssc(data.detach())[:, 4:-4, 5:-7])


def test_extractor_resamples_to_the_grid_and_rejects_channels():
    image = Image(torch.rand((3, 16, 16), generator=torch.Generator().manual_seed(0)), Grid.pixels((16, 16)))
    grid = image.grid.with_spacing(2.0)
    features = MindFeatures(centred=True)(image, grid)
    assert features.grid == grid and features.channels == 4
    torch.testing.assert_close(features.data.mean(0), torch.zeros(grid.shape), atol=1e-6, rtol=0)
    with pytest.raises(InputError, match="shape"):
        mind_ssc(image.data)


def test_noise_is_no_structure():
    """Two noisy pictures of one thing have nearly equal descriptors, in its flat parts, too."""
    grid = Grid((40, 40), np.eye(3))
    flat = torch.zeros(1, 40, 40)
    flat[:, :, 20:] = torch.sin(torch.arange(20) * 0.9) * 10
    draws = [flat + torch.as_tensor(np.random.default_rng(k).normal(size=(1, 40, 40))).float() for k in (0, 1)]
    aware = [MindFeatures()(Image(d, grid), grid).data for d in draws]
    blind = [mind_ssc(d) for d in draws]

    def difference(maps: list[torch.Tensor], part: slice) -> float:
        return float((maps[0] - maps[1])[..., part].square().sum(0).mean())

    assert difference(aware, slice(2, 17)) < 0.1 * difference(blind, slice(2, 17))
    # Where there is structure, descriptors still tell its orientation.
    assert float(aware[0][..., 23:37].std(0).mean()) > 0.1

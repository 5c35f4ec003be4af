"""What the caller has set for torch does not matter: results are equal, and the settings are as before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from pipeline.cases import quick
from roireg.core.ambient import ordinary, own_settings
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.rois import Prompt
from roireg.core.transforms import Affine, Chain, DisplacementField, VelocityField, jacobian_determinant
from roireg.core.warp import resample, warp
from roireg.pipeline import Registration, prompt, register
from support import blobs


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


AMBIENT = {
    "float64": lambda: default_dtype(torch.float64),
    "float16": lambda: default_dtype(torch.float16),
    "device": lambda: torch.device("meta"),  # tensors without numbers: whatever is made there is noticed
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
}
ambient = pytest.mark.parametrize("setting", AMBIENT.values(), ids=AMBIENT.keys())

QUICK = quick(stages=("affine", "velocity"))


def _scene() -> tuple[Image, Image]:
    grid = Grid.pixels((40, 44))
    return blobs(grid)[0], blobs(grid, shift=(2.0, -3.0))[0]


@pytest.fixture(scope="module")
def plain() -> Registration:
    return register(*_scene(), config=QUICK)


@ambient
def test_register_gives_the_same(plain: Registration, setting) -> None:
    with setting():
        result = register(*_scene(), config=QUICK)
        points = result.map_points([[5.0, 6.0], [20.0, 21.0]])
        warped, page = result.warped, result.report_html()
    np.testing.assert_array_equal(points, plain.map_points([[5.0, 6.0], [20.0, 21.0]]))
    assert torch.equal(warped.data, plain.warped.data)
    assert result.verdict == plain.verdict and page.startswith("<!")


@ambient
def test_prompt_gives_the_same(setting) -> None:
    asked = Prompt.at([12.0, 12.0])
    expected = prompt(*_scene(), asked, guide="identity")
    with setting():
        found = prompt(*_scene(), asked, guide="identity")
    assert [a.confidence for a in found.answers] == [a.confidence for a in expected.answers]


def _core() -> list[np.ndarray]:
    grid = Grid.from_itk((9, 8, 7), (2.0, 1.5, 2.0), (9.0, 8.0, -5.0), np.eye(3))
    rng = np.random.default_rng(0)
    u = torch.from_numpy(rng.normal(size=(3, 7, 8, 9)).astype(np.float32)) * 0.2
    field, velocity = DisplacementField(grid, u), VelocityField(grid, u)
    chain = Chain((field, velocity, Affine.translation([1, 2, 3])))
    image = Image(torch.from_numpy(rng.normal(size=(1, 7, 8, 9)).astype(np.float32)), grid)
    small = grid.with_shape((3, 4, 5))
    tensors = [
        field.inverse().displacement,
        chain.displacement_on(grid),
        jacobian_determinant(chain, grid),
        warp(image, chain, small, fill=0.0).data,
        warp(image, chain, small, mode="nearest").data,
        resample(image, small).data,
    ]
    return [chain.map_points(grid.points()), chain.inverse().map_points([[1, 2, 3]]), *(t.numpy() for t in tensors)]


@ambient
def test_values_of_core_are_the_same(setting) -> None:
    expected = _core()
    with setting():
        found = _core()
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype


def test_settings_are_as_before() -> None:
    with default_dtype(torch.float64), torch.no_grad(), torch.device("meta"):
        with pytest.raises(KeyError), own_settings():
            assert torch.get_default_dtype() == torch.float32
            assert torch.zeros(1).device.type == "cpu" and torch.is_grad_enabled()
            raise KeyError
        assert torch.get_default_dtype() == torch.float64
        assert torch.zeros(1).device.type == "meta" and not torch.is_grad_enabled()


def test_tensors_of_inference_mode_become_ordinary() -> None:
    with torch.inference_mode():
        made = torch.ones(3)
        assert not ordinary(made).is_inference()
    data = torch.ones(3)
    assert ordinary(data) is data

"""NIfTI headers: ordinary ones are quiet, contradictory ones warn, unusable ones are refused."""

from __future__ import annotations

import os
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from roireg.core.errors import GeometryError, InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.io import HeaderWarning, read_image, write_image


def _nifti(path: Path, *edits: tuple[int, str, tuple[float, ...]]) -> Path:
    image = sitk.GetImageFromArray(np.arange(120, dtype=np.int16).reshape(4, 5, 6))
    image.SetSpacing((1.5, 2.0, 3.0))
    image.SetOrigin((1.0, 2.0, 3.0))
    sitk.WriteImage(image, str(path))
    content = bytearray(path.read_bytes())
    for offset, layout, values in edits:
        struct.pack_into("<" + layout, content, offset, *values)
    path.write_bytes(content)
    return path


def _sform(*rows: float) -> tuple[int, str, tuple[float, ...]]:
    return (280, "12f", rows)


SFORM_ONLY = (252, "hh", (0, 1))
PLAIN = (-1.5, 0, 0, -1, 0, -2, 0, -2, 0, 0, 3, 3)


def test_ordinary_headers_are_quiet(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name, edits in {
        "both": (),
        "s": (SFORM_ONLY, _sform(*PLAIN)),
        "none": ((252, "hh", (0, 0)),),
        "micrometre": ((123, "B", (3,)),),
        "unused": ((92, "f", (float("nan"),)),),
        "rounded": (SFORM_ONLY, _sform(-1.5, 1e-5, 0, -1, 0, -2, 0, -2, 0, 0, 3, 3)),
    }.items():
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            image = read_image(_nifti(tmp_path / f"{name}.nii", *edits))
        assert image.grid.shape == (4, 5, 6)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("edits", "message", "spacing"),
    [
        ((SFORM_ONLY, _sform(1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0)), r"sform gives voxels of 1 x 1 x 1", (3, 2, 1.5)),
        ((SFORM_ONLY, _sform(-1.5, 0.004, 0, 0, 0, -2, 0, 0, 0, 0, 3, 0)), "sheared by 0.11 degrees", (3, 2, 1.5)),
        ((_sform(-1.5, 0, 0, 50, 0, -2, 0, -2, 0, 0, 3, 3),), "different places .up to 51 mm", (3, 2, 1.5)),
        ((_sform(1.5, 0.8, 0, 0, 0, 2, 0, 0, 0, 0, 3, 0),), "different places", (3, 2, 1.5)),
        (((80, "f", (-1.5,)),), r"axis x is -1\.5, read as 1\.5", (3, 2, 1.5)),
        (((80, "f", (0.0,)), (252, "hh", (1, 0))), "axis x is 0, read as 1 mm", (3, 2, 1)),
        (((80, "f", (float("nan"),)), (252, "hh", (1, 0))), "axis x is nan, read as 1 mm", (3, 2, 1)),
    ],
)
@pytest.mark.filterwarnings("always::roireg.io.HeaderWarning")
def test_real_header_problems_warn(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    edits: tuple[tuple[int, str, tuple[float, ...]], ...],
    message: str,
    spacing: tuple[float, ...],
) -> None:
    file = _nifti(tmp_path / "i.nii", *edits)
    with pytest.warns(HeaderWarning, match=message) as caught:
        image = read_image(file)
    assert len(caught) == 1
    assert str(file) in str(caught[0].message)
    assert image.grid.spacing == pytest.approx(spacing)
    assert np.allclose(image.grid.direction.T @ image.grid.direction, np.eye(3), atol=1e-5)
    assert capfd.readouterr().err == ""


def test_unusable_orientation(tmp_path: Path) -> None:
    file = _nifti(tmp_path / "i.nii", SFORM_ONLY, _sform(1.5, 0.8, 0, 0, 0, 2, 0, 0, 0, 0, 3, 0))
    with pytest.raises(GeometryError, match=r"i\.nii: .*sheared by 21\.8 degrees"):
        read_image(file)
    file = _nifti(tmp_path / "j.nii", SFORM_ONLY, _sform(*[0.0] * 12))
    with pytest.raises(GeometryError, match=r"j\.nii: .*singular"):
        read_image(file)
    sheared = sitk.Image([4, 4, 4], sitk.sitkUInt8)
    sheared.SetDirection((1, 0.3, 0, 0, 1, 0, 0, 0, 1))
    for name in ("k.nrrd", "k.mha"):
        sitk.WriteImage(sheared, str(tmp_path / name))
        with pytest.raises(GeometryError, match=r"sheared by 16\.7 degrees"):
            read_image(tmp_path / name)
    grid = Grid((4, 4), np.array([[1, 0.5, 0], [0, 1, 0], [0, 0, 1]]))
    with pytest.raises(GeometryError, match="sheared axes"):
        write_image(tmp_path / "l.nii", Image(torch.zeros((1, 4, 4)), grid))


def test_permissive_reading_leaves_the_environment_alone(tmp_path: Path) -> None:
    before = dict(os.environ)
    read_image(_nifti(tmp_path / "i.nii", SFORM_ONLY, _sform(*PLAIN)))
    assert dict(os.environ) == before


@pytest.mark.parametrize("size", [348, 540])
@pytest.mark.parametrize("order", ["<", ">"])
def test_both_nifti_versions_and_byte_orders_are_understood(tmp_path: Path, size: int, order: str) -> None:
    """A header written field by field, after nifti1.h and nifti2.h; the voxels are cut off."""
    content = bytearray(size + 4)
    one = size == 348
    struct.pack_into(f"{order}i", content, 0, size)
    struct.pack_into(f"{order}{'8h' if one else '8q'}", content, 40 if one else 16, 3, 6, 5, 4, 1, 1, 1, 1)
    struct.pack_into(f"{order}2h", content, 70 if one else 12, 4, 16)
    struct.pack_into(f"{order}{'4f' if one else '4d'}", content, 76 if one else 104, 1, 1.5, 2, 3)
    struct.pack_into(f"{order}{'f' if one else 'q'}", content, 108 if one else 168, size + 4)
    content[344 if one else 4 : (344 if one else 4) + 4] = b"n+1\0" if one else b"n+2\0"
    (tmp_path / "i.nii").write_bytes(content + bytes(100))
    with pytest.raises(InputError, match=f"announces {size + 4 + 240} bytes, found {size + 104}"):
        read_image(tmp_path / "i.nii")

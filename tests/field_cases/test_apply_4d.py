"""A whole time series through one transform or a chain of them (ANTs issue 93), and NaN (MRtrix3 issue 2335)."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import scipy.ndimage

import roireg
from app.scenes import answer, run


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    noise = scipy.ndimage.gaussian_filter(np.random.default_rng(0).normal(0, 1, (32, 28, 20)), 2) * 40
    image = np.abs(noise) * 100 + 50
    affine = np.diag([2.0, 2, 2, 1])
    nibabel.save(nibabel.Nifti1Image(image.astype("float32"), affine), tmp_path / "image.nii.gz")
    noise[:6] = np.nan
    nibabel.save(nibabel.Nifti1Image(noise.astype("float32"), affine), tmp_path / "tmap_nan.nii.gz")
    bold = nibabel.Nifti1Image(np.stack([image * (k + 1) for k in range(5)], -1).astype("float32"), affine)
    bold.header.set_xyzt_units("mm", "sec")
    bold.header.set_zooms((2.0, 2.0, 2.0, 1.5))
    nibabel.save(bold, tmp_path / "bold_4d.nii.gz")
    for name, offset in (("shift", "9 -6 4"), ("rest", "-5 2 -2")):
        (tmp_path / f"{name}.tfm").write_text(
            "#Insight Transform File V1.0\n#Transform 0\nTransform: AffineTransform_double_3_3\n"
            f"Parameters: 1 0 0 0 1 0 0 0 1 {offset}\nFixedParameters: 0 0 0\n"
        )
    return tmp_path


def test_every_volume_is_carried(scene: Path) -> None:
    out = scene / "x.nii.gz"
    options = ("--reference", scene / "image.nii.gz", "-o", out)
    assert answer("apply", scene / "shift.tfm", scene / "bold_4d.nii.gz", *options)["frames"] == 5
    series = nibabel.load(out)
    assert series.shape == (32, 28, 20, 5)
    assert series.header.get_zooms()[3] == 1.5
    np.testing.assert_allclose(series.affine, np.diag([2.0, 2, 2, 1]), atol=1e-6)
    one = scene / "one.nii.gz"
    options = ("--reference", scene / "image.nii.gz", "--frame", 3, "-o", one)
    assert run("apply", scene / "shift.tfm", scene / "bold_4d.nii.gz", *options).exit_code == 0
    inner = (slice(6, -6), slice(6, -6), slice(4, -4))
    np.testing.assert_allclose(
        series.get_fdata()[..., 3][inner], nibabel.load(one).get_fdata()[inner], rtol=1e-6, atol=1e-3
    )


def test_every_volume_is_carried_from_python(scene: Path) -> None:
    out = scene / "x.nii.gz"
    run("apply", scene / "shift.tfm", scene / "bold_4d.nii.gz", "--reference", scene / "image.nii.gz", "-o", out)
    moved = roireg.apply(scene / "shift.tfm", scene / "bold_4d.nii.gz", scene / "image.nii.gz")
    np.testing.assert_allclose(moved.data.numpy().transpose(3, 2, 1, 0), nibabel.load(out).get_fdata(), rtol=1e-6)


def test_several_transforms_are_one(scene: Path) -> None:
    """9 - 5, -6 + 2, 4 - 2 mm in LPS: 2, -2 and 1 voxels of the file, whose x and y run against LPS."""
    out = scene / "x.nii.gz"
    options = ("-t", scene / "shift.tfm", "-t", scene / "rest.tfm", "--reference", scene / "image.nii.gz")
    assert run("apply", scene / "bold_4d.nii.gz", *options, "-o", out).exit_code == 0
    moved, source = nibabel.load(out).get_fdata(), nibabel.load(scene / "bold_4d.nii.gz").get_fdata()
    np.testing.assert_allclose(
        moved[4:-4, 4:-4, 4:-4], np.roll(source, (2, -2, -1), (0, 1, 2))[4:-4, 4:-4, 4:-4], rtol=1e-4
    )
    back = scene / "back.nii.gz"
    options = (
        "-t",
        f"i:{scene / 'rest.tfm'}",
        "-t",
        f"i:{scene / 'shift.tfm'}",
        "--reference",
        scene / "image.nii.gz",
    )
    assert run("apply", out, *options, "-o", back).exit_code == 0
    np.testing.assert_allclose(nibabel.load(back).get_fdata()[6:-6, 6:-6, 6:-6], source[6:-6, 6:-6, 6:-6], rtol=1e-4)


@pytest.mark.parametrize("interpolation", ["nearest", "linear", "bspline", "lanczos"])
def test_nan_stays_nan_and_does_not_spread(scene: Path, interpolation: str) -> None:
    out = scene / "x.nii.gz"
    (scene / "voxel.tfm").write_text(
        (scene / "shift.tfm").read_text(encoding="utf-8").replace("9 -6 4", "-2 0 0")  # one voxel along x of the file
    )
    options = ("--reference", scene / "image.nii.gz", "--interpolation", interpolation, "-o", out)
    assert run("apply", scene / "voxel.tfm", scene / "tmap_nan.nii.gz", *options).exit_code == 0
    moved, source = nibabel.load(out).get_fdata(), nibabel.load(scene / "tmap_nan.nii.gz").get_fdata()
    np.testing.assert_array_equal(np.isnan(moved[:31]), np.isnan(source[1:]))
    near = ~np.isnan(source[1:])
    np.testing.assert_allclose(moved[:31][near], source[1:][near], atol=0.05)

"""NaN outside the brain, as statistical maps have it, is no data: left out of the comparison, and told."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import scipy.ndimage
import SimpleITK as sitk
import torch

from app.scenes import answer, fails, run
from roireg.core.errors import InputError
from roireg.core.image import Image
from roireg.core.transforms import Affine
from roireg.io import HeaderWarning, read_image, write_image, write_transform
from roireg.pipeline.missing import masked, without_missing
from support import make_grid

GRID = make_grid((16, 20, 24), (2, 2, 2))


def _map(*, nan: bool) -> Image:
    noise = np.random.default_rng(0).normal(size=GRID.shape)
    values = scipy.ndimage.gaussian_filter(noise, 2).astype(np.float32) * 40
    if nan:
        values[:, :, :5] = np.nan
    return Image(torch.from_numpy(values)[None], GRID, name="map")


def test_the_map_is_registered_and_the_voxels_are_told(tmp_path: Path, settings: Path) -> None:
    write_image(tmp_path / "image.nii.gz", _map(nan=False))
    write_image(tmp_path / "map.nii.gz", _map(nan=True))
    for fixed, moving in (("image", "map"), ("map", "image")):
        both = (tmp_path / f"{fixed}.nii.gz", tmp_path / f"{moving}.nii.gz")
        result = run("register", *both, "-o", tmp_path / f"{fixed}_out", "--only", "result", "--config", settings)
        assert result.exit_code in (0, 3), result.output
        assert "map.nii.gz: 1600 voxels are NaN and taken as no data" in " ".join(result.stderr.split())


def test_nothing_but_nan_is_refused(tmp_path: Path) -> None:
    image = _map(nan=False)
    write_image(tmp_path / "image.nii.gz", image)
    write_image(tmp_path / "nan.nii.gz", image.with_data(torch.full_like(image.data, float("nan"))))
    both = (tmp_path / "image.nii.gz", tmp_path / "nan.nii.gz")
    fails("register", *both, "-o", tmp_path / "out", words=("nan.nii.gz", "every voxel is NaN"))


@pytest.mark.filterwarnings("ignore:.*voxels are NaN:roireg.io.HeaderWarning")
def test_the_fill_is_neutral_and_the_mask_joins_that_of_the_user() -> None:
    image = _map(nan=True)
    filled, known = without_missing(image)
    assert torch.equal(known.data[0] == 0, torch.isnan(image.data[0]))
    assert float(filled.data[0, 0, 0, 0]) == 0
    assert torch.equal(filled.data[known.data > 0], image.data[known.data > 0])
    higher, _ = without_missing(image.with_data(image.data + 500))
    assert float(higher.data[0, 0, 0, 0]) == pytest.approx(float(np.nanmin(image.data)) + 500)
    mask = Image(torch.ones((1, *GRID.shape), dtype=torch.int32), GRID)
    mask.data[..., 10:] = 0
    assert int(masked(mask, known).data.sum()) == 16 * 20 * 5
    assert masked(None, known) is known and masked(mask, None) is mask and masked(None, None) is None
    assert without_missing(filled) == (filled, None)
    with pytest.raises(InputError, match="every voxel is NaN"):
        without_missing(image.with_data(torch.full_like(image.data, float("nan"))))
    with pytest.warns(HeaderWarning, match="1600 voxels"):
        without_missing(image)


def test_a_map_with_nan_is_a_reference_and_is_evaluated_where_it_has_values(tmp_path: Path) -> None:
    write_image(tmp_path / "whole.nii.gz", _map(nan=False))
    write_image(tmp_path / "nan.nii.gz", _map(nan=True))
    write_transform(tmp_path / "none.tfm", Affine.identity(3))
    options = ("--reference", tmp_path / "nan.nii.gz", "-o", tmp_path / "out.nii.gz")
    assert run("apply", tmp_path / "none.tfm", tmp_path / "whole.nii.gz", *options).exit_code == 0
    torch.testing.assert_close(read_image(tmp_path / "out.nii.gz").data, _map(nan=False).data, atol=1e-4, rtol=0)
    for fixed, moving in (("nan", "whole"), ("whole", "nan")):
        found = answer("evaluate", "--fixed", tmp_path / f"{fixed}.nii.gz", "--moving", tmp_path / f"{moving}.nii.gz")
        assert found["metrics"]["ncc"]["value"] == pytest.approx(1)


def test_convert_carries_nan(tmp_path: Path) -> None:
    values = np.full((6, 5, 4), 2.5, np.float32)
    values[0] = np.nan
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "a.nii")
    assert run("convert", tmp_path / "a.nii", tmp_path / "b.nrrd").exit_code == 0
    written = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "b.nrrd")))
    assert np.array_equal(written, values.T, equal_nan=True)

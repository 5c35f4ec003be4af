"""Label maps whose voxels are those of the image, stored another way: rows flipped, axes permuted, cropped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
import SimpleITK as sitk

from app.scenes import answer

ORDERS = {
    "same.nii.gz": lambda labels: labels,
    "flipped_rows.nii.gz": lambda labels: sitk.Flip(labels, [False, True, False]),
    "other_axis_order.nii.gz": lambda labels: sitk.PermuteAxes(labels, [2, 0, 1]),
    "cropped.seg.nrrd": lambda labels: labels[3:24, 3:19, 1:13],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("labels")
    noise = np.random.default_rng(0).random((14, 22, 26))
    values = (scipy.ndimage.gaussian_filter(noise, 3) * 1e4).astype(np.int16)
    inside = np.zeros(values.shape, bool)
    inside[2:12, 4:18, 4:23] = True
    image = sitk.GetImageFromArray(values)
    labels = sitk.GetImageFromArray((inside & (values > np.median(values))).astype(np.uint8))
    for volume in (image, labels):
        volume.SetSpacing((1.2, 1.5, 3.0))
        volume.SetOrigin((10.0, -20.0, 30.0))
    sitk.WriteImage(image, str(place / "image.nrrd"))
    for name, change in ORDERS.items():
        sitk.WriteImage(change(labels), str(place / name))
    return place


@pytest.mark.parametrize("name", ORDERS)
def test_they_are_scored_on_the_image(folder: Path, name: str) -> None:
    labels = ("--fixed-labels", folder / name, "--moving-labels", folder / "same.nii.gz")
    found = answer("evaluate", "--fixed", folder / "image.nrrd", *labels)
    assert found["metrics"]["dice_mean"]["value"] == 1


@pytest.mark.parametrize("option", ["labels", "mask", "rois"])
def test_they_are_taken_as_masks_regions_and_labels(
    folder: Path, tmp_path: Path, settings: Path, option: str
) -> None:
    image = folder / "image.nrrd"
    options = [a for side in ("fixed", "moving") for a in (f"--{side}-{option}", folder / "cropped.seg.nrrd")]
    options[3] = folder / "flipped_rows.nii.gz"
    options += ["--config", settings]
    result = answer("register", image, image, "-o", tmp_path / "out", *options, "--only", "result")
    assert result["verdict"] in ("ok", "uncertain")
    if option == "labels":
        assert result["metrics"]["dice_mean"]["before"] == 1

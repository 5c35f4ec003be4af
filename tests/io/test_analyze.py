"""Analyze 7.5: values and places are those of nibabel, and what the format does not say is told."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from roireg.core.errors import InputError
from roireg.io import HeaderWarning, read_image, read_labels

VALUES = np.random.default_rng(0).integers(0, 900, (7, 9, 5)).astype(np.int16)
PLACED = np.array([[-1.1, 0, 0, 30], [0, 2.2, 0, -20], [0, 0, 3.3, 9], [0, 0, 0, 1]])


def _places(ras: np.ndarray, corners: np.ndarray) -> np.ndarray:
    return (corners @ ras[:3, :3].T + ras[:3, 3]) * [-1, -1, 1]


@pytest.mark.parametrize("ending", [".img", ".hdr"])
@pytest.mark.parametrize("kind", [nibabel.AnalyzeImage, nibabel.Spm99AnalyzeImage, nibabel.Spm2AnalyzeImage])
def test_voxels_lie_where_nibabel_puts_them(tmp_path: Path, kind: type, ending: str) -> None:
    affine = np.diag([-2.0, 3, 4, 1]) if kind is nibabel.AnalyzeImage else PLACED
    nibabel.save(kind(VALUES, affine), tmp_path / "a.img")
    if kind is nibabel.AnalyzeImage:
        with pytest.warns(HeaderWarning, match="which side is left"):
            image = read_image(tmp_path / f"a{ending}")
    else:
        assert (tmp_path / "a.mat").is_file()
        image = read_image(tmp_path / f"a{ending}")
    reference = nibabel.load(tmp_path / "a.img")
    np.testing.assert_array_equal(image.data[0].numpy().T, reference.get_fdata())
    corners = np.array([[0, 0, 0], [6, 0, 0], [0, 8, 4], [6, 8, 4]])
    np.testing.assert_allclose(
        image.grid.world_from_index(corners[:, ::-1]), _places(reference.affine, corners), atol=1e-3
    )


def test_a_frame_and_the_scale_of_values(tmp_path: Path) -> None:
    series = np.stack([VALUES, VALUES // 2], -1)
    image = nibabel.Spm2AnalyzeImage(series.astype(np.float64) / 3, PLACED)
    image.set_data_dtype(np.int16)
    nibabel.save(image, tmp_path / "a.img")
    with pytest.raises(InputError, match="--frame"):
        read_image(tmp_path / "a.img")
    second = read_image(tmp_path / "a.img", frame=1).data[0].numpy().T
    np.testing.assert_allclose(second, nibabel.load(tmp_path / "a.img").get_fdata()[..., 1], rtol=1e-6)


def test_labels(tmp_path: Path) -> None:
    nibabel.save(nibabel.Spm2AnalyzeImage(VALUES, PLACED), tmp_path / "a.img")
    np.testing.assert_array_equal(read_labels(tmp_path / "a.img").data[0].numpy().T, VALUES)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("a.img", b"short", "truncated"),
        ("a.img", None, "a.img is expected beside it"),
        ("a.mat", b"MATLAB 5.0 or not", "orientation cannot be read"),
    ],
)
def test_damaged_pairs_are_refused(tmp_path: Path, file: str, content: bytes | None, message: str) -> None:
    nibabel.save(nibabel.Spm2AnalyzeImage(VALUES, PLACED), tmp_path / "a.img")
    if content is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_image(tmp_path / "a.hdr")

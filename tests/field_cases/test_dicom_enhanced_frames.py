"""A multi-frame file is the volume that a classic series of the same planes is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from app.scenes import answer
from dicom_files import CORNER, write_enhanced, write_series
from roireg.core.errors import InputError
from roireg.io import read_image

HEIGHTS = CORNER[2] + 3.0 * np.arange(20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("frames")
    planes = write_series(place / "classic", [np.array([*CORNER[:2], h]) for h in HEIGHTS], np.eye(3)[:2])
    frames = [(pixels, height, 0) for pixels, height in zip(planes, HEIGHTS, strict=True)]
    write_enhanced(place / "in_order.dcm", frames)
    write_enhanced(place / "interleaved.dcm", frames[::2] + frames[1::2])
    later = [(2 * pixels, height, 1) for pixels, height, _ in frames]
    write_enhanced(place / "two_times.dcm", frames + later)
    write_enhanced(place / "slope_per_frame.dcm", frames, slopes=[1 + 0.1 * k for k in range(20)])
    return place


@pytest.mark.parametrize("name", ["in_order.dcm", "interleaved.dcm"])
def test_frames_in_any_order(folder: Path, name: str) -> None:
    document = answer("evaluate", "--fixed", folder / "classic", "--moving", folder / name)
    assert document["metrics"]["ncc"]["value"] == pytest.approx(1)
    classic, image = read_image(folder / "classic"), read_image(folder / name)
    assert image.grid.is_close(classic.grid)
    assert np.array_equal(image.data, classic.data)


def test_two_points_in_time(folder: Path) -> None:
    with pytest.raises(InputError, match="4D with 2 frames of 20 slices"):
        read_image(folder / "two_times.dcm")
    classic = read_image(folder / "classic")
    for frame in (0, 1):
        image = read_image(folder / "two_times.dcm", frame=frame)
        assert image.grid.is_close(classic.grid)
        assert np.array_equal(image.data, (frame + 1) * classic.data)


def test_values_are_scaled_frame_by_frame(folder: Path) -> None:
    expected = read_image(folder / "classic").data[0].numpy() * (1 + 0.1 * np.arange(20))[:, None, None] - 10
    assert np.abs(read_image(folder / "slope_per_frame.dcm").data[0].numpy() - expected).max() < 1e-3

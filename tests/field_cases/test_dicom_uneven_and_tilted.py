"""Voxels of uneven and tilted series lie where their headers put them, and it is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dicom_files import CORNER, plane_points, scene, write_series
from roireg.io import HeaderWarning, read_image

UNEVEN = np.concatenate([np.arange(8) * 5.0, 35 + np.arange(1, 13) * 2.0])
GAP = np.array([3.0 * k for k in range(20) if k not in (6, 7, 8)])
EVEN = 3.0 * np.arange(20)


@pytest.mark.parametrize(
    ("heights", "degrees", "off"), [(UNEVEN, 0, "13.3"), (GAP, 0, "5.6"), (EVEN, 15, "14.8")], ids=str
)
def test_voxels_lie_where_headers_put_them(tmp_path: Path, heights: np.ndarray, degrees: float, off: str) -> None:
    t = np.deg2rad(degrees)
    axes = np.array([[1.0, 0, 0], [0, np.cos(t), -np.sin(t)]])
    positions = [CORNER + (0, 0, h) for h in heights]
    write_series(tmp_path / "s", positions, axes)
    with pytest.warns(HeaderWarning, match=f"up to {off} mm off"):
        image = read_image(tmp_path / "s")
    # At the pixels of every plane, as its header places them, the volume has the value that was scanned there.
    for position in positions:
        points = plane_points(position, axes, (28, 32))[2:-2, 2:-2].reshape(-1, 3)
        index = np.round(image.grid.index_from_world(points)).astype(int)
        inside = ((index >= 0) & (index < image.grid.shape)).all(axis=1)
        assert inside.mean() > 0.9
        centres = image.grid.world_from_index(index[inside])
        values = image.data[0].numpy()[tuple(index[inside].T)]
        # Corners of a tilted stack that no plane reaches are filled; the scene is smooth everywhere else.
        wrong = np.abs(values - scene(centres)) > 8
        assert wrong.mean() < (0.05 if degrees else 1e-9)

"""Channels of OME and ImageJ files are channels: registered in 2D, all of them warped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage as ndimage
import tifffile

from app.scenes import answer, run
from roireg.io import read_image, read_points

SHIFT = (7, -11)
"""Of the moving image, rows and columns."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("channels")
    stains = [ndimage.gaussian_filter(np.random.default_rng(k).random((150, 170)), k + 2) for k in range(3)]
    stains = [(s - s.min()) / np.ptp(s) * 60000 for s in stains]
    fixed = np.stack([s[20:130, 20:150] for s in stains]).astype("uint16")
    moving = np.stack([ndimage.shift(s, SHIFT, order=1)[20:130, 20:150] for s in stains]).astype("uint16")
    for name, values in (("fixed", fixed), ("moving", moving)):
        tifffile.imwrite(place / f"{name}.ome.tif", values, metadata={"axes": "CYX"}, photometric="minisblack")
        tifffile.imwrite(place / f"{name}_imagej.tif", values, imagej=True, metadata={"axes": "CYX"})
    (place / "points.csv").write_text("x,y\n60,60\n80,45\n")
    return place


@pytest.mark.parametrize("ending", [".ome.tif", "_imagej.tif"])
def test_channels_are_told_as_such(folder: Path, ending: str) -> None:
    file = answer("info", folder / f"fixed{ending}")["files"][0]
    assert (file["dimension"], file["channels"], file["size"], file["type"]) == (2, 3, [130, 110], "uint16")
    file = answer("info", folder / f"fixed{ending}", "--channel", "2")["files"][0]
    assert (file["channels"], file["metadata"]) == (1, {"channel": "2 of 0 to 2"})


@pytest.mark.usefixtures("cheap_presets")
def test_registered_in_the_plane(folder: Path, tmp_path: Path) -> None:
    document = answer(
        *("register", folder / "fixed.ome.tif", folder / "moving.ome.tif", "-o", tmp_path / "out"),
        *("--fixed-points", folder / "points.csv", "--only", "transform,warped"),
    )
    assert document["verdict"] == "ok"
    moved = read_points(tmp_path / "out" / "moved_points_fixed_to_moving.csv").points
    assert np.abs(moved - (np.array([[60, 60], [80, 45]]) + SHIFT[::-1])).max() < 0.5
    warped, fixed = read_image(tmp_path / "out" / "warped.png"), read_image(folder / "fixed.ome.tif")
    assert (warped.channels, warped.dtype) == (3, "uint16")
    inner = (slice(None), slice(10, -15), slice(15, -15))
    assert float((warped.data - fixed.data)[inner].abs().mean()) < 1500  # of 60000


def test_mixed_axes_are_told_apart(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 999, (2, 3, 20, 30)).astype("uint16")
    tifffile.imwrite(tmp_path / "i.ome.tif", values, metadata={"axes": "CZYX"})
    assert tuple(read_image(tmp_path / "i.ome.tif").data.shape) == (2, 3, 20, 30)
    tifffile.imwrite(tmp_path / "i.ome.tif", values[:, 0], metadata={"axes": "TYX"})
    refused = run("info", tmp_path / "i.ome.tif")
    assert refused.exit_code == 2
    assert "time series of 2 frames" in " ".join(refused.output.split())

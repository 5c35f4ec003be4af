"""DICOM series written by the tests themselves."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from roireg.core.errors import InputError
from roireg.core.grid import Grid
from roireg.io import HeaderWarning, list_series, read_image

OBLIQUE = np.array([[0.36, 0.48, -0.8], [-0.8, 0.6, 0.0], [0.48, 0.64, 0.6]])


def _write(
    folder: Path,
    values: np.ndarray,
    *,
    uid: str = "1.2.3.1",
    description: str = "T1",
    direction: np.ndarray = OBLIQUE,
    spacing: float = 3.0,
    skip: tuple[int, ...] = (),
    step: np.ndarray | None = None,
    first: int = 0,
    placed: bool = True,
) -> Grid:
    """Write one slice per file, named so that the names are not in the order of the positions."""
    folder.mkdir(exist_ok=True)
    origin = np.array([-10.0, 20.0, 30.0])
    step = direction[:, 2] * spacing if step is None else step
    for k, plane in enumerate(values):
        if k in skip:
            continue
        image = sitk.GetImageFromArray(plane[None])
        image.SetSpacing((0.5, 0.75, spacing))
        position = origin + k * step
        tags = {
            "0008|0060": "MR",
            "0008|103e": description,
            "0020|000d": "1.2.3",
            "0020|000e": uid,
            "0008|0018": f"{uid}.{first + k + 1}",
            "0020|0013": str(first + k + 1),
        }
        if placed:
            tags["0020|0032"] = "\\".join(f"{v:.6f}" for v in position)
            tags["0020|0037"] = "\\".join(f"{v:.6f}" for v in direction[:, :2].T.ravel())
            image.SetOrigin(position.tolist())
            image.SetDirection(direction.ravel().tolist())
        else:
            tags["0008|0060"] = "CR"
            tags["0008|0016"] = "1.2.840.10008.5.1.4.1.1.1"
        for tag, value in tags.items():
            image.SetMetaData(tag, value)
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetFileName(str(folder / f"{uid}_{(k * 7) % 11:02d}_{first + k}.dcm"))
        writer.Execute(image)
    return Grid.from_itk((values.shape[2], values.shape[1], len(values)), (0.5, 0.75, spacing), origin, direction)


def _values(slices: int = 5) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 1000, (slices, 6, 8)).astype(np.int16)


def test_series_is_sorted_by_position(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    values = _values()
    grid = _write(tmp_path / "s", values)
    image = read_image(tmp_path / "s")
    assert np.array_equal(image.data[0].numpy(), values)
    assert image.grid.is_close(grid, tolerance=1e-3)
    assert image.unit == "mm"
    assert image.metadata == {"modality": "MR", "series": "T1", "series_uid": "1.2.3.1"}
    assert capfd.readouterr().err == ""


def test_two_series_must_be_chosen_from(tmp_path: Path) -> None:
    values = _values()
    _write(tmp_path / "s", values)
    _write(tmp_path / "s", values[:3] + 1, uid="1.2.3.2", description="T2 axial")
    found = list_series(tmp_path / "s")
    assert [(s.uid, s.description, len(s.files)) for s in found] == [("1.2.3.1", "T1", 5), ("1.2.3.2", "T2 axial", 3)]
    with pytest.raises(InputError, match=r"2 DICOM series.*T1, 5 slices.*T2 axial, 3 slices.*::SERIES_UID"):
        read_image(tmp_path / "s")
    with pytest.raises(InputError, match=r"no DICOM series 9\.9; found .*T2 axial"):
        read_image(tmp_path / "s", series="9.9")
    for image in (read_image(tmp_path / "s", series="1.2.3.2"), read_image(f"{tmp_path / 's'}::1.2.3.2")):
        assert np.array_equal(image.data[0].numpy(), values[:3] + 1)


def test_cine_series_is_4d(tmp_path: Path) -> None:
    values = _values(3)
    for frame in range(2):
        _write(tmp_path / "s", values + frame, first=frame * 3)
    with pytest.raises(InputError, match=r"4D with 2 frames of 3 slices.*--frame N, N from 0 to 1"):
        read_image(tmp_path / "s")
    image = read_image(tmp_path / "s", frame=1)
    assert np.array_equal(image.data[0].numpy(), values + 1)


def test_incomplete_cine_series(tmp_path: Path) -> None:
    _write(tmp_path / "s", _values(3))
    _write(tmp_path / "s", _values(2), first=3)
    with pytest.raises(InputError, match="5 images at 3 positions"):
        read_image(tmp_path / "s")


def test_localizer_is_refused(tmp_path: Path) -> None:
    _write(tmp_path / "s", _values(2), direction=np.eye(3))
    _write(tmp_path / "s", _values(2), first=2)
    with pytest.raises(InputError, match="different orientations"):
        read_image(tmp_path / "s")


def test_single_slice_stays_a_volume_and_a_radiograph_is_2d(tmp_path: Path) -> None:
    _write(tmp_path / "ct", _values(1))
    assert read_image(tmp_path / "ct").grid.shape == (1, 6, 8)
    assert read_image(next((tmp_path / "ct").iterdir())).grid.shape == (1, 6, 8)
    _write(tmp_path / "cr", _values(1), placed=False)
    for place in (tmp_path / "cr", next((tmp_path / "cr").iterdir())):
        image = read_image(place)
        assert image.grid.shape == (6, 8)
        assert image.grid.spacing == pytest.approx((0.75, 0.5))


def test_cut_off_slice_is_not_lost_silently(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    _write(tmp_path / "s", _values())
    last = next((tmp_path / "s").glob("*_4.dcm"))
    content = last.read_bytes()
    for length in (len(content) - 40, 200, 140):
        last.write_bytes(content[:length])
        with pytest.raises(InputError, match=last.name) as error:
            read_image(tmp_path / "s")
        assert "damaged" in str(error.value)
        assert "\n" not in str(error.value)
    assert capfd.readouterr().err == ""


def test_folders_without_series(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(InputError, match="no DICOM series"):
        read_image(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        list_series(tmp_path / "missing")
    _write(tmp_path / "inside", _values(2))
    with pytest.raises(InputError, match="its folder inside does: name that"):
        read_image(tmp_path)


def test_copies_are_left_out(tmp_path: Path) -> None:
    values = _values()
    grid = _write(tmp_path / "s", values)
    for file in list((tmp_path / "s").iterdir())[:3]:
        shutil.copy(file, file.with_name(f"copy of {file.name}"))
    with pytest.warns(HeaderWarning, match="3 of its files are copies of others"):
        image = read_image(tmp_path / "s")
    assert np.array_equal(image.data[0].numpy(), values)
    assert image.grid.is_close(grid, tolerance=1e-3)

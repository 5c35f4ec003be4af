"""Where DICOM planes lie is where their voxels lie, whatever their order, spacing and tilt."""

from __future__ import annotations

import struct
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileDataset

from dicom_files import CORNER, SPACING, scene, write_contours, write_enhanced, write_series
from roireg.core.errors import InputError
from roireg.core.image import Image
from roireg.io import HeaderWarning, read_image, read_labels

STRAIGHT = np.eye(3)[:2]


def _heights(steps: list[float]) -> list[np.ndarray]:
    return [CORNER + (0, 0, h) for h in np.concatenate([[0.0], np.cumsum(steps)])]


def _error(image: Image, rows: int) -> float:
    """Largest difference from the scene, in the rows that all planes reach: tilted ones leave corners without."""
    expected = scene(image.grid.points()).reshape(image.grid.shape)
    grown = image.grid.shape[1] - rows
    assert grown < rows // 2
    return float(np.abs(image.data[0].numpy() - expected)[:, grown : rows - 1].max())


# -- classic series ---------------------------------------------------------------------------------


def test_even_slices_are_not_touched(tmp_path: Path) -> None:
    values = write_series(tmp_path / "s", _heights([3.0] * 9), STRAIGHT)
    image = read_image(tmp_path / "s")
    assert np.array_equal(image.data[0].numpy(), values)
    assert image.grid.spacing == pytest.approx((3.0, *SPACING))
    assert image.grid.origin == pytest.approx(CORNER)
    write_series(tmp_path / "r", _heights([3.0, 3.02, 2.98, 3.01]), STRAIGHT)  # rounding, not a warning
    assert read_image(tmp_path / "r").grid.shape[0] == 5


@pytest.mark.parametrize(
    ("steps", "off"), [([5.0] * 7 + [2.0] * 12, "13.3"), ([3.0] * 5 + [12.0] + [3.0] * 10, "5.6")]
)
def test_uneven_slices_lie_where_their_headers_say(tmp_path: Path, steps: list[float], off: str) -> None:
    write_series(tmp_path / "s", _heights(steps), STRAIGHT)
    with pytest.warns(HeaderWarning, match=f"would lie up to {off} mm off, so they are interpolated"):
        image = read_image(tmp_path / "s")
    assert image.dtype == "int16"
    assert image.grid.corners()[:, 2].max() == pytest.approx(CORNER[2] + sum(steps) + image.grid.spacing[0] / 2)
    assert _error(image, 28) <= 1.0  # the scene is linear along z; what remains is rounding


@pytest.mark.parametrize("degrees", [-20, 5, 15])
def test_tilted_gantry(tmp_path: Path, degrees: float) -> None:
    t = np.deg2rad(degrees)
    axes = np.array([[1.0, 0, 0], [0, np.cos(t), -np.sin(t)]])
    write_series(tmp_path / "s", _heights([3.0] * 19), axes, shape=(40, 32))
    with pytest.warns(HeaderWarning, match=f"stacked {abs(degrees):.1f} degrees off their normal"):
        image = read_image(tmp_path / "s")
    assert np.abs(image.grid.direction.T @ image.grid.direction - np.eye(3)).max() < 1e-6
    assert _error(image, 40) <= 6.0  # of values from 0 to 1300, one voxel of which differ by 20


def test_pixels_of_unknown_size_are_told(tmp_path: Path) -> None:
    def silent(data: FileDataset, k: int) -> None:
        del data.PixelSpacing

    write_series(tmp_path / "s", _heights([3.0] * 4), STRAIGHT, change=silent)
    with pytest.warns(HeaderWarning, match="no PixelSpacing"):
        image = read_image(tmp_path / "s")
    assert image.grid.spacing == pytest.approx((3.0, 1.0, 1.0))


def test_scaling_of_every_slice(tmp_path: Path) -> None:
    """Positron emission series have another slope in every file; the first may be whole."""

    def scaled(data: FileDataset, k: int) -> None:
        data.RescaleSlope, data.RescaleIntercept = 1.0 + 0.25 * k, -5.0

    values = write_series(tmp_path / "s", _heights([3.0] * 4), STRAIGHT, change=scaled)
    image = read_image(tmp_path / "s")
    assert image.dtype == "float32"
    assert image.data[0].numpy() == pytest.approx(values * (1 + 0.25 * np.arange(5))[:, None, None] - 5)

    def hounsfield(data: FileDataset, k: int) -> None:
        data.RescaleSlope, data.RescaleIntercept = 1, -1024

    values = write_series(tmp_path / "ct", _heights([3.0] * 4), STRAIGHT, change=hounsfield)
    image = read_image(tmp_path / "ct")
    assert image.dtype == "int16"
    assert np.array_equal(image.data[0].numpy(), values - 1024.0)


@pytest.mark.parametrize(
    "header",
    [
        {"PhotometricInterpretation": "MONOCHROME1"},
        {"PhotometricInterpretation": "MONOCHROME1", "PixelRepresentation": 0},
        {"PhotometricInterpretation": "MONOCHROME1", "PixelRepresentation": 0, "BitsStored": 12, "HighBit": 11},
        {"PhotometricInterpretation": "MONOCHROME1", "RescaleSlope": 2, "RescaleIntercept": -5},
        {"RescaleSlope": 0, "RescaleIntercept": 5},
    ],
)
def test_values_are_those_of_itk(tmp_path: Path, header: dict[str, Any]) -> None:
    """Negatives (radiographs whose smallest value is white) and a slope of 0, which is none."""

    def changed(data: FileDataset, k: int) -> None:
        for name, value in header.items():
            setattr(data, name, value)

    write_series(tmp_path, _heights([]), STRAIGHT, change=changed)
    values = sitk.GetArrayFromImage(sitk.ReadImage(str(next(tmp_path.iterdir()))))
    assert np.array_equal(read_image(tmp_path).data[0].numpy(), values)


@pytest.mark.parametrize(
    ("keyword", "raw", "message"),
    [
        (
            "ImageOrientationPatient",
            b"1\\0\\0\\0\\1 ",
            r"ImageOrientationPatient is 1\\0\\0\\0\\1, expected 6 number",
        ),
        ("ImageOrientationPatient", b"1\\0\\0\\0\\x\\0 ", "ImageOrientationPatient is malformed"),
        ("ImageOrientationPatient", b"2\\0\\0\\0\\1\\0 ", "expected two perpendicular unit vectors"),
        ("ImagePositionPatient", b"1\\2\\nan ", "expected 3 number"),
        ("InstanceNumber", b"one ", "InstanceNumber is malformed"),
        ("PixelSpacing", b"0\\1 ", "PixelSpacing is 0\\\\1, expected positive"),
        ("NumberOfFrames", b"many", "NumberOfFrames is malformed"),
        ("RescaleSlope", b"1e999 ", "RescaleSlope is inf"),
    ],
)
def test_malformed_strings(tmp_path: Path, keyword: str, raw: bytes, message: str) -> None:
    def filled(data: FileDataset, k: int) -> None:
        data.NumberOfFrames, data.RescaleSlope = 1, 1.0

    write_series(tmp_path / "s", _heights([3.0] * 2), STRAIGHT, change=filled)
    file = tmp_path / "s" / "IM000.dcm"
    content = file.read_bytes()
    tag = pydicom.datadict.tag_for_keyword(keyword)
    # An element is its tag, two letters, the length of its value, and the value.
    start = content.index(
        struct.pack("<HH", tag >> 16, tag & 0xFFFF) + pydicom.datadict.dictionary_VR(keyword).encode()
    )
    length = struct.unpack_from("<H", content, start + 6)[0]
    file.write_bytes(content[: start + 6] + struct.pack("<H", len(raw)) + raw + content[start + 8 + length :])
    with pytest.raises(InputError, match=message) as error:
        read_image(tmp_path / "s")
    assert "IM000.dcm" in str(error.value)
    assert "\n" not in str(error.value)


# -- frames of one file -----------------------------------------------------------------------------


def _frames(times: int = 1) -> list[tuple[np.ndarray, float, int]]:
    rng = np.random.default_rng(0)
    return [(rng.integers(0, 900, (28, 32)), 10 + 3.0 * k, t) for t in range(times) for k in range(8)]


def test_frames_lie_where_their_functional_groups_say(tmp_path: Path) -> None:
    frames = _frames()
    expected = np.stack([pixels for pixels, _, _ in frames])
    for name, order in (("even", range(8)), ("mixed", [3, 0, 7, 1, 6, 2, 5, 4])):
        write_enhanced(tmp_path / f"{name}.dcm", [frames[i] for i in order])
        image = read_image(tmp_path / f"{name}.dcm")
        assert np.array_equal(image.data[0].numpy(), expected)
        assert image.grid.spacing == pytest.approx((3.0, *SPACING))
        assert image.grid.origin == pytest.approx(CORNER)
    (tmp_path / "folder").mkdir()
    write_enhanced(tmp_path / "folder" / "only.dcm", frames[::-1])
    assert np.array_equal(read_image(tmp_path / "folder").data[0].numpy(), expected)


def test_points_in_time_are_frames(tmp_path: Path) -> None:
    frames = _frames(times=3)
    shuffled = [frames[i] for i in np.random.default_rng(1).permutation(len(frames))]
    write_enhanced(tmp_path / "i.dcm", shuffled)
    with pytest.raises(InputError, match=r"4D with 3 frames of 8 slices.*--frame N, N from 0 to 2"):
        read_image(tmp_path / "i.dcm")
    for time in range(3):
        expected = np.stack([pixels for pixels, _, t in frames if t == time])
        assert np.array_equal(read_image(tmp_path / "i.dcm", frame=time).data[0].numpy(), expected)


def test_scaling_of_every_frame(tmp_path: Path) -> None:
    frames = _frames()
    slopes = [1.0 + 0.1 * k for k in range(8)]
    write_enhanced(tmp_path / "i.dcm", frames[::-1], slopes=slopes[::-1])
    expected = np.stack([p * s - 10 for (p, _, _), s in zip(frames, slopes, strict=True)])
    image = read_image(tmp_path / "i.dcm")
    assert image.dtype == "float32"
    assert image.data[0].numpy() == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(("maps", "scaled"), [(1, False), (1, True), (2, False)])
def test_real_world_values(tmp_path: Path, maps: int, scaled: bool) -> None:
    """They are taken where one map says them and no rescaling says others, as ITK takes it; else it is told."""

    def mapped(data: FileDataset, k: int) -> None:
        entries = [Dataset() for _ in range(maps)]
        for entry in entries:
            entry.RealWorldValueFirstValueMapped, entry.RealWorldValueLastValueMapped = -1000, 1000
            entry.RealWorldValueSlope, entry.RealWorldValueIntercept = 0.5, -3.0
        data.RealWorldValueMappingSequence = entries
        if scaled:
            data.RescaleSlope, data.RescaleIntercept = 2, 1

    values = write_series(tmp_path, _heights([3.0]), STRAIGHT, change=mapped)
    expected = 2 * values + 1.0 if scaled else values if maps > 1 else 0.5 * values - 3
    told = "taken as stored.* by 2 maps" if maps > 1 else "real-world ones of its only map"
    with nullcontext() if scaled else pytest.warns(HeaderWarning, match=told):
        image = read_image(tmp_path)
    assert image.data[0].numpy() == pytest.approx(expected)


def test_a_map_for_every_frame_is_followed(tmp_path: Path) -> None:
    file = tmp_path / "e.dcm"
    write_enhanced(file, _frames())
    before = read_image(file).data.numpy()
    data = pydicom.dcmread(file)
    for k, group in enumerate(data.PerFrameFunctionalGroupsSequence):
        entry = Dataset()
        entry.RealWorldValueSlope, entry.RealWorldValueIntercept = k + 1.0, 0.0
        group.RealWorldValueMappingSequence = [entry]
    data.save_as(file)
    with pytest.warns(HeaderWarning, match="real-world"):
        assert read_image(file).data.numpy() == pytest.approx(before * np.arange(1.0, 9)[:, None, None])


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"PhotometricInterpretation": "YBR_PARTIAL_422"}, "its colours are YBR_PARTIAL_422"),
        ({"PhotometricInterpretation": "YBR_ICT"}, "its colours are YBR_ICT"),
        ({"TotalPixelMatrixColumns": 64}, "holds a slide in tiles"),
    ],
)
def test_colours_and_tiles_that_are_not_read_are_named(tmp_path: Path, header: dict[str, Any], message: str) -> None:
    write_series(
        tmp_path, _heights([]), STRAIGHT, change=lambda data, k: [setattr(data, *entry) for entry in header.items()]
    )
    with pytest.raises(InputError, match=message):
        read_image(tmp_path)


def test_pixels_that_are_not_square_are_told(tmp_path: Path) -> None:
    def film(data: FileDataset, k: int) -> None:
        del data.PixelSpacing, data.ImagePositionPatient
        data.PixelAspectRatio = [2, 1]

    write_series(tmp_path, _heights([]), STRAIGHT, change=film)
    with pytest.warns(HeaderWarning, match="pixels are 2:1 high to wide, and are taken as square"):
        read_image(tmp_path)


def test_colours_of_half_as_many_places_are_those_of_pydicom(tmp_path: Path) -> None:
    def ultrasound(data: FileDataset, k: int) -> None:
        rows, columns = data.Rows, data.Columns
        data.SamplesPerPixel, data.PhotometricInterpretation, data.PlanarConfiguration = 3, "YBR_FULL_422", 0
        data.BitsAllocated = data.BitsStored = 8
        data.HighBit, data.PixelRepresentation = 7, 0
        data.PixelData = (np.arange(2 * rows * columns) % 251).astype(np.uint8).tobytes()
        data["PixelData"].VR = "OB"

    write_series(tmp_path, _heights([]), STRAIGHT, change=ultrasound)
    reference = pydicom.pixels.pixel_array(pydicom.dcmread(next(tmp_path.iterdir())))
    assert np.array_equal(read_image(tmp_path).data[:, 0].numpy(), np.moveaxis(reference, -1, 0))


def test_volumes_of_several_files_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    """Not of their names."""
    for time, name in enumerate(("late.dcm", "early.dcm")):
        write_enhanced(tmp_path / name, [(p, z, 0) for p, z, t in _frames(times=2) if t == time])
        data = pydicom.dcmread(tmp_path / name)
        data.SeriesInstanceUID, data.InstanceNumber = "1.2.3", time + 1
        data.save_as(tmp_path / name)
    for time in (0, 1):
        expected = np.stack([p for p, _, t in _frames(times=2) if t == time])
        assert np.array_equal(read_image(tmp_path, frame=time).data[0].numpy(), expected)


@pytest.mark.parametrize("step", [2.0, -2.0])
def test_a_volume_of_nuclear_medicine_lies_where_its_detector_says(tmp_path: Path, step: float) -> None:
    write_enhanced(tmp_path / "i.dcm", _frames())
    data = pydicom.dcmread(tmp_path / "i.dcm")
    del data.PerFrameFunctionalGroupsSequence, data.SharedFunctionalGroupsSequence
    data.SOPClassUID, data.Modality = pydicom.uid.NuclearMedicineImageStorage, "NM"
    data.PixelSpacing, data.SliceThickness, data.SpacingBetweenSlices = list(SPACING), 2.0, step
    data.SliceVector = list(range(1, 9))
    data.save_as(tmp_path / "i.dcm")
    with pytest.warns(HeaderWarning, match="does not say where it lies; the first voxel is taken as the origin"):
        read_image(tmp_path / "i.dcm")
    place = Dataset()
    place.ImagePositionPatient, place.ImageOrientationPatient = [-5.0, -6.0, 40.0], [1, 0, 0, 0, 1, 0]
    data.DetectorInformationSequence = pydicom.Sequence([place])
    data.save_as(tmp_path / "i.dcm")
    image = read_image(tmp_path / "i.dcm")
    planes = np.stack([pixels for pixels, _, _ in _frames()])
    assert np.array_equal(image.data[0].numpy(), planes[:: int(np.sign(step))])
    assert image.grid.origin == pytest.approx([-5, -6, 40 + min(0, 7 * step)])


def test_moving_pictures_are_frames_not_slices(tmp_path: Path) -> None:
    """Ultrasound: several frames without a place are moments."""
    frames = _frames()
    write_enhanced(tmp_path / "i.dcm", frames)
    data = pydicom.dcmread(tmp_path / "i.dcm")
    del data.PerFrameFunctionalGroupsSequence, data.SharedFunctionalGroupsSequence
    data.save_as(tmp_path / "i.dcm")
    with pytest.raises(InputError, match="8 frames that do not say where they lie"):
        read_image(tmp_path / "i.dcm")
    image = read_image(tmp_path / "i.dcm", frame=5)
    assert np.array_equal(image.data.numpy(), frames[5][0][None])
    assert (image.ndim, image.unit) == (2, "px")


# -- label maps -------------------------------------------------------------------------------------


def test_a_region_beside_the_series_is_told(tmp_path: Path) -> None:
    write_series(tmp_path / "ct", _heights([3.0] * 5), STRAIGHT, uid="1.2.3.4")
    away = np.array([[900.0, 0, CORNER[2]], [904, 0, CORNER[2]], [904, 4, CORNER[2]]])
    (tmp_path / "rt").mkdir()
    write_contours(tmp_path / "rt" / "rs.dcm", "1.2.3.4", {"liver": [away]})
    with pytest.warns(HeaderWarning, match="regions without a voxel: liver"):
        labels = read_labels(tmp_path / "rt" / "rs.dcm")
    assert not bool(labels.data.any())


def test_contours_become_a_label_map_on_their_images(tmp_path: Path) -> None:
    write_series(tmp_path / "ct", _heights([3.0] * 5), STRAIGHT, uid="1.2.3.4")
    image = read_image(tmp_path / "ct")
    square = np.array([[4.2, 5.2], [4.2, 20.8], [15.8, 20.8], [15.8, 5.2]])  # (row, column)
    hole = np.array([[8.2, 9.2], [8.2, 12.8], [11.8, 12.8], [11.8, 9.2]])

    def contour(corners: np.ndarray, plane: int) -> np.ndarray:
        return image.grid.world_from_index(np.column_stack([np.full(4, plane), corners]))

    regions = {"ring": [contour(square, 2), contour(hole, 2)], "block": [contour(hole, k) for k in (3, 4)]}
    (tmp_path / "rt").mkdir()
    write_contours(tmp_path / "rt" / "rs.dcm", "1.2.3.4", regions)
    expected = np.zeros((6, 28, 32), int)
    expected[2, 5:16, 6:21] = 1
    expected[2, 9:12, 10:13] = 0
    expected[3:5, 9:12, 10:13] = 2
    for place in (tmp_path / "rt" / "rs.dcm", tmp_path / "rt"):
        labels = read_labels(place)
        assert np.array_equal(labels.data[0].numpy(), expected)
        assert labels.grid == image.grid
        assert labels.metadata["labels"] == "1 ring, 2 block"
    write_contours(tmp_path / "rt" / "rs.dcm", "9.9", regions)
    with pytest.raises(InputError, match=r"series 9\.9, which is neither in its folder nor in one beside it"):
        read_labels(tmp_path / "rt")


def _write_segments(file: Path, source: Path, pixels: np.ndarray, kind: str = "BINARY") -> None:
    """Write two segments: (slice, y, x) numbers, or with a last axis one part of each voxel per segment."""
    codes = pytest.importorskip("pydicom.sr.codedict").codes
    highdicom = pytest.importorskip("highdicom")
    segments = [
        highdicom.seg.SegmentDescription(
            segment_number=n,
            segment_label=label,
            segmented_property_category=codes.SCT.Organ,
            segmented_property_type=codes.SCT.Liver,
            algorithm_type="MANUAL",
        )
        for n, label in ((1, "liver"), (2, "cyst"))
    ]
    segmentation = highdicom.seg.Segmentation(
        source_images=[pydicom.dcmread(f) for f in sorted(source.iterdir())],
        pixel_array=pixels,
        segmentation_type=kind,
        segment_descriptions=segments,
        series_instance_uid="1.2.9",
        series_number=2,
        sop_instance_uid="1.2.9.1",
        instance_number=1,
        manufacturer="A",
        manufacturer_model_name="B",
        software_versions="1",
        device_serial_number="1",
    )
    segmentation.save_as(file)


def test_segmentation_is_a_label_map(tmp_path: Path) -> None:
    write_series(tmp_path / "ct", _heights([3.0] * 5), STRAIGHT)
    image = read_image(tmp_path / "ct")
    expected = np.zeros((6, 28, 32), np.uint8)
    expected[1:3, 5:10, 6:20] = 1
    expected[4, 12:20, 3:9] = 2
    _write_segments(tmp_path / "ct" / "seg.dcm", tmp_path / "ct", expected)
    assert np.array_equal(read_image(tmp_path / "ct").data, image.data)  # the images alone
    for place in (tmp_path / "ct" / "seg.dcm", tmp_path / "ct"):
        labels = read_labels(place)
        assert labels.metadata["labels"] == "1 liver, 2 cyst"
        first = np.round(image.grid.index_from_world(labels.grid.origin)).astype(int)
        placed = np.zeros_like(expected)
        ends = first + labels.grid.shape
        placed[first[0] : ends[0], first[1] : ends[1], first[2] : ends[2]] = labels.data[0].numpy()
        assert np.array_equal(placed, expected)


def test_segments_that_share_voxels_are_told_and_parts_of_voxels_refused(tmp_path: Path) -> None:
    write_series(tmp_path / "ct", _heights([3.0] * 5), STRAIGHT)
    parts = np.zeros((6, 28, 32, 2), np.uint8)
    parts[2, 5:10, 6:20, 0] = parts[2, 8:15, 6:20, 1] = 1
    _write_segments(tmp_path / "seg.dcm", tmp_path / "ct", parts)
    with pytest.warns(HeaderWarning, match="its segments share voxels, which go to the one of the highest number"):
        labels = read_labels(tmp_path / "seg.dcm")
    assert np.array_equal(labels.data[0, 0].numpy(), np.where(parts[2, ..., 1], 2, parts[2, ..., 0]))
    _write_segments(tmp_path / "seg.dcm", tmp_path / "ct", parts * 0.6, "FRACTIONAL")
    with pytest.raises(InputError, match=r"FRACTIONAL, it holds how much of a voxel.*BINARY or LABELMAP"):
        read_labels(tmp_path / "seg.dcm")
    _write_segments(tmp_path / "seg.dcm", tmp_path / "ct", np.where(parts[..., 0], 1, 0).astype(np.uint8))
    labels = read_labels(tmp_path / "seg.dcm")  # the second segment is empty
    assert labels.grid.shape == (1, 28, 32)
    assert int(labels.data.sum()) == 5 * 14

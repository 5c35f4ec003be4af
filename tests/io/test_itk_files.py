"""ITK's transform files: every class as SimpleITK reads it, and damaged files in one sentence."""

from __future__ import annotations

import struct
from pathlib import Path

import h5py
import numpy as np
import pytest
import SimpleITK as sitk

from roireg.core.errors import InputError
from roireg.core.transforms import Affine
from roireg.io import from_itk, read_transform, write_transform

TURN = [0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 1.1]
CENTER = [5, 6, 7]


def text_file(path: Path, *records: tuple[str, list, list]) -> Path:
    lines = ["#Insight Transform File V1.0"]
    for i, (kind, parameters, fixed) in enumerate(records):
        lines += [f"#Transform {i}", f"Transform: {kind}", f"Parameters: {' '.join(map(str, parameters))}"]
        lines += [f"FixedParameters: {' '.join(map(str, fixed))}"]
    path.write_text("\n".join(lines) + "\n")
    return path


def _about(matrix: np.ndarray, center: list, translation: list) -> np.ndarray:
    d = len(matrix)
    full = np.eye(d + 1)
    full[:d, :d] = matrix
    full[:d, d] = np.array(translation) + center - matrix @ center
    return full


def _plane(angle: float, scale: float = 1.0) -> np.ndarray:
    return scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


AS_SIMPLEITK = [
    ("MatrixOffsetTransformBase_double_3_3", [*TURN, 3, -4, 5.5], CENTER),
    ("MatrixOffsetTransformBase_float_3_3", [*TURN, 3, -4, 5.5], CENTER),
    ("MatrixOffsetTransformBase_double_2_2", [0.8, -0.6, 0.6, 0.8, 3, 4], [5, 6]),
    ("Rigid2DTransform_double_2_2", [0.3, 1, 2], [5, 6]),
    ("QuaternionRigidTransform_double_3_3", [0.1, 0.2, 0.3, -np.sqrt(1 - 0.14), 1, 2, 3], CENTER),
    ("ScaleLogarithmicTransform_double_3_3", [0.1, 0.2, 0.3], CENTER),
    ("Euler3DTransform_double_3_3", [0.1, 0.2, 0.3, 1, 2, 3], [*CENTER, 1]),
    ("Euler3DTransform_double_3_3", [0.1, 0.2, 0.3, 1, 2, 3], CENTER),
    ("VersorTransform_double_3_3", [0.1, 0.2, 0.3], CENTER),
    ("CompositeTransform_double_3_3", [], []),
]


@pytest.mark.parametrize("record", AS_SIMPLEITK, ids=lambda r: r[0])
def test_linear_classes_are_read_as_simpleitk_does(tmp_path: Path, record: tuple) -> None:
    file = text_file(tmp_path / "t.txt", record)
    theirs = sitk.ReadTransform(str(file))
    points = np.random.default_rng(0).uniform(-200, 200, (50, theirs.GetDimension()))
    expected = np.array([theirs.TransformPoint(p) for p in points.tolist()])
    ours = read_transform(file)
    assert isinstance(ours, Affine)
    np.testing.assert_allclose(ours.map_points(points), expected, atol=1e-9)
    np.testing.assert_allclose(from_itk(theirs).map_points(points), expected, atol=1e-9)


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (
            ("CenteredAffineTransform_double_3_3", [*TURN, *CENTER, 1, 2, 3], CENTER),
            _about(np.array(TURN).reshape(3, 3), CENTER, [1, 2, 3]),
        ),
        (("CenteredRigid2DTransform_double_2_2", [0.3, 5, 6, 1, 2], []), _about(_plane(0.3), [5, 6], [1, 2])),
        (
            ("CenteredSimilarity2DTransform_double_2_2", [1.2, 0.3, 5, 6, 1, 2], []),
            _about(_plane(0.3, 1.2), [5, 6], [1, 2]),
        ),
        (("CenteredEuler3DTransform_double_3_3", [np.pi / 2, 0, 0, *CENTER, 1, 2, 3], [*CENTER, 0]),
         _about(np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]]), CENTER, [1, 2, 3])),
        (("Rigid3DTransform_double_3_3", [0, -1, 0, 1, 0, 0, 0, 0, 1, 1, 2, 3], CENTER),
         _about(np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]]), CENTER, [1, 2, 3])),
    ],
    ids=lambda v: v[0] if isinstance(v, tuple) else "",
)  # fmt: skip
def test_classes_that_simpleitk_does_not_read(tmp_path: Path, record: tuple, expected: np.ndarray) -> None:
    ours = read_transform(text_file(tmp_path / "t.tfm", record))
    assert isinstance(ours, Affine)
    np.testing.assert_allclose(ours.matrix, expected, atol=1e-12)


def test_of_several_transforms_the_last_is_applied_first_as_in_ants(tmp_path: Path) -> None:
    ants, pandas = pytest.importorskip("ants"), pytest.importorskip("pandas")
    stretch = ("AffineTransform_double_3_3", [2, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0], [0, 0, 0])
    shift = ("TranslationTransform_double_3_3", [10, 0, 0], [])
    composite = ("CompositeTransform_double_3_3", [], [])
    table = pandas.DataFrame([[1.0, 2.0, 3.0]], columns=list("xyz"))
    for records in ((stretch, shift), (composite, stretch, shift)):
        file = text_file(tmp_path / f"t{len(records)}.txt", *records)
        theirs = ants.apply_transforms_to_points(3, table, [str(file)])[list("xyz")].to_numpy()
        assert theirs.tolist() == [[22.0, 2.0, 3.0]]
        np.testing.assert_allclose(read_transform(file).map_points(np.array([[1.0, 2.0, 3.0]])), theirs, atol=1e-6)


def test_old_names_in_hdf5_are_understood(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "old.h5", "w") as file:
        group = file.create_group("TransformGroup/0")
        group["TransformType"] = np.array([b"AffineTransform_double_2_2"])
        group["TranformParameters"] = np.array([1.0, 0, 0, 1, 3, 4])
        group["TranformFixedParameters"] = np.zeros(2)
    assert read_transform(tmp_path / "old.h5").map_points(np.zeros((1, 2))).tolist() == [[3, 4]]


def test_mat_files_of_single_precision_are_read(tmp_path: Path) -> None:
    data = b""
    for title, values in (("AffineTransform_float_2_2", [1, 0, 0, 1, 3, 4]), ("fixed", [0, 0])):
        name = title.encode() + b"\0"
        data += struct.pack("<5i", 10, len(values), 1, 0, len(name)) + name + np.array(values, "<f4").tobytes()
    (tmp_path / "t.mat").write_bytes(data)
    assert read_transform(tmp_path / "t.mat").map_points(np.zeros((1, 2))).tolist() == [[3, 4]]
    (tmp_path / "cut.mat").write_bytes(data[:-20])
    with pytest.raises(InputError, match=r"cut\.mat: .*(cut off|not a transform)"):
        read_transform(tmp_path / "cut.mat")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (("BSplineTransform_double_3_3", [0, 0, 0], [30000] * 3 + [0] * 3 + [1] * 3 + [1, 0, 0, 0, 1, 0, 0, 0, 1]),
         "claims a grid of 30000 x 30000 x 30000"),
        (("DisplacementFieldTransform_double_3_3", [0] * 3, [1e9, 1, 1, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 0, 1]),
         "holds 3 parameters"),
        (("BSplineTransform_double_3_3", [0] * 24, [2, 2, 2, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 0, 1]),
         "need 4 coefficients"),
        (("BSplineTransform_double_3_3", [0], [2, 2, 2]), "18 finite fixed parameters, found 3"),
        (("AffineTransform_double_3_3", [1, 0, 0], [0, 0, 0]), "has 12 parameters and 3 fixed ones, found 3 and 3"),
        (("AffineTransform_double_3_3", [*TURN, 0, "nan", 0], [0, 0, 0]), "not finite"),
        (("AffineTransform_double_3_3", [*TURN, 0, "five", 0], [0, 0, 0]), "line 4 holds what is no number"),
        (("AffineTransform_double_4_4", [], []), "AffineTransform_double_4_4"),
        (("ThinPlateSplineKernelTransform_double_3_3", [1, 2, 3], []), "ThinPlateSplineKernelTransform_double_3_3"),
        (("ConstantVelocityFieldTransform_double_3_3", [1, 2, 3], []), "ConstantVelocityField"),
        (("QuaternionRigidTransform_double_3_3", [0.1, 0.2, 0.3, 5, 1, 2, 3], CENTER), "length 1, found 5"),
        (("", [], []), "type ''"),
    ],
    ids=lambda v: v[0][:24] if isinstance(v, tuple) else "",
)  # fmt: skip
def test_unusable_records_are_refused_in_a_sentence(tmp_path: Path, record: tuple, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        read_transform(text_file(tmp_path / "t.tfm", record))
    assert str(tmp_path / "t.tfm") in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.tfm", b"#Insight Transform File V1.0\n\xff\xfe\x80", "no transform"),
        ("t.mat", b"\xff\xfe\x80" * 30, "MATLAB 4"),
        ("t.mat", b"MATLAB 5.0 MAT-file, Platform: PCWIN", "SPM"),
        ("t.xfm", b"MNI Transform File\nTransform_Type = Linear;", "lta_convert"),
        ("t.tfm", b"#Insight Transform File V1.0\n", "holds no transform"),
        ("t.tfm", b"#Insight Transform File V1.0\nParameters: 1 2\n", "line 2"),
        ("t.tfm", b"#Insight Transform File V1.0\nComponentTransformFile: a.tfm\n", "line 2"),
        ("t.h5", b"\x89HDF\r\n\x1a\nnothing more", "damaged"),
        ("t.h5", b"", "no transform"),
    ],
)
def test_other_content_is_refused_in_a_sentence(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_transform(tmp_path / name)


def test_hdf5_that_claims_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "t.h5", "w") as file:
        group = file.create_group("TransformGroup/0")
        group["TransformType"] = np.array([b"DisplacementFieldTransform_double_3_3"])
        n = 1000
        group["TransformFixedParameters"] = np.array([n, n, n, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 0, 1.0])
        group.create_dataset("TransformParameters", shape=(3 * n**3,), dtype="f8", chunks=(1 << 16,))
    with pytest.raises(InputError, match="claims 3000000000 parameters"):
        read_transform(tmp_path / "t.h5")


def test_one_changed_byte_of_our_hdf5_is_noticed(tmp_path: Path) -> None:
    write_transform(tmp_path / "t.h5", Affine.translation([1.0, 2, 3]))
    content = bytearray((tmp_path / "t.h5").read_bytes())
    content[content.index(np.array([1.0, 2, 3]).tobytes())] ^= 1
    (tmp_path / "t.h5").write_bytes(content)
    with pytest.raises(InputError, match="its checksum is another"):
        read_transform(tmp_path / "t.h5")


def test_mutated_hdf5_of_others_is_read_or_refused(tmp_path: Path) -> None:
    """The HDF5 library ends the program over many of these."""
    sitk.WriteTransform(sitk.Euler3DTransform(), str(tmp_path / "t.h5"))
    content = (tmp_path / "t.h5").read_bytes()
    refused = 0
    for seed in range(24):
        rng = np.random.default_rng(seed)
        bad = bytearray(content)
        for place in rng.integers(8, len(bad), 40):
            bad[place] = rng.integers(256)
        (tmp_path / "bad.h5").write_bytes(bad)
        try:
            read_transform(tmp_path / "bad.h5")
        except InputError as error:
            refused += 1
            assert str(error).startswith(str(tmp_path / "bad.h5"))
            assert "\n" not in str(error)
    assert refused > 5


def test_a_composite_of_matlab_does_not_say_what_it_is_made_of(tmp_path: Path) -> None:
    """ITK writes the numbers of its parts in a row, and cannot read them itself."""
    composite = sitk.CompositeTransform(3)
    for offset in ((1.0, 2, 3), (4.0, 5, 6)):
        composite.AddTransform(sitk.TranslationTransform(3, offset))
    sitk.WriteTransform(composite, str(tmp_path / "t.mat"))
    with pytest.raises(InputError, match="numbers of a composite without saying of which transforms"):
        read_transform(tmp_path / "t.mat")
    sitk.WriteTransform(composite, str(tmp_path / "t.h5"))
    assert read_transform(tmp_path / "t.h5").map_points(np.zeros((1, 3))).tolist() == [[5, 7, 9]]

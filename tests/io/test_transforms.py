"""Transform files: the same points in SimpleITK, in ANTs and here, and theirs read by us."""

from __future__ import annotations

import time
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from roireg.core.errors import GeometryError, InputError, OutputError
from roireg.core.grid import Grid
from roireg.core.transforms import Affine, Chain, DisplacementField, Transform, VelocityField
from roireg.io import from_itk, read_transform, to_itk, write_ants, write_transform

OBLIQUE = np.array(
    [
        [0.80473785, -0.50587936, 0.31061722],
        [0.50587936, 0.31061722, -0.80473785],
        [0.31061722, 0.80473785, 0.50587936],
    ]
)
GRIDS = {
    "lps": Grid.from_itk((9, 8, 7), (2.0, 2.0, 2.0), (-7.0, -8.0, -5.0), np.eye(3)),
    "ras": Grid.from_itk((9, 8, 7), (2.0, 1.5, 2.0), (9.0, 8.0, -5.0), np.diag([-1.0, -1.0, 1.0])),
    "oblique": Grid.from_itk((9, 8, 7), (2.0, 1.5, 2.5), (-100.0, 30.0, 700.0), OBLIQUE),
    "anisotropic": Grid.from_itk((20, 18, 4), (0.7, 0.7, 7.0), (3.0, -4.0, 5.0), np.eye(3)),
    "flat": Grid.from_itk((9, 8, 1), (2.0, 2.0, 5.0), (0.0, 0.0, 0.0), np.eye(3)),
    "2d": Grid.from_itk((12, 9), (1.5, 2.5), (10.0, -20.0), np.eye(2)),
    "2d-rotated": Grid.from_itk((12, 9), (1.0, 1.0), (10.0, -20.0), [0.6, -0.8, 0.8, 0.6]),
}
grids = pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS.keys())


def _field(grid: Grid, seed: int = 0, size: float = 0.4) -> DisplacementField:
    rng = np.random.default_rng(seed)
    u = rng.normal(size=(grid.ndim, *grid.shape)) * size * grid.spacing.min()
    return DisplacementField(grid, torch.as_tensor(u, dtype=torch.float32))


def _affine(grid: Grid, seed: int = 1) -> Affine:
    rng = np.random.default_rng(seed)
    d = grid.ndim
    matrix = np.eye(d + 1)
    matrix[:d, :d] += rng.normal(size=(d, d)) * 0.1
    matrix[:d, d] = grid.center - matrix[:d, :d] @ grid.center + rng.normal(size=d) * 3
    return Affine(matrix)


def _points(grid: Grid, count: int = 1000) -> np.ndarray:
    """Points in the grid, up to its outermost voxel centres (half a voxel further rules differ in rounding)."""
    rng = np.random.default_rng(2)
    return grid.world_from_index(rng.uniform(0, 1, (count, grid.ndim)) * (np.array(grid.shape) - 1))


def _itk_points(transform: sitk.Transform, points: np.ndarray) -> np.ndarray:
    return np.array([transform.TransformPoint(p) for p in points.tolist()])


def _ants_points(ndim: int, files: list[str], points: np.ndarray, invert: list[bool] | None = None) -> np.ndarray:
    ants = pytest.importorskip("ants")
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(points, columns=list("xyz")[:ndim])
    moved = ants.apply_transforms_to_points(ndim, table, files, whichtoinvert=invert or [False] * len(files))
    return moved[list("xyz")[:ndim]].to_numpy()


@grids
@pytest.mark.parametrize("extension", [".h5", ".tfm"])
@pytest.mark.parametrize("kind", ["affine", "field", "field-affine", "affine-field", "three"])
def test_composite_maps_points_alike_in_itk(tmp_path: Path, grid: Grid, extension: str, kind: str) -> None:
    a, f = _affine(grid), _field(grid)
    transform: Transform = {
        "affine": a,
        "field": f,
        "field-affine": Chain((f, a)),
        "affine-field": Chain((a, f)),
        "three": Chain((a, f, _affine(grid, 5))),
    }[kind]
    file = tmp_path / f"t{extension}"
    write_transform(file, transform)
    points = _points(grid)
    if kind in ("affine-field", "three"):
        points = a.inverse().map_points(points)  # so that the field sees points inside its grid
        points = points[grid.contains(a.map_points(points))]
    ours = transform.map_points(points)
    assert np.abs(ours - points).max() > 0.1
    assert np.abs(_itk_points(sitk.ReadTransform(str(file)), points) - ours).max() < 1e-3
    assert np.abs(_itk_points(to_itk(transform), points) - ours).max() < 1e-3
    back = read_transform(file)
    assert np.abs(back.map_points(points) - ours).max() < 1e-3
    assert type(back) is type(transform)
    assert [p.name for p in tmp_path.iterdir()] == [file.name]


@grids
def test_ants_reads_composite(tmp_path: Path, grid: Grid) -> None:
    ants = pytest.importorskip("ants")
    transform = Chain((_field(grid), _affine(grid)))
    write_transform(tmp_path / "t.h5", transform)
    points = _points(grid)
    ours = transform.map_points(points)
    assert np.abs(_ants_points(grid.ndim, [str(tmp_path / "t.h5")], points) - ours).max() < 1e-3
    theirs = ants.read_transform(str(tmp_path / "t.h5"))
    # The composite ANTsPy holds is in single precision: 700 mm carries an error of about 1e-4 mm.
    direct = np.array([theirs.apply_to_point(p) for p in points[:50].tolist()])
    assert np.abs(direct - ours[:50]).max() < 1e-3


@grids
@pytest.mark.parametrize("order", ["field-affine", "affine-field"])
def test_ants_files_map_points_alike(tmp_path: Path, grid: Grid, order: str) -> None:
    pytest.importorskip("ants")
    a, f = _affine(grid), _field(grid, size=0.1)
    transform = Chain((f, a) if order == "field-affine" else (a, f))
    files = write_ants(tmp_path / "sub_", transform)
    if order == "field-affine":
        assert [p.name for p in files.forward] == ["sub_1Warp.nii.gz", "sub_0GenericAffine.mat"]
        assert [(p.name, i) for p, i in files.inverse] == [
            ("sub_0GenericAffine.mat", True),
            ("sub_1InverseWarp.nii.gz", False),
        ]
    points = _points(grid) if order == "field-affine" else a.inverse().map_points(_points(grid))
    inside = grid.contains(a.map_points(points)) if order == "affine-field" else np.ones(len(points), bool)
    points = points[inside]
    ours = transform.map_points(points)
    theirs = _ants_points(grid.ndim, [str(p) for p in files.forward], points)
    assert np.abs(theirs - ours).max() < 1e-3
    # The way back: files and flags in the given order are the inverse chain.
    read_back = Chain(
        tuple(read_transform(p).inverse() if invert else read_transform(p) for p, invert in files.inverse)
    )
    back = _ants_points(grid.ndim, [str(p) for p, _ in files.inverse], ours, [i for _, i in files.inverse])
    inside = grid.contains(a.inverse().map_points(ours) if order == "field-affine" else ours)
    assert inside.sum() > 100
    assert np.abs(back - read_back.map_points(ours))[inside].max() < 1e-3


def test_ants_registration_output_is_read(tmp_path: Path) -> None:
    ants = pytest.importorskip("ants")
    rng = np.random.default_rng(0)
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in (20, 22, 24)), indexing="ij")
    blob = np.exp(-(x**2 + 2 * y**2 + 3 * z**2) * 3) * 100 + rng.normal(size=x.shape)
    fixed = ants.from_numpy(blob.T.astype("float32"), origin=(5.0, -3.0, 7.0), spacing=(1.0, 1.5, 2.0))
    moving = ants.from_numpy(
        np.roll(blob, 2, axis=2).T.astype("float32"), origin=(4.0, -3.0, 7.0), spacing=(1, 1.5, 2)
    )
    result = ants.registration(
        fixed,
        moving,
        type_of_transform="SyN",
        outprefix=str(tmp_path / "a"),
        reg_iterations=(10, 0, 0),
        random_seed=1,
    )
    warp_file, affine_file = result["fwdtransforms"]
    ours = Chain((read_transform(warp_file), read_transform(affine_file)))
    points = rng.uniform((6, -1, 9), (26, 26, 43), (1000, 3))
    theirs = _ants_points(3, [warp_file, affine_file], points)
    assert np.abs(theirs - points).max() > 0.5
    assert np.abs(ours.map_points(points) - theirs).max() < 1e-3


@grids
@pytest.mark.parametrize("extension", [".nii.gz", ".nii", ".mha", ".nrrd"])
def test_field_files_round_trip_and_agree_with_itk(tmp_path: Path, grid: Grid, extension: str) -> None:
    field = _field(grid)
    file = tmp_path / f"field{extension}"
    write_transform(file, field)
    back = read_transform(file)
    assert isinstance(back, DisplacementField)
    assert torch.equal(back.displacement, field.displacement)
    assert back.grid.is_close(grid, tolerance=1e-4)
    points = _points(grid)
    ours = field.map_points(points)
    one_slice = grid.ndim == 3 and grid.shape[0] == 1
    if not (one_slice and ".nii" in extension):  # SimpleITK reads such a NIfTI field as 2D; ANTs and we do not
        itk = sitk.DisplacementFieldTransform(sitk.ReadImage(str(file), sitk.sitkVectorFloat64))
        assert np.abs(_itk_points(itk, points) - ours).max() < 1e-3
    if extension == ".nii.gz":
        assert np.abs(_ants_points(grid.ndim, [str(file)], points) - ours).max() < 1e-3


AXES = [(order, signs) for order in permutations(range(3)) for signs in product((1, -1), repeat=3)]


@pytest.mark.parametrize(("order", "signs"), AXES)
def test_field_on_every_axis_order(tmp_path: Path, order: tuple[int, ...], signs: tuple[int, ...]) -> None:
    direction = np.eye(3)[:, list(order)] * np.array(signs)
    grid = Grid.from_itk((5, 4, 3), (1.0, 2.0, 3.0), (10.0, -20.0, 30.0), direction)
    field = _field(grid)
    points = _points(grid, 50)
    for extension in (".h5", ".nrrd", ".nii.gz"):
        write_transform(tmp_path / f"t{extension}", field)
        back = read_transform(tmp_path / f"t{extension}")
        assert np.abs(back.map_points(points) - field.map_points(points)).max() < 1e-4
    itk = sitk.ReadTransform(str(tmp_path / "t.h5"))
    assert np.abs(_itk_points(itk, points) - field.map_points(points)).max() < 1e-4


def _linear_transforms() -> list[sitk.Transform]:
    euler = sitk.Euler3DTransform((10.0, 20.0, 30.0), 0.1, -0.2, 0.3, (1.0, 2.0, 3.0))
    versor = sitk.VersorRigid3DTransform((0.0, 0.6, 0.8), 0.4, (1.0, -2.0, 3.0), (500.0, 0.0, -700.0))
    similarity = sitk.Similarity3DTransform(1.2, (1.0, 0.0, 0.0), 0.3, (4.0, 5.0, 6.0), (7.0, 8.0, 9.0))
    affine = sitk.AffineTransform(3)
    affine.SetCenter((100.0, -50.0, 25.0))
    affine.Rotate(0, 1, 0.3)
    affine.Scale((1.1, 0.9, 1.2))
    affine.Translate((3.0, 2.0, 1.0))
    return [
        euler,
        versor,
        similarity,
        affine,
        sitk.ScaleTransform(3, (2.0, 0.5, 1.5)),
        sitk.ScaleVersor3DTransform((1.1, 1.2, 0.9), (0.0, 0.0, 1.0), 0.2, (1.0, 2.0, 3.0), (5.0, 5.0, 5.0)),
        sitk.TranslationTransform(3, (1.0, -2.0, 3.0)),
        sitk.Transform(3, sitk.sitkIdentity),
        sitk.Euler2DTransform((3.0, 4.0), 0.5, (1.0, 2.0)),
        sitk.Similarity2DTransform(0.8, 0.3, (1.0, 2.0), (50.0, 60.0)),
        sitk.AffineTransform(2),
    ]


@pytest.mark.parametrize("itk", _linear_transforms(), ids=lambda t: f"{t.GetName()}{t.GetDimension()}D")
@pytest.mark.parametrize("extension", [".tfm", ".h5", ".mat"])
def test_itk_linear_transforms_are_read(tmp_path: Path, itk: sitk.Transform, extension: str) -> None:
    file = tmp_path / f"t{extension}"
    sitk.WriteTransform(itk, str(file))
    ours = read_transform(file)
    assert isinstance(ours, Affine)
    points = np.random.default_rng(0).uniform(-300, 300, (1000, itk.GetDimension()))
    assert np.abs(ours.map_points(points) - _itk_points(itk, points)).max() < 1e-9


def test_nested_composite_keeps_its_order() -> None:
    grid = GRIDS["lps"]
    inner = sitk.CompositeTransform([sitk.TranslationTransform(3, (0.3, 0.0, 0.0)), to_itk(_field(grid))])
    outer = sitk.CompositeTransform([sitk.ScaleTransform(3, (2.0, 2.0, 2.0)), inner])
    points = _points(grid)
    ours = from_itk(outer)
    assert np.abs(ours.map_points(points) - _itk_points(outer, points)).max() < 1e-3


@pytest.mark.parametrize("extension", [".h5", ".tfm"])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("ndim", [2, 3])
def test_bspline_is_exact_both_ways(tmp_path: Path, ndim: int, order: int, extension: str) -> None:
    domain = sitk.Image([40] * ndim, sitk.sitkUInt8)
    domain.SetSpacing([1.5] * ndim)
    domain.SetDirection(OBLIQUE.ravel() if ndim == 3 else [0.6, -0.8, 0.8, 0.6])
    spline = sitk.BSplineTransformInitializer(domain, [4] * ndim, order)
    rng = np.random.default_rng(0)
    spline.SetParameters(rng.normal(size=len(spline.GetParameters())) * 3)
    sitk.WriteTransform(spline, str(tmp_path / f"t{extension}"))
    ours = read_transform(tmp_path / f"t{extension}")
    points = np.concatenate([rng.uniform(-40, 60, (1000, ndim)), np.zeros((1, ndim))])  # outside: no motion
    expected = _itk_points(spline, points)
    assert np.abs(expected - points).max() > 2
    assert np.abs(ours.map_points(points) - expected).max() < 1e-5
    write_transform(tmp_path / f"u{extension}", Chain((ours, _affine(GRIDS["2d" if ndim == 2 else "lps"]))))
    theirs = _itk_points(sitk.ReadTransform(str(tmp_path / f"u{extension}")), points)
    assert np.abs(read_transform(tmp_path / f"u{extension}").map_points(points) - theirs).max() < 1e-5


def test_velocity_is_written_as_its_field_and_inverted_by_its_flow(tmp_path: Path) -> None:
    grid = GRIDS["2d"]
    velocity = VelocityField(grid, _field(grid).displacement)
    affine = _affine(grid)
    write_transform(tmp_path / "t.h5", Chain((velocity, affine)))
    back = read_transform(tmp_path / "t.h5")
    assert isinstance(back, Chain)
    first = back.transforms[0]
    assert isinstance(first, DisplacementField)
    assert torch.equal(first.displacement, velocity.field.displacement)
    files = write_ants(tmp_path / "v", Chain((velocity, affine)))
    inverse = read_transform(files.inverse[1][0])
    assert isinstance(inverse, DisplacementField)
    assert torch.equal(inverse.displacement, velocity.inverse().field.displacement)


def test_chain_as_one_field_is_sampled(tmp_path: Path) -> None:
    grid = GRIDS["oblique"]
    chain = Chain((_field(grid), _affine(grid)))
    write_transform(tmp_path / "t.nii.gz", chain)
    back = read_transform(tmp_path / "t.nii.gz")
    centres = grid.points()
    assert np.abs(back.map_points(centres) - chain.map_points(centres)).max() < 1e-3
    write_transform(tmp_path / "a.nii.gz", _affine(grid), grid=grid)
    assert (
        np.abs(read_transform(tmp_path / "a.nii.gz").map_points(centres) - _affine(grid).map_points(centres)).max()
        < 1e-3
    )


def test_chain_of_affines_is_one_mat(tmp_path: Path) -> None:
    grid = GRIDS["lps"]
    chain = Chain((_affine(grid, 1), _affine(grid, 2), _affine(grid, 3)))
    write_transform(tmp_path / "t.mat", chain)
    points = _points(grid)
    assert np.abs(read_transform(tmp_path / "t.mat").map_points(points) - chain.map_points(points)).max() < 1e-9
    assert np.abs(_ants_points(3, [str(tmp_path / "t.mat")], points) - chain.map_points(points)).max() < 1e-3


def test_same_transform_same_bytes(tmp_path: Path) -> None:
    transform = Chain((_field(Grid.from_itk((40, 30, 20), (1, 1, 1), (0, 0, 0), np.eye(3))), _affine(GRIDS["lps"])))
    write_transform(tmp_path / "a.h5", transform)
    # HDF5 stores seconds since 1970 wherever it keeps times; a file without them cannot differ a second later.
    time.sleep(1.1)
    write_transform(tmp_path / "b.h5", transform)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_large_values_survive_compression(tmp_path: Path) -> None:
    grid = Grid.from_itk((64, 64, 80), (1, 1, 1), (0, 0, 0), np.eye(3))  # more than one chunk of the file
    field = _field(grid)
    write_transform(tmp_path / "t.h5", field)
    back = read_transform(tmp_path / "t.h5")
    assert isinstance(back, DisplacementField)
    assert torch.equal(back.displacement, field.displacement)
    assert back.grid == grid


# -- malformed --------------------------------------------------------------------------------------


def test_mat_with_a_field_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\.mat file holds an affine alone"):
        write_transform(tmp_path / "t.mat", Chain((_field(GRIDS["lps"]), _affine(GRIDS["lps"]))))
    assert not list(tmp_path.iterdir())


def test_affine_as_field_needs_a_grid(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="give the fixed image's grid"):
        write_transform(tmp_path / "t.nii.gz", _affine(GRIDS["lps"]))


def test_unknown_extension_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"extension '\.xyz'; use one of \.h5"):
        write_transform(tmp_path / "t.xyz", _affine(GRIDS["lps"]))


@pytest.mark.parametrize("extension", [".h5", ".tfm", ".nii.gz"])
def test_sheared_field_is_refused(tmp_path: Path, extension: str) -> None:
    affine = np.array([[1.0, 0.5, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    with pytest.raises(GeometryError, match="sheared axes"):
        write_transform(tmp_path / f"t{extension}", _field(Grid((5, 6), affine)))
    assert not list(tmp_path.iterdir())


def test_singular_affine_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "singular.tfm"
    file.write_text(
        "#Insight Transform File V1.0\n#Transform 0\nTransform: AffineTransform_double_3_3\n"
        "Parameters: 1 0 0 0 1 0 0 0 0 0 0 0\nFixedParameters: 0 0 0\n"
    )
    with pytest.raises(GeometryError, match=r"singular\.tfm: .*singular"):
        read_transform(file)


def test_files_that_are_no_transform(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_transform(tmp_path / "missing.h5")
    for name in ("t.h5", "t.tfm", "t.mat", "t.nii.gz", "t.xfm"):
        (tmp_path / name).write_text("1 0 0 0\n0 1 0 0\n")
        with pytest.raises(InputError, match=name.replace(".", r"\.")):
            read_transform(tmp_path / name)


def test_an_image_is_not_a_field(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.Image([4, 4, 4], sitk.sitkFloat32), str(tmp_path / "i.nii.gz"))
    with pytest.raises(InputError, match="3D displacement field has 3 components per voxel, found 1"):
        read_transform(tmp_path / "i.nii.gz")


@pytest.mark.parametrize("extension", [".mha", ".nii.gz"])
def test_field_with_nan_is_refused(tmp_path: Path, extension: str) -> None:
    vectors = np.zeros((4, 5, 6, 3))
    vectors[1, 2, 3, 0] = np.nan
    sitk.WriteImage(sitk.GetImageFromArray(vectors, isVector=True), str(tmp_path / f"f{extension}"))
    with pytest.raises(InputError, match="NaN or infinite at 1 voxels"):
        read_transform(tmp_path / f"f{extension}")


def test_unwritable_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot write here"):
        write_transform(tmp_path / "file" / "t.h5", _affine(GRIDS["lps"]))

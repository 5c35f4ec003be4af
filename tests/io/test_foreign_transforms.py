"""Transforms of greedy, c3d, NiftyReg, FLIRT, FreeSurfer, elastix and SPM: their points are ours."""

from __future__ import annotations

import warnings
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy.ndimage import gaussian_filter

from roireg.core.errors import InputError
from roireg.core.grid import Grid
from roireg.core.transforms import Affine, Chain, DisplacementField, VelocityField
from roireg.core.warp import warp as warp_image
from roireg.io import HeaderWarning, read_transform, write_transform
from roireg.io.convert import as_image
from support import make_grid, rotation

FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])
RAS = np.array([[1.03, 0.13, 0.03, 3], [-0.09, 0.95, -0.21, -4], [-0.07, 0.15, 0.97, 5.5], [0, 0, 0, 1]])
FIXED = make_grid((12, 15, 18), (2.0, 1.5, 1.0), rotation(3, 1), (-30.0, 20.0, 10.0))
MOVING = make_grid((10, 14, 11), (3.0, 1.0, 2.0), rotation(3, 2), (5.0, -15.0, 40.0))
PLACES = np.random.default_rng(0).uniform(-40, 40, (40, 3))


def ras_affine(grid: Grid) -> np.ndarray:
    """The matrix from voxel (i, j, k) to RAS that a NIfTI file of the grid has."""
    return FLIP @ grid.affine[:, [2, 1, 0, 3]]


def through(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ matrix[:-1, :-1].T + matrix[:-1, -1]


def save_matrix(path: Path, matrix: np.ndarray) -> Path:
    path.write_text("".join(" ".join(f"{v:.17g}" for v in row) + " \n" for row in matrix))
    return path


@pytest.mark.parametrize("ndim", [2, 3])
def test_ras_matrices_are_flipped(tmp_path: Path, ndim: int) -> None:
    matrix = RAS if ndim == 3 else RAS[np.ix_([0, 1, 3], [0, 1, 3])]
    flip = np.diag([-1.0, -1.0, 1.0, 1.0][:ndim] + [1.0])
    ours = read_transform(save_matrix(tmp_path / "a.mat", matrix), convention="ras")
    np.testing.assert_allclose(
        ours.map_points(PLACES[:, :ndim]), through(flip @ matrix @ flip, PLACES[:, :ndim]), atol=1e-9
    )


def _noise_pair(ndim: int) -> tuple[sitk.Image, sitk.Image]:
    noise = gaussian_filter(np.random.default_rng(0).normal(size=(40,) * ndim), 3).astype(np.float32) * 1000
    fixed = sitk.GetImageFromArray(noise)
    moving = sitk.GetImageFromArray(np.roll(np.roll(noise, 2, axis=ndim - 1), -1, axis=0).copy())
    for image in (fixed, moving):
        image.SetOrigin([5.0, 7.0, 9.0][:ndim])
    return fixed, moving


@pytest.mark.parametrize("ndim", [2, 3])
def test_what_greedy_writes_moves_points_as_greedy_does(tmp_path: Path, ndim: int) -> None:
    """The content of the moving image lies 2 voxels on in x and 1 back along the last axis."""
    greedy = pytest.importorskip("picsl_greedy")
    program = (greedy.Greedy2D if ndim == 2 else greedy.Greedy3D)()
    fixed, moving = _noise_pair(ndim)
    affine = tmp_path / "affine.mat"
    images = {"fixed_image": fixed, "moving_image": moving}
    size = "x".join(["2"] * ndim)
    program.execute(
        f"-i fixed_image moving_image -m NCC {size} -a -dof 6 -n 40x20 -ia-identity -o {affine} -V 0", **images
    )
    expected = np.array([2.0, -1.0] if ndim == 2 else [2.0, 0.0, -1.0])
    middle = np.full((1, ndim), 20.0)
    ours = read_transform(affine, convention="ras")
    np.testing.assert_allclose(ours.map_points(middle) - middle, expected[None], atol=0.3)
    with pytest.raises(InputError, match="ras:FILE"):
        read_transform(affine)


def test_an_affine_and_a_warp_of_greedy_reslice_as_greedy_does(tmp_path: Path) -> None:
    """Oblique images of unequal spacing, there and back: ``-r warp affine`` and ``-r affine,-1 inverse_warp``."""
    greedy = pytest.importorskip("picsl_greedy")
    noise = gaussian_filter(np.random.default_rng(0).normal(size=(24, 28, 30)), 3).astype(np.float32) * 1000
    fixed = sitk.GetImageFromArray(noise)
    fixed.SetSpacing([1.2, 1.0, 1.5])
    fixed.SetDirection(rotation(3, 4).ravel())
    fixed.SetOrigin([10, -20, 30])
    truth = sitk.AffineTransform(3)
    truth.SetCenter(fixed.TransformContinuousIndexToPhysicalPoint([14.5, 13.5, 11.5]))
    truth.SetMatrix([1.03, 0.05, 0, -0.04, 0.98, 0.02, 0.03, 0, 1.01])
    truth.SetTranslation([2, -3, 2.5])
    moving = sitk.Resample(sitk.PermuteAxes(fixed, [1, 2, 0]), truth)
    program = greedy.Greedy3D()
    images = {"fixed": fixed, "moving": moving}
    files = {name: tmp_path / name for name in ("a.mat", "w.nii.gz", "i.nii.gz", "moved.nii", "back.nii")}
    affine, warp, inverse, moved, back = files.values()
    program.execute(f"-i fixed moving -m SSD -a -dof 12 -n 40x20 -ia-identity -o {affine} -V 0", **images)
    program.execute(f"-i fixed moving -m SSD -it {affine} -n 20 -o {warp} -oinv {inverse} -wp 0 -V 0")
    program.execute(f"-rf fixed -ri LINEAR -rm moving {moved} -r {warp} {affine} -V 0")
    program.execute(f"-rf moving -ri LINEAR -rm fixed {back} -r {affine},-1 {inverse} -V 0")
    matrix = read_transform(affine, convention="ras")
    assert np.abs(matrix.matrix[:3, 3]).max() > 1
    for source, target, chain, result in (
        (moving, fixed, Chain((read_transform(warp), matrix)), moved),
        (fixed, moving, Chain((matrix.inverse(), read_transform(inverse))), back),
    ):
        image, grid = as_image(source), as_image(target).grid
        ours = warp_image(image, chain, grid).data[0].numpy()
        theirs = sitk.GetArrayFromImage(sitk.ReadImage(str(result)))
        # Beyond its grid an image and a warp are 0 for greedy, and halfway to it within the last voxel.
        there = np.linalg.solve(image.grid.affine, np.c_[chain.map_points(grid.points()), np.ones(theirs.size)].T)[:3]
        depth = np.minimum(there.T, np.array(image.grid.shape) - 1 - there.T).min(axis=1)
        inside = depth.reshape(grid.shape) > 3
        assert inside.mean() > 0.1
        np.testing.assert_allclose(ours[inside], theirs[inside], atol=0.02)


@pytest.mark.parametrize("mirrored", [False, True])
def test_flirt_joins_scaled_voxels(tmp_path: Path, mirrored: bool) -> None:
    """A matrix made as FLIRT defines it, from a known map between the worlds."""
    moving = MOVING
    if mirrored:
        flipped = moving.affine.copy()
        flipped[:, 2] *= -1
        moving = Grid(moving.shape, flipped)

    def scaled(grid: Grid) -> np.ndarray:
        spacing = grid.spacing[::-1]
        matrix = np.diag([*spacing, 1.0])
        if np.linalg.det(ras_affine(grid)) > 0:
            matrix[0, 0], matrix[0, 3] = -spacing[0], spacing[0] * (grid.shape[2] - 1)
        return matrix

    assert (np.linalg.det(ras_affine(moving)) > 0) != (np.linalg.det(ras_affine(MOVING)) > 0) or not mirrored
    voxel_from_voxel = np.linalg.inv(ras_affine(moving)) @ RAS @ ras_affine(FIXED)
    flirt = np.linalg.inv(scaled(moving) @ voxel_from_voxel @ np.linalg.inv(scaled(FIXED)))
    file = save_matrix(tmp_path / "f.mat", flirt)
    ours = read_transform(file, convention="fsl", fixed=FIXED, moving=moving)
    np.testing.assert_allclose(ours.map_points(PLACES), through(FLIP @ RAS @ FLIP, PLACES), atol=1e-9)
    with pytest.raises(InputError, match="--fixed"):
        read_transform(file, convention="fsl")


def _lta(kind: int, matrix: np.ndarray, count: int = 1, valid: int = 1) -> str:
    lines = ["# transform file", f"type      = {kind} # comment", f"nxforms   = {count}", "mean      = 0 0 0"]
    lines += ["sigma     = 1.0", "1 4 4", *(" ".join(map(repr, row)) for row in matrix.tolist())]
    for side, grid in (("src", MOVING), ("dst", FIXED)):
        affine, size = ras_affine(grid), np.array(grid.shape[::-1])
        center = affine[:3, :3] @ (size / 2) + affine[:3, 3]
        lines += [f"{side} volume info", f"valid = {valid}  # volume info valid", f"filename = {side}.mgz"]
        lines += [
            f"volume = {' '.join(map(str, size))}",
            f"voxelsize = {' '.join(map(repr, grid.spacing[::-1].tolist()))}",
        ]
        for name, axis in zip(
            ("xras", "yras", "zras"), (affine[:3, :3] / grid.spacing[::-1]).T.tolist(), strict=True
        ):
            lines.append(f"{name}   = {' '.join(map(repr, axis))}")
        lines.append(f"cras   = {' '.join(map(repr, center.tolist()))}")
    return "\n".join([*lines, "subject fsaverage", "fscale 0.150000"]) + "\n"


@pytest.mark.parametrize("kind", [0, 1])
def test_lta_maps_the_source_to_the_destination(tmp_path: Path, kind: int) -> None:
    fixed_from_moving = np.linalg.inv(RAS)
    if kind == 0:
        fixed_from_moving = np.linalg.inv(ras_affine(FIXED)) @ fixed_from_moving @ ras_affine(MOVING)
    (tmp_path / "r.lta").write_text(_lta(kind, fixed_from_moving))
    ours = read_transform(tmp_path / "r.lta")
    np.testing.assert_allclose(ours.map_points(PLACES), through(FLIP @ RAS @ FLIP, PLACES), atol=1e-9)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (_lta(0, RAS, count=2), "holds 2 transforms"),
        (_lta(14, RAS), "found type 14"),
        (_lta(0, RAS, valid=0), "src volume lies"),
        ("type = 0\nnxforms = 1\n1 4 4\n1 0 0 0\n", "no type, nxforms or 4x4"),
        (_lta(1, np.zeros((4, 4))), "last row"),
    ],
)
def test_unusable_lta(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "r.lta").write_text(text)
    with pytest.raises(InputError, match=message):
        read_transform(tmp_path / "r.lta")


# -- elastix --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def elastix_chain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray, np.ndarray]:
    """A rigid map and a B-spline on oblique axes as elastix writes them, and points as transformix moves them."""
    itk = pytest.importorskip("itk")
    folder = tmp_path_factory.mktemp("elastix")
    noise = gaussian_filter(np.random.default_rng(0).normal(size=(30, 32, 34)), 3).astype(np.float32) * 1000
    fixed, moving = itk.image_from_array(noise), itk.image_from_array(np.roll(noise, 1, axis=2).copy())
    for image in (fixed, moving):
        image.SetDirection(rotation(3, 4))
        image.SetOrigin([10, -20, 30])
        image.SetSpacing([1, 1.5, 2])
    settings = itk.ParameterObject.New()
    for name in ("rigid", "bspline"):
        stage = settings.GetDefaultParameterMap(name, 1, 16.0)
        stage["MaximumNumberOfIterations"] = ["8"]
        settings.AddParameterMap(stage)
    itk.elastix_registration_method(fixed, moving, parameter_object=settings, output_directory=str(folder))
    points = make_grid((30, 32, 34), (2.0, 1.5, 1.0), rotation(3, 4)[:, ::-1], (10, -20, 30)).world_from_index(
        np.random.default_rng(1).uniform(2, 27, (30, 3))
    )
    lines = ["point", str(len(points)), *(" ".join(f"{v:.10f}" for v in p) for p in points)]
    (folder / "in.txt").write_text("\n".join(lines) + "\n")
    result = itk.ParameterObject.New()
    for n in (0, 1):
        result.AddParameterFile(str(folder / f"TransformParameters.{n}.txt"))
    itk.transformix_pointset(
        moving, result, fixed_point_set_file_name=str(folder / "in.txt"), output_directory=str(folder)
    )
    text = (folder / "outputpoints.txt").read_text(encoding="utf-8")
    moved = [line.split("OutputPoint = [")[1].split("]")[0].split() for line in text.splitlines()]
    return folder, points, np.array(moved, dtype=np.float64)


def test_elastix_chains_are_read(elastix_chain, tmp_path: Path) -> None:
    folder, points, moved = elastix_chain
    assert np.abs(moved - points).max() > 0.5
    ours = read_transform(folder / "TransformParameters.1.txt")
    assert isinstance(ours, Chain)
    np.testing.assert_allclose(ours.map_points(points), moved, atol=1e-3)
    # The files are moved together: the path to the initial transform is another now.
    for n in (0, 1):
        text = (
            (folder / f"TransformParameters.{n}.txt").read_text(encoding="utf-8").replace(str(folder), "/elsewhere")
        )
        (tmp_path / f"TransformParameters.{n}.txt").write_text(text)
    np.testing.assert_allclose(
        read_transform(tmp_path / "TransformParameters.1.txt").map_points(points), moved, atol=1e-3
    )
    (tmp_path / "TransformParameters.0.txt").unlink()
    with pytest.raises(InputError, match=r"initial transform '.*TransformParameters\.0\.txt' is not there"):
        read_transform(tmp_path / "TransformParameters.1.txt")


def test_elastix_keeps_numbers_in_files_of_itk(tmp_path: Path) -> None:
    """As elastix 5.1 and later do where they are asked to, for a transform and for where it starts from."""
    turn = sitk.Euler3DTransform((5, 6, 7), 0.1, 0.2, 0.3, (1, 2, 3))
    shift = sitk.TranslationTransform(3, (4, 5, 6))
    expected = np.array([turn.TransformPoint(shift.TransformPoint(p)) for p in PLACES.tolist()])
    for ending in ("h5", "tfm", "mat"):
        sitk.WriteTransform(turn, str(tmp_path / f"turn.{ending}"))
        sitk.WriteTransform(shift, str(tmp_path / f"shift.{ending}"))
        (tmp_path / "t.txt").write_text(
            f'(Transform "File")\n(TransformFileName "/elsewhere/turn.{ending}")\n(FixedImageDimension 3)\n'
            f'(InitialTransformParameterFileName "shift.{ending}")\n(HowToCombineTransforms "Compose")\n'
        )
        np.testing.assert_allclose(read_transform(tmp_path / "t.txt").map_points(PLACES), expected, atol=1e-9)
    (tmp_path / "turn.mat").unlink()
    with pytest.raises(InputError, match=r"its transform file '/elsewhere/turn\.mat' is not there"):
        read_transform(tmp_path / "t.txt")


def _parameters(kind: str, values: str, d: int = 3, more: str = "") -> str:
    return (
        f'(Transform "{kind}")\n(FixedImageDimension {d})\n(NumberOfParameters {len(values.split())})\n'
        f'(TransformParameters {values})\n(InitialTransformParametersFileName "NoInitialTransform")\n{more}'
    )


def _zyx(turn: sitk.Euler3DTransform) -> sitk.Euler3DTransform:
    turn.SetComputeZYX(True)
    return turn


CENTER = "(CenterOfRotationPoint 5 6 7) // a comment\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (_parameters("TranslationTransform", "1 2 3"), sitk.TranslationTransform(3, (1, 2, 3))),
        (
            _parameters("EulerTransform", "0.1 0.2 0.3 1 2 3", more=CENTER + '(ComputeZYX "false")\n'),
            sitk.Euler3DTransform((5, 6, 7), 0.1, 0.2, 0.3, (1, 2, 3)),
        ),
        (
            _parameters("EulerTransform", "0.1 0.2 0.3 1 2 3", more=CENTER + '(ComputeZYX "true")\n'),
            _zyx(sitk.Euler3DTransform((5, 6, 7), 0.1, 0.2, 0.3, (1, 2, 3))),
        ),
        (
            _parameters("EulerTransform", "0.3 1 2", d=2, more="(CenterOfRotationPoint 5 6)\n"),
            sitk.Euler2DTransform((5, 6), 0.3, (1, 2)),
        ),
        (
            _parameters("SimilarityTransform", "1.2 0.3 1 2", d=2, more="(CenterOfRotationPoint 5 6)\n"),
            sitk.Similarity2DTransform(1.2, 0.3, (1, 2), (5, 6)),
        ),
        (
            _parameters("SimilarityTransform", f"{np.sin(0.2)} 0 0 1 2 3 1.2", more=CENTER),
            sitk.Similarity3DTransform(1.2, (1, 0, 0), 0.4, (1, 2, 3), (5, 6, 7)),
        ),
        (
            _parameters("AffineTransform", "1.1 .1 0 0 .9 0 .2 0 1 1 2 3", more=CENTER),
            sitk.AffineTransform((1.1, 0.1, 0, 0, 0.9, 0, 0.2, 0, 1), (1, 2, 3), (5, 6, 7)),
        ),
    ],
)
def test_linear_transforms_of_elastix(tmp_path: Path, text: str, expected: sitk.Transform) -> None:
    (tmp_path / "t.txt").write_text(text)
    points = PLACES[:, : expected.GetDimension()]
    theirs = np.array([expected.TransformPoint(p) for p in points.tolist()])
    np.testing.assert_allclose(read_transform(tmp_path / "t.txt").map_points(points), theirs, atol=1e-9)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (_parameters("SplineKernelTransform", "1 2 3"), "'SplineKernelTransform' are not supported"),
        ('(Transform "AffineTransform"\n', "of type '' are not supported"),
        (_parameters("AffineTransform", "1 2 3", more=CENTER), "has 12 parameters"),
        (_parameters("AffineTransform", "1 2 3"), r"\(CenterOfRotationPoint ...\) has 3 numbers, found nothing"),
        (_parameters("TranslationTransform", "1 2"), "has 3 numbers, found 1 2"),
        (_parameters("TranslationTransform", "1 two 3"), "found 1 two 3"),
        (_parameters("TranslationTransform", "1 2 3", d=4), "found 4D"),
        (_parameters("BSplineTransform", "1 2 3"), "GridSize"),
        (
            _parameters("TranslationTransform", "1 2 3").replace("NoInitialTransform", "t.txt"),
            "in a circle",
        ),
        (
            _parameters("TranslationTransform", "1 2 3", more='(HowToCombineTransforms "Add")\n').replace(
                "NoInitialTransform", "t.txt"
            ),
            "combined by 'Add'",
        ),
        (
            _parameters("TranslationTransform", "1 2 3", more='(UseDirectionCosines "false")\n'),
            r"without the directions of the images \(UseDirectionCosines false\)",
        ),
    ],
)
def test_unusable_parameter_files_of_elastix(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "t.txt").write_text(text)
    with pytest.raises(InputError, match=message):
        read_transform(tmp_path / "t.txt")


# -- NIfTI by intent ------------------------------------------------------------------------------


def _nifti(path: Path, vectors: np.ndarray, grid: Grid, *, name: str, kind: float, code: int = 1007) -> Path:
    """Write (x, y, z, 3) vectors in RAS on a grid, with an intent."""
    image = nibabel.Nifti1Image(vectors[:, :, :, None].astype(np.float32), ras_affine(grid))
    image.header.set_intent(code, name=name, allow_unknown=True)
    image.header["intent_p1"] = kind
    nibabel.save(image, path)
    return path


def _smooth(grid: Grid, size: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """(positions, displacements), each (x, y, z, 3) in RAS."""
    index = np.moveaxis(np.indices(grid.shape[::-1]), 0, -1).astype(float)
    u = size * np.sin(index @ np.array([[0.2, 0.3, 0.1], [0.1, 0.2, 0.3], [0.3, 0.1, 0.2]]))
    return through(ras_affine(grid), index) + u, u


@pytest.mark.parametrize(("name", "kind"), [("NREG_TRANS", 0), ("NREG_TRANS", 1), ("Mapping", 0)])
def test_dense_fields_of_niftyreg_and_spm(tmp_path: Path, name: str, kind: int) -> None:
    positions, displacements = _smooth(FIXED)
    vectors = displacements if kind == 1 else positions
    ours = read_transform(_nifti(tmp_path / "d.nii.gz", vectors, FIXED, name=name, kind=kind))
    here = through(FLIP @ ras_affine(FIXED), np.moveaxis(np.indices(FIXED.shape[::-1]), 0, -1).astype(float))
    np.testing.assert_allclose(
        ours.map_points(here.reshape(-1, 3)), through(FLIP, positions).reshape(-1, 3), atol=1e-3
    )


@pytest.mark.parametrize("kind", [3, 4])
def test_velocities_of_niftyreg_are_integrated(tmp_path: Path, kind: int) -> None:
    positions, displacements = _smooth(FIXED, 0.0)
    shift = np.array([1.0, 2.0, -1.0])
    vectors = (displacements if kind == 4 else positions) + shift
    ours = read_transform(_nifti(tmp_path / "v.nii.gz", vectors, FIXED, name="NREG_TRANS", kind=kind))
    assert isinstance(ours, VelocityField)
    np.testing.assert_allclose(ours.map_points(FIXED.center[None]), FIXED.center[None] + [-1, -2, -1], atol=1e-3)


def test_a_cubic_spline_of_niftyreg_is_the_sum_of_its_control_points(tmp_path: Path) -> None:
    grid = make_grid((7, 8, 9), (6.0, 5.0, 4.0), rotation(3, 5), (0.0, 10.0, -20.0))
    positions, _ = _smooth(grid)
    ours = read_transform(_nifti(tmp_path / "cpp.nii", positions, grid, name="NREG_TRANS", kind=2))
    index = np.array([3, 4, 2])  # (x, y, z); at a control point the weights are 1/6, 4/6, 1/6 along every axis
    weights = np.einsum("i,j,k->ijk", *[np.array([1, 4, 1]) / 6] * 3)
    near = positions[2:5, 3:6, 1:4]
    expected = np.einsum("ijk,ijkc->c", weights, near)
    here = through(FLIP @ ras_affine(grid), index[None].astype(float))
    np.testing.assert_allclose(ours.map_points(here), through(FLIP, expected[None]), atol=1e-4)


@pytest.mark.parametrize(
    ("name", "kind", "code", "message"),
    [
        ("NREG_TRANS", 5, 1007, "a spline of velocities"),
        ("NREG_TRANS", 6, 1007, "a linear spline"),
        ("NREG_TRANS", 99, 1007, "unknown kind"),
        ("", 0, 2006, "a field of FNIRT"),
        ("", 0, 2016, "coefficients of topup"),
    ],
)
def test_other_kinds_are_refused_by_name(tmp_path: Path, name: str, kind: int, code: int, message: str) -> None:
    file = _nifti(tmp_path / "f.nii", np.zeros((4, 4, 4, 3)), FIXED, name=name, kind=kind, code=code)
    with pytest.raises(InputError, match=message):
        read_transform(file)


@pytest.mark.parametrize("code", [0, 1006, 1007])
def test_vectors_along_a_fourth_axis_are_refused(tmp_path: Path, code: int) -> None:
    """MRtrix keeps positions there, others displacements, along voxel axes or the world's."""
    image = nibabel.Nifti1Image(np.zeros((4, 5, 6, 3), np.float32), np.eye(4))
    image.header["intent_code"] = code
    nibabel.save(image, tmp_path / "warp.nii")
    with pytest.raises(InputError, match=r"4D image of 3 volumes does not say what its vectors mean.*MRtrix"):
        read_transform(tmp_path / "warp.nii")


def test_displacement_intent_is_ras_as_in_itk(tmp_path: Path) -> None:
    vectors = np.tile([1.0, 2.0, 3.0], (6, 5, 4, 1))
    grid = make_grid((4, 5, 6))
    file = _nifti(tmp_path / "d.nii", vectors, grid, name="", kind=0, code=1006)
    np.testing.assert_allclose(
        read_transform(file).map_points(np.array([[2.0, 2.0, 2.0]])), [[1.0, 0.0, 5.0]], atol=1e-5
    )


def test_a_matrix_needs_its_convention(tmp_path: Path) -> None:
    save_matrix(tmp_path / "a.txt", RAS)
    with pytest.raises(InputError, match=r"a\.txt: a matrix alone .*ras:FILE .*fsl:FILE"):
        read_transform(tmp_path / "a.txt")
    with pytest.raises(InputError, match="one 3x3 or 4x4 matrix"):
        (tmp_path / "b.txt").write_text("1 2 3\n")
        read_transform(tmp_path / "b.txt", convention="ras")
    with pytest.raises(InputError, match="found 'lps'"):
        read_transform(tmp_path / "a.txt", convention="lps")
    assert isinstance(read_transform(tmp_path / "a.txt", convention="ras"), Affine)


@pytest.mark.parametrize("extension", [".nii", ".mha", ".nrrd"])
def test_damaged_fields_end_in_a_sentence(tmp_path: Path, extension: str, capfd: pytest.CaptureFixture[str]) -> None:
    """The libraries end the program over some headers, and talk about others."""
    zero = DisplacementField(make_grid((4, 5, 6)), torch.zeros(3, 4, 5, 6))
    write_transform(tmp_path / f"f{extension}", zero)
    content = (tmp_path / f"f{extension}").read_bytes()
    for seed in range(60):
        rng = np.random.default_rng(seed)
        bad = bytearray(content)
        for place in rng.integers(0, min(len(bad), 352), rng.integers(1, 8)):
            bad[place] = rng.integers(256)
        (tmp_path / f"bad{extension}").write_bytes(bad)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", HeaderWarning)
            try:
                read_transform(tmp_path / f"bad{extension}")
            except InputError as error:
                assert "\n" not in str(error)
    assert capfd.readouterr().err == ""

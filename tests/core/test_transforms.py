import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from roireg.core.errors import GeometryError
from roireg.core.grid import Grid
from roireg.core.transforms import Affine, Chain, DisplacementField, VelocityField, exponential, jacobian_determinant
from support import axis_orders, grids, make_grid, rotation


def random_affine(ndim: int, seed: int) -> Affine:
    rng = np.random.default_rng(seed)
    matrix = np.eye(ndim + 1)
    matrix[:ndim, :ndim] = rotation(ndim, seed) * rng.uniform(0.7, 1.4, size=ndim)
    matrix[:ndim, ndim] = rng.uniform(-30, 30, size=ndim)
    return Affine(matrix)


def random_points(grid: Grid, seed: int, n: int = 25) -> np.ndarray:
    index = np.random.default_rng(seed).uniform(0, np.array(grid.shape) - 1, size=(n, grid.ndim))
    return grid.world_from_index(index)


def smooth_field(grid: Grid, amplitude_mm: float) -> torch.Tensor:
    """(d, *shape) sines that vanish at the border."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"))
    phase = [np.pi * index[a] / max(grid.shape[a] - 1, 1) for a in range(grid.ndim)]
    bell = np.prod([np.sin(p) ** 2 for p in phase], axis=0)
    return torch.as_tensor(
        np.stack([amplitude_mm * bell * np.cos(1.7 * phase[c] + c) for c in range(grid.ndim)]), dtype=torch.float32
    )


# -- affine ---------------------------------------------------------------------------------------


@given(st.sampled_from((2, 3)), st.integers(0, 99), st.integers(0, 99))
def test_affine_algebra(ndim, seed_a, seed_b):
    a, b = random_affine(ndim, seed_a), random_affine(ndim, seed_b)
    points = np.random.default_rng(1).normal(scale=50, size=(9, ndim))
    np.testing.assert_allclose(a.inverse().map_points(a.map_points(points)), points, atol=1e-9)
    np.testing.assert_allclose((a @ b).map_points(points), a.map_points(b.map_points(points)), atol=1e-9)
    product = Affine(a.matrix @ b.matrix)
    np.testing.assert_allclose((a @ b).map_points(points), product.map_points(points), atol=1e-9)
    np.testing.assert_allclose((a @ b).inverse().map_points(product.map_points(points)), points, atol=1e-8)


@pytest.mark.parametrize("ndim", [2, 3])
def test_identity_moves_nothing_and_translation_is_its_offset(ndim):
    points = np.random.default_rng(0).normal(size=(5, ndim))
    np.testing.assert_array_equal(Affine.identity(ndim).map_points(points), points)
    offset = np.arange(1.0, ndim + 1)
    np.testing.assert_allclose(Affine.translation(offset).map_points(points), points + offset)
    grid = Grid.pixels((3,) * ndim)
    assert float(Affine.identity(ndim).displacement_on(grid).abs().max()) == 0


@pytest.mark.parametrize("direction", [*axis_orders(3), rotation(3, 1)])
@pytest.mark.parametrize("spacing", [(1, 1, 1), (5, 0.5, 0.7)])
def test_displacement_of_an_affine_is_in_world_mm_for_every_axis_order(direction, spacing):
    grid = make_grid((3, 4, 5), spacing, direction, origin=(10, -20, 30))
    affine = random_affine(3, 4)
    expected = affine.map_points(grid.points()) - grid.points()
    found = affine.displacement_on(grid).reshape(3, -1).T
    np.testing.assert_allclose(found, expected, atol=1e-4)
    # And the field that it makes gives the affine back inside the grid.
    points = random_points(grid, 3)
    field = DisplacementField(grid, affine.displacement_on(grid))
    np.testing.assert_allclose(field.map_points(points), affine.map_points(points), atol=1e-3)


def test_points_in_points_out():
    affine = Affine.translation((1, 2))
    assert isinstance(affine.map_points(np.zeros((1, 2))), np.ndarray)
    mapped = affine.map_points(torch.zeros(1, 2, dtype=torch.float32))
    assert isinstance(mapped, torch.Tensor) and mapped.dtype == torch.float64
    assert affine.map_points(np.zeros((1, 2), dtype=int)).tolist() == [[1, 2]]
    for bad in (np.zeros(2), np.zeros((1, 3)), np.zeros((1, 1, 2))):
        with pytest.raises(GeometryError, match=r"shape \(N, 2\)"):
            affine.map_points(bad)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.eye(2), "3x3 or 4x4"),
        (np.eye(5), "3x3 or 4x4"),
        (np.ones((3, 4)), "3x3 or 4x4"),
        (np.diag([1, np.inf, 1]), "not finite"),
        (np.diag([1, 0, 1]), "singular"),
        (np.array([[1, 0, 0], [0, 1, 0], [0, 0.5, 1]]), "last row"),
    ],
)
def test_bad_affines_are_refused(matrix, message):
    with pytest.raises(GeometryError, match=message):
        Affine(matrix)


# -- displacement field ------------------------------------------------------------------------------


@given(grids(min_side=2), st.integers(0, 99))
def test_zero_field_is_the_identity_and_constant_field_a_translation(grid, seed):
    points = random_points(grid, seed)
    zero = DisplacementField(grid, torch.zeros(grid.ndim, *grid.shape))
    np.testing.assert_array_equal(zero.map_points(points), points)
    offset = torch.arange(1.0, grid.ndim + 1)
    constant = DisplacementField(grid, offset.reshape(-1, *[1] * grid.ndim).expand(-1, *grid.shape).contiguous())
    np.testing.assert_allclose(constant.map_points(points), points + offset.numpy(), atol=1e-5)


@given(grids(), st.integers(0, 99))
def test_field_at_voxel_centres_is_what_was_stored(grid, seed):
    values = torch.as_tensor(np.random.default_rng(seed).normal(size=(grid.ndim, *grid.shape)), dtype=torch.float32)
    field = DisplacementField(grid, values)
    np.testing.assert_allclose(field.displacement_on(grid), values, atol=1e-4)


def test_field_is_zero_outside_its_grid():
    field = DisplacementField(Grid.pixels((4, 4)), torch.ones(2, 4, 4))
    outside = np.array([[-0.6, 1.0], [3.6, 1.0], [1.0, 50.0]])
    np.testing.assert_array_equal(field.map_points(outside), outside)
    np.testing.assert_allclose(field.map_points(np.array([[-0.4, 3.4]])), [[0.6, 4.4]], atol=1e-6)


def test_field_agrees_with_itk():
    sitk = pytest.importorskip("SimpleITK")
    grid = make_grid((6, 7, 8), (4, 1.5, 0.8), rotation(3, 2), (5, -7, 11))
    values = torch.as_tensor(np.random.default_rng(0).normal(size=(3, *grid.shape)), dtype=torch.float32)
    image = sitk.GetImageFromArray(values.movedim(0, -1).double().numpy(), isVector=True)
    _, spacing, origin, direction = grid.itk
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    image.SetDirection(direction)
    theirs = sitk.DisplacementFieldTransform(image)
    points = random_points(grid, 7, 100)
    expected = np.array([theirs.TransformPoint(p.tolist()) for p in points])
    np.testing.assert_allclose(DisplacementField(grid, values).map_points(points), expected, atol=1e-3)


@pytest.mark.parametrize(
    "grid",
    [
        make_grid((31, 29), (1.5, 0.5)),
        make_grid((17, 23, 19), (3, 1, 1.4), rotation(3, 6), (9, 9, 9)),
        make_grid((1, 23, 29), (5, 1, 1)),
    ],
    ids=["2d", "oblique", "one slice"],
)
def test_inverse_of_a_field(grid):
    values = smooth_field(grid, 1.5 * float(grid.spacing.min()))
    if grid.shape[0] == 1:
        bell = smooth_field(Grid.pixels(grid.shape[1:]), 1.5)
        values = torch.cat([bell, torch.zeros(1, *grid.shape[1:])])[:, None]
    field = DisplacementField(grid, values)
    points = random_points(grid.padded([-(n // 5) for n in grid.shape], [-(n // 5) for n in grid.shape]), 1, 60)
    # Where the inverse is stored it is solved for; between voxels, linear interpolation adds its own error.
    nodes = grid.world_from_index(np.round(grid.index_from_world(points)))
    np.testing.assert_allclose(
        field.map_points(field.inverse().map_points(nodes)), nodes, atol=1e-3 * float(grid.spacing.max())
    )
    tolerance = 0.05 * float(grid.spacing.min())
    np.testing.assert_allclose(field.inverse().map_points(field.map_points(points)), points, atol=tolerance)
    np.testing.assert_allclose(field.map_points(field.inverse().map_points(points)), points, atol=tolerance)


def test_field_of_the_wrong_shape_is_refused():
    with pytest.raises(GeometryError, match=r"shape \(2, 4, 5\)"):
        DisplacementField(Grid.pixels((4, 5)), torch.zeros(2, 5, 4))
    with pytest.raises(GeometryError, match="displacement field"):
        VelocityField(Grid.pixels((4, 5)), torch.zeros(3, 4, 5))


# -- velocity field -----------------------------------------------------------------------------------


def test_constant_velocity_is_a_translation():
    grid = make_grid((20, 24), (2, 0.5))
    velocity = torch.tensor([1.5, -3.0]).reshape(2, 1, 1).expand(2, 20, 24).contiguous()
    points = np.array([grid.center, grid.center + 1])
    np.testing.assert_allclose(VelocityField(grid, velocity).map_points(points), points + (1.5, -3.0), atol=1e-4)


def test_linear_velocity_is_the_matrix_exponential():
    from scipy.linalg import expm

    grid = make_grid((61, 61), (0.5, 0.5), origin=(-15, -15))
    generator = np.array([[0.15, -0.4], [0.4, -0.1]])
    velocity = torch.as_tensor((grid.points() @ generator.T).T.reshape(2, 61, 61), dtype=torch.float32)
    points = np.random.default_rng(0).uniform(-5, 5, size=(30, 2))
    found = VelocityField(grid, velocity).map_points(points)
    np.testing.assert_allclose(found, points @ expm(generator).T, atol=0.01)
    # More squarings come closer: the remaining error is that of the first step.
    in_voxels = velocity / 0.5
    fine = DisplacementField(grid, exponential(in_voxels, steps=12) * 0.5).map_points(points)
    np.testing.assert_allclose(fine, points @ expm(generator).T, atol=5e-4)


@pytest.mark.parametrize(
    "grid",
    [make_grid((33, 41), (2, 0.7)), make_grid((15, 17, 21), (3, 1, 1.2), rotation(3, 3))],
    ids=["2d", "oblique"],
)
def test_velocity_inverse_and_no_folds(grid):
    flow = VelocityField(grid, smooth_field(grid, 2.5 * float(grid.spacing.min())))
    points = random_points(grid, 2, 80)
    tolerance = 0.08 * float(grid.spacing.min())
    np.testing.assert_allclose(flow.inverse().map_points(flow.map_points(points)), points, atol=tolerance)
    assert float(jacobian_determinant(flow, grid).min()) > 0
    assert flow.field.grid == grid


def test_zero_velocity_is_exactly_the_identity():
    grid = Grid.pixels((5, 6))
    assert float(VelocityField(grid, torch.zeros(2, 5, 6)).displacement_on(grid).abs().max()) == 0


def test_exponential_is_differentiable():
    velocity = torch.zeros(2, 6, 6, requires_grad=True)
    exponential(velocity + 0.1).sum().backward()
    assert velocity.grad is not None and float(velocity.grad.abs().sum()) > 0


# -- chain --------------------------------------------------------------------------------------------


def test_chain_is_point_wise_application_in_order_and_flat():
    grid = make_grid((12, 13, 14), (2, 1, 1))
    affine, field = random_affine(3, 1), DisplacementField(grid, smooth_field(grid, 1.0))
    points = random_points(grid, 0)
    chain = Chain((field, Chain((affine, field))))
    assert len(chain.transforms) == 3
    by_hand = field.map_points(affine.map_points(field.map_points(points)))
    np.testing.assert_allclose(chain.map_points(points), by_hand, atol=1e-9)
    np.testing.assert_allclose((affine @ field).map_points(points), Chain((field, affine)).map_points(points))
    there = (affine @ field).map_points(points)
    back = (affine @ field).inverse().map_points(there)
    np.testing.assert_allclose(back, field.inverse().map_points(affine.inverse().map_points(there)), atol=1e-9)
    np.testing.assert_allclose(back, points, atol=0.1)


def test_chain_needs_members_of_one_dimension():
    for members in ((), (Affine.identity(2), Affine.identity(3))):
        with pytest.raises(GeometryError, match="at least one transform"):
            Chain(members)


def test_reprs_are_short():
    grid = Grid.pixels((4, 4))
    field = DisplacementField(grid, torch.ones(2, 4, 4))
    assert repr(Affine.identity(2)) == "Affine([1 0 0; 0 1 0])"
    assert repr(field).startswith("DisplacementField(up to 1.41 mm")
    assert repr(Chain((Affine.identity(2), field))).startswith("Chain(Affine(")
    assert repr(VelocityField(grid, torch.ones(2, 4, 4))).startswith("VelocityField(Grid(")


# -- Jacobian --------------------------------------------------------------------------------------------


@given(grids(min_side=2), st.integers(0, 99))
def test_jacobian_of_an_affine_is_its_determinant(grid, seed):
    affine = random_affine(grid.ndim, seed)
    expected = np.linalg.det(affine.matrix[:-1, :-1])
    # The displacement is stored in float32: its rounding over one voxel bounds the accuracy.
    scale = float(affine.displacement_on(grid).abs().max()) * 2**-23 / float(grid.spacing.min())
    np.testing.assert_allclose(jacobian_determinant(affine, grid), expected, atol=1e-4 + 20 * scale)


def test_jacobian_of_a_radial_expansion():
    # x -> (1 + a |x|^2) x has determinant (1 + a r^2)^(d-1) (1 + 3 a r^2).
    a = 2e-4
    for grid in (
        make_grid((41, 61), (1.0, 0.5), rotation(2, 1)),
        make_grid((17, 41, 31), (2.0, 0.6, 0.9), rotation(3, 1)),
    ):
        grid = make_grid(grid.shape, grid.spacing, grid.direction, grid.origin - grid.center)
        points = grid.points()
        r2 = (points**2).sum(1)
        field = DisplacementField(
            grid, torch.as_tensor((a * r2[:, None] * points).T.reshape(grid.ndim, *grid.shape), dtype=torch.float32)
        )
        expected = ((1 + a * r2) ** (grid.ndim - 1) * (1 + 3 * a * r2)).reshape(grid.shape)
        inner = tuple(slice(1, -1) for _ in grid.shape)
        np.testing.assert_allclose(jacobian_determinant(field, grid)[inner], expected[inner], atol=3e-3)


def test_jacobian_sees_folds_and_takes_chains():
    grid = Grid.pixels((8, 8))
    flip = Affine(np.diag([-1.0, 1, 1]))
    np.testing.assert_allclose(jacobian_determinant(flip, grid), -1, atol=1e-6)
    np.testing.assert_allclose(jacobian_determinant((flip, flip), grid), 1, atol=1e-6)


def test_jacobian_across_a_single_slice_is_that_of_the_plane():
    grid = make_grid((1, 6, 7), (5, 1, 1))
    np.testing.assert_allclose(jacobian_determinant(Affine(np.diag([1.2, 1.5, 3.0, 1.0])), grid), 1.8, atol=1e-5)


def test_points_may_be_lists() -> None:
    shift = Affine.translation([1.0, 2.0])
    assert shift.map_points([[0, 0], [1, 1]]).tolist() == [[1, 2], [2, 3]]
    points = np.zeros((1, 2))
    Affine.identity(2).map_points(points)[0, 0] = 5
    assert points[0, 0] == 0
    for bad in ([1.0, 2.0], [[1, 2, 3]], [["a", "b"]], [[1, 2], [3]], 5):
        with pytest.raises(GeometryError, match=r"\(N, 2\)"):
            shift.map_points(bad)

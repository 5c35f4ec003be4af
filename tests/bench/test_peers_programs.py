"""Peers that are missing, crash, hang, or give nothing; programs are played by scripts."""

from __future__ import annotations

import os
import re
import stat
import sys
import threading
import time
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from bench.peer_scenes import scene, write_scene
from bench.scenes import write_set
from roireg.core.errors import InputError
from roireg.core.transforms import Affine
from roireg.core.warp import warp
from roireg.io import write_image
from roireg_bench.cases import load_folder
from roireg_bench.isolation import run_isolated
from roireg_bench.methods import METHODS, Unavailable, make_method
from roireg_bench.peers import PEERS, Peer
from roireg_bench.peers.base import field_from_points, field_from_voxels, package_version
from roireg_bench.peers.convexadam import isotropic_grid
from roireg_bench.peers.deeds import common_grid
from roireg_bench.peers.keypoints import KeypointPeer
from roireg_bench.run import run_benchmark
from roireg_bench.scoring import load_transforms
from support import grids, make_grid, rotation

NIFTYREG = """
import sys, numpy as np, SimpleITK as sitk
name, given = sys.argv[0].rpartition("/")[2], sys.argv[1:]
if given == ["--version"]:
    print("9.9")
    sys.exit()
if name == "reg_transform":
    fixed = sitk.ReadImage(given[given.index("-ref") + 1])
    d = fixed.GetDimension()
    size = fixed.GetSize()
    field = np.zeros((*size[::-1], d))
    for index in np.ndindex(*size):
        point = np.array(fixed.TransformIndexToPhysicalPoint([int(i) for i in index])) + [3, -2, 1][:d]
        field[index[::-1]] = point * [-1, -1, 1][:d]
    image = sitk.GetImageFromArray(field, isVector=True)
    image.CopyInformation(fixed)
    sitk.WriteImage(image, given[-1])
else:
    for option in ("-cpp", "-aff"):
        if option in given:
            open(given[given.index(option) + 1], "w").close()
            break
"""

DEEDS = """
import sys, numpy as np, SimpleITK as sitk
name, given = sys.argv[0].rpartition("/")[2], sys.argv[1:]
stem = given[given.index("-O") + 1]
if name == "applyBCVfloat":
    image = sitk.ReadImage(given[given.index("-M") + 1])
    values = sitk.GetArrayFromImage(image)
    moved = values[np.minimum(np.arange(values.shape[0]) + 2, values.shape[0] - 1)]
    result = sitk.GetImageFromArray(moved)
    result.CopyInformation(image)
    sitk.WriteImage(result, given[given.index("-D") + 1])
else:
    open(stem + ("_matrix.txt" if name == "linearBCV" else "_displacements.dat"), "w").close()
"""


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Return a function that puts scripts in the place of the programs of a peer."""

    def put(peer: Peer, text: str) -> None:
        folder = tmp_path / "programs"
        folder.mkdir()
        for name in peer.programs:
            file = folder / name
            file.write_text(f"#!{sys.executable}\n{text}", encoding="utf-8")
            file.chmod(file.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv(peer.variable, str(folder))

    return put


@pytest.fixture
def out(tmp_path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


# -- what is there ----------------------------------------------------------------------------------


def test_every_peer_has_a_name_version_and_settings():
    for name in PEERS:
        peer = make_method(name)
        assert peer.name == name and peer.version.startswith(peer.package)
        assert peer.settings["revision"] >= 1 and "name" not in peer.settings
    assert (
        len({str(METHODS[n]().settings) for n in ("ants-syn", "ants-syn-quick", "sift", "orb", "ilk", "tvl1")}) == 6
    )
    assert make_method("paper").settings["preset"]["stages"][-1]["stage"] == "published"
    assert make_method("paper").config.match.slices and make_method("paper").config.match.threshold == 0.8


@pytest.mark.parametrize("name", ["ants-syn", "elastix", "greedy", "convexadam", "fireants", "sift"])
def test_a_missing_package_is_one_line(tmp_path, out, monkeypatch, name):
    def missing(package):
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(metadata, "version", missing)
    peer = make_method(name)
    assert peer.version == f"{peer.package}, not installed"
    inputs = write_scene(tmp_path / "in", 2)
    expected = "--no-deps fireants" if name == "fireants" else r"roireg-bench\[peers\]"
    with pytest.raises(Unavailable, match=f"^not installed: pip install {expected}$"):
        peer.run(inputs, out)
    assert not any(out.iterdir())


@pytest.mark.parametrize("name", ["niftyreg", "deeds"])
def test_missing_programs_are_one_line(tmp_path, out, monkeypatch, name):
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.setenv(make_method(name).variable, str(empty))
    peer = make_method(name)
    assert peer.version == f"{peer.package}, not installed"
    missing = f"^not installed: there is no {peer.programs[0]}, .* in .*empty; let {peer.variable} name"
    with pytest.raises(Unavailable, match=missing):
        peer.run(write_scene(tmp_path / "in", 3), out)
    monkeypatch.delenv(peer.variable)
    monkeypatch.setenv("PATH", str(empty))
    with pytest.raises(Unavailable, match="on the PATH"):
        make_method(name).require()


@pytest.mark.parametrize("name, ndim", [("ilk", 3), ("convexadam", 2)])
def test_images_of_a_dimension_that_a_peer_is_not_made_for(tmp_path, out, name, ndim):
    peer = make_method(name)
    if package_version(peer.package) is None:
        pytest.skip(f"{peer.package} is not installed: {peer.install}")
    with pytest.raises(Unavailable, match=f"made for {5 - ndim}D images, not for {ndim}D"):
        peer.run(write_scene(tmp_path / "in", ndim), out)


# -- programs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("ndim", [2, 3])
def test_niftyreg_positions_are_read_as_ras(tmp_path, out, programs, ndim):
    programs(make_method("niftyreg"), NIFTYREG)
    peer = make_method("niftyreg")
    assert re.fullmatch("NiftyReg 9.9 [0-9a-f]{8}", peer.version)
    output = peer.run(write_scene(tmp_path / "in", ndim), out)
    points = scene(ndim).points
    moved = load_transforms(output.files).map_points(points)
    np.testing.assert_allclose(moved - points, np.tile([3.0, -2.0, 1.0][:ndim], (len(points), 1)), atol=1e-3)
    assert output.cpu_seconds > 0


def test_deeds_is_read_off_deformed_indices(tmp_path, out, programs):
    programs(make_method("deeds"), DEEDS)
    peer = make_method("deeds")
    assert peer.version.startswith("deedsBCV ") and len(peer.version) == 17
    output = peer.run(write_scene(tmp_path / "in", 3), out)
    pair = scene(3)
    moved = load_transforms(output.files).map_points(pair.points)
    step = 2 * common_grid(pair.fixed.grid, peer.max_voxels).affine[:-1, 0]
    np.testing.assert_allclose(moved - pair.points, np.tile(step, (len(moved), 1)), atol=1e-3)


def test_a_program_that_fails_is_a_row_with_its_reason(tmp_path, programs):
    programs(make_method("niftyreg"), "import sys\nprint('no such\\nluck', file=sys.stderr)\nsys.exit(3)")
    folder = load_folder(write_set(tmp_path / "flat", ndim=2))
    row = run_benchmark([folder], [make_method("niftyreg")], tmp_path / "results.csv")[0]
    assert row.status == "failed" and row.reason == "reg_aladin failed (exit code 3): luck"


def test_a_program_that_makes_no_file_fails(tmp_path, out, programs):
    programs(make_method("deeds"), "print('all is well')")
    with pytest.raises(InputError, match=r"^linearBCV failed \(exit code 0\): all is well$"):
        make_method("deeds").run(write_scene(tmp_path / "in", 3), out)


def test_a_program_that_hangs_is_stopped_too(tmp_path, out, programs):
    note = tmp_path / "pid"
    programs(
        make_method("niftyreg"),
        f"import os, time\nopen({str(note)!r} + '~', 'w').write(str(os.getpid()))\n"
        f"os.rename({str(note)!r} + '~', {str(note)!r})\ntime.sleep(600)",
    )
    peer = make_method("niftyreg")
    stop = threading.Event()

    def stop_when_it_hangs() -> None:
        while not note.exists():
            time.sleep(0.05)
        stop.set()

    threading.Thread(target=stop_when_it_hangs, daemon=True).start()
    outcome = run_isolated(peer, write_scene(tmp_path / "in", 2), out, stop=stop)
    assert outcome.output is None and outcome.reason.startswith("stopped after")
    pid = int(note.read_text(encoding="utf-8"))
    while Path(f"/proc/{pid}").exists():  # killed, and gone as soon as the system has got round to it
        time.sleep(0.05)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_greedy_has_fewer_levels_on_few_slices(tmp_path, out):
    peer = make_method("greedy")
    if package_version(peer.package) is None:
        pytest.skip(f"{peer.package} is not installed: {peer.install}")
    inputs = write_scene(tmp_path / "in", 3)
    for side in ("fixed", "moving"):
        image = getattr(scene(3), side)
        thin = warp(image, None, image.grid.with_shape((8, *image.grid.shape[1:])))
        write_image(getattr(inputs, side), thin)
    outcome = run_isolated(peer, inputs, out)
    assert outcome.reason == ""
    assert np.isfinite(load_transforms(outcome.output.files).map_points(scene(3).points)).all()


# -- parts ------------------------------------------------------------------------------------------


def test_images_without_keypoints_are_refused():
    peer = KeypointPeer()
    if package_version(peer.package) is None:
        pytest.skip(f"{peer.package} is not installed: {peer.install}")
    fixed = scene(2).fixed
    flat = fixed.with_data(torch.linspace(0, 1, fixed.grid.size).reshape(fixed.data.shape))
    with pytest.raises(InputError, match="found 0 keypoint matches, expected at least 10"):
        peer.register(fixed, flat, "mono", Path("unused"))


@given(grids(ndim=3))
@settings(max_examples=30, deadline=None)
def test_an_isotropic_grid_is_cubic_and_covers_the_box(grid):
    found = isotropic_grid(grid, 5_000)
    assert found.size <= 5_000
    np.testing.assert_allclose(found.spacing, found.spacing[0])
    np.testing.assert_allclose(found.direction, grid.direction, atol=1e-9)
    np.testing.assert_allclose(
        found.world_from_index([-0.5] * 3), grid.world_from_index([-0.5] * 3), atol=1e-6 * grid.extent.max()
    )
    assert found.spacing[0] >= grid.spacing.min() * (1 - 1e-9)
    assert (found.extent >= grid.extent * (1 - 1e-5)).all()
    assert (found.extent < grid.extent + 1.001 * found.spacing).all()


@given(grids(ndim=3))
@settings(max_examples=30, deadline=None)
def test_the_grid_of_deeds_has_control_points_at_every_level(grid):
    small, found = isotropic_grid(grid, 5_000), common_grid(grid, 5_000)
    np.testing.assert_array_equal(found.affine, small.affine)
    for n, least in zip(found.shape, small.shape, strict=True):
        assert n >= max(8, least) and n % 4 == 0 and (n < least + 4 or n == 8)


@pytest.mark.parametrize("ndim", [2, 3])
def test_fields_of_points_and_of_voxels_agree(ndim):
    grid = make_grid((5, 6, 7)[:ndim], [2.0, 0.7, 1.1][:ndim], rotation(ndim, 3), [5.0, -9.0, 4.0][:ndim])
    flow = np.random.default_rng(1).normal(size=(ndim, *grid.shape))
    index = np.indices(grid.shape).reshape(ndim, -1).T + flow.reshape(ndim, -1).T
    one, other = field_from_voxels(grid, flow), field_from_points(grid, grid.world_from_index(index))
    torch.testing.assert_close(one.displacement, other.displacement, atol=1e-4, rtol=0)
    matrix = np.eye(ndim + 1)
    matrix[:-1] += np.random.default_rng(2).normal(size=(ndim, ndim + 1)) * 0.1
    truth = Affine(matrix)
    found = field_from_points(grid, truth.map_points(grid.points()))
    np.testing.assert_allclose(found.map_points(grid.points()), truth.map_points(grid.points()), atol=1e-4)


def test_a_result_that_is_not_finite_is_refused():
    grid = make_grid((3, 4))
    flow = np.zeros((2, 3, 4))
    flow[0, 1, 2] = np.nan
    with pytest.raises(InputError, match="not finite at 1 voxels"):
        field_from_voxels(grid, flow)
    points = grid.points()
    points[5] = np.inf
    with pytest.raises(InputError, match="not finite at 1 voxels"):
        field_from_points(grid, points)

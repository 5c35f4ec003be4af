"""`info`."""

from __future__ import annotations

import json
import re

import nibabel
import numpy as np
import pytest
import tifffile
import torch

from app.scenes import answer, bent, fails, run, volume_grid
from roireg.app.info import axis_letters
from roireg.core.grid import Grid
from roireg.core.rois import ROIPair, ROIPairs, ROISet
from roireg.core.transforms import Affine, Chain, in_words
from roireg.io import read_image, write_pairs, write_transform
from roireg.pipeline import PRESETS, Config, preset
from support import axis_orders, make_grid


def test_an_image(volume):
    found = answer("info", volume.fixed)["files"][0]
    assert found["kind"] == "image"
    assert found["size"] == [16, 20, 12]
    np.testing.assert_allclose(found["spacing"], [1.5, 2, 3], rtol=1e-6)
    np.testing.assert_allclose(found["origin"], [-20, 35, 100], rtol=1e-6)
    assert found["orientation"] == "LAS"
    assert found["oblique"] is False
    assert (found["minimum"], found["maximum"]) == (
        pytest.approx(float(read_image(volume.fixed).data.min())),
        200,
    )
    assert found["type"] == "float32"


@pytest.mark.parametrize("direction", axis_orders(3), ids=lambda d: "".join(f"{v:.0f}" for v in d.ravel()))
def test_letters_say_where_voxel_axes_run(direction):
    grid = make_grid((3, 4, 5), direction=direction)
    letters = axis_letters(grid)
    for letter, column in zip(letters, direction.T[::-1], strict=True):
        axis, sign = next(
            (a, s) for a, pair in enumerate(("RL", "AP", "IS")) for s, c in enumerate(pair) if c == letter
        )
        assert column[axis] == (1 if sign else -1)


def test_a_transform_points_and_pairs(volume, tmp_path):
    write_transform(tmp_path / "t.h5", bent(volume_grid(), 2.0))
    masks = torch.zeros((2, 6, 6), dtype=torch.bool)
    masks[0, :2], masks[1, 3:] = True, True
    rois = ROISet(masks, Grid.pixels((6, 6)))
    write_pairs(tmp_path / "pairs", ROIPairs(rois, rois, (ROIPair(0, 1, 0.9, 0.5, name="liver"),)))
    transform, points, pairs = answer("info", tmp_path / "t.h5", volume.fixed_points, tmp_path / "pairs")["files"]
    assert [p["type"] for p in transform["parts"]] == ["displacement field", "affine"]
    assert (transform["dimension"], transform["motion"]) == (3, "displacement field, then translation")
    assert transform["parts"][0]["largest_displacement"] == pytest.approx(2 * np.sqrt(3), rel=0.05)
    assert transform["parts"][1]["translation"] == [1, 2, 3]
    assert transform["parts"][1]["determinant"] == pytest.approx(1)
    assert (points["count"], points["dimension"], points["names"]) == (3, 3, ["a", "b", "c"])
    assert pairs["pairs"][0]["name"] == "liver"
    assert pairs["fixed_regions"] == 2


def test_a_result_says_its_verdict_and_what_is_in_it(flat, tmp_path):
    out = tmp_path / "out"
    assert run("register", flat.fixed, flat.moving, "-o", out, "--only", "transform,pairs").exit_code in (0, 3)
    said = json.loads((out / "result.json").read_text(encoding="utf-8"))
    found = answer("info", out)["files"][0]
    assert found["kind"] == "result"
    assert (found["verdict"], found["reasons"]) == (said["verdict"], said["reasons"])
    assert found["files"] == ["pairs", "result.json", "transform.h5"]
    assert (found["fixed"], found["dimension"]) == (str(flat.fixed), 2)
    assert found["motion"] and found["parts"]
    text = " ".join(run("info", out).stdout.split())
    assert all(words in text for words in (f"verdict {said['verdict']}", found["motion"], "pairs, result.json"))
    (out / "transform.h5").unlink()
    assert "transform not written" in " ".join(run("info", out).stdout.split())
    (out / "result.json").write_text('{"verdict": "ok", "provenance": 3}')
    fails("info", out, words=("result.json", "provenance must be"))


def test_the_kind_of_a_transform_in_words():
    turn = np.array([[0, -1.0, 5], [1, 0, 0], [0, 0, 1]])
    affine = np.diag([2.0, 3, 1])
    maps = {"rigid": turn, "similarity": np.diag([2.0, 2, 1]) @ turn, "affine": affine, "identity": np.eye(3)}
    for words, matrix in maps.items():
        assert in_words(Affine(matrix)) == words
    assert in_words(Chain((Affine(turn), Affine.translation([1, 2])))) == "rigid, then translation"


def test_a_displacement_field_image_is_a_transform(tmp_path):
    write_transform(tmp_path / "t.nii.gz", bent(volume_grid()).transforms[0])
    assert answer("info", tmp_path / "t.nii.gz")["files"][0]["kind"] == "transform"


def test_channels_of_a_picture_are_no_displacement(tmp_path):
    for shape, axes in (((2, 20, 24), "CYX"), ((3, 5, 20, 24), "CZYX")):
        tifffile.imwrite(tmp_path / "i.ome.tif", np.ones(shape, np.float32), metadata={"axes": axes})
        found = answer("info", tmp_path / "i.ome.tif")["files"][0]
        assert (found["kind"], found["channels"]) == ("image", shape[0])


def test_whole_numbers_are_told_exactly_and_nan_beside_the_others(tmp_path):
    values = np.zeros((4, 5, 6), np.int64)
    values[0], values[1] = 2**40 + 1, -7
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4), dtype=np.int64), tmp_path / "i.nii")
    found = answer("info", tmp_path / "i.nii")["files"][0]
    assert (found["minimum"], found["maximum"], found["values"]) == (-7, 2**40 + 1, [-7, 0, 2**40 + 1])
    assert "-7 to 1099511627777" in run("info", tmp_path / "i.nii").stdout
    values = np.full((4, 5, 6), 2.5, np.float32)
    values[0], values[1, 0] = np.nan, np.inf
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "f.nii")
    found = answer("info", tmp_path / "f.nii")["files"][0]
    assert (found["minimum"], found["maximum"], found["mean"], found["not_finite"]) == (2.5, 2.5, 2.5, 36)
    assert "36 voxels are NaN or infinite" in " ".join(run("info", tmp_path / "f.nii").stdout.split())
    nibabel.save(nibabel.Nifti1Image(values * np.nan, np.eye(4)), tmp_path / "f.nii")
    fails("info", tmp_path / "f.nii", words=("f.nii", "all 120 voxels are NaN"))


def test_the_text_names_every_file(flat, volume):
    result = run("info", flat.fixed, volume.truth, volume.fixed_points)
    assert result.exit_code == 0
    for words in ("56 x 48 pixels", "2D uint8", "affine", "points"):
        assert words in result.stdout


def test_lengths_have_the_unit_of_the_image(flat, volume):
    picture, scan = (run("info", image).output for image in (flat.fixed, volume.fixed))
    for name in ("origin", "spans"):
        assert re.search(rf"{name} .* px\b", picture) and not re.search(rf"{name} .* mm\b", picture)
        assert re.search(rf"{name} .* mm\b", scan)


def test_presets_are_printed_as_files_that_load(tmp_path):
    result = run("info", "--presets")
    for name, text in zip(PRESETS, result.stdout.split("---\n"), strict=True):
        (tmp_path / "c.yaml").write_text(text, encoding="utf-8")
        assert Config.load(tmp_path / "c.yaml") == preset(name)
    assert set(answer("info", "--presets")["presets"]) == set(PRESETS)
    fails("info", words=("at least one file", "--presets"))
    fails("info", "--presets", tmp_path, words=("--presets",))


def test_a_missing_file_is_named(tmp_path):
    fails("info", tmp_path / "none.nii.gz", words=("none.nii.gz", "no such file"))

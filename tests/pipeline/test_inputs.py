"""What `register` and the prompts take in Python: the form of an input does not matter to the result."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
import torch

import roireg
from pipeline.cases import quick
from roireg.core.ambient import limited_threads
from roireg.core.errors import InputError
from roireg.core.transforms import Affine
from roireg.io import to_nibabel, to_sitk, write_image, write_labels, write_transform
from roireg.io.convert import ImageLike
from roireg.pipeline import run

FORMS = ("path", "sitk", "nibabel", "array", "tensor")


def _forms(image: roireg.Image, path) -> dict[str, ImageLike]:
    write_image(path, image)
    grid, values = image.grid, image.to_numpy()
    whole = {"spacing": grid.spacing, "origin": grid.origin, "direction": grid.direction}
    return {
        "path": str(path),
        "sitk": to_sitk(image),
        "nibabel": to_nibabel(image),
        "array": roireg.Image.from_numpy(values, **whole),
        "tensor": roireg.Image.from_numpy(torch.from_numpy(values), **whole),
    }


def _affine_only() -> roireg.Config:
    return quick(stages=("affine",))


@pytest.mark.parametrize("form", FORMS)
def test_volumes_of_every_form_give_one_result(deep, form, tmp_path):
    rois = {"fixed_rois": deep.fixed_labels, "moving_rois": deep.moving_labels}
    expected = roireg.register(deep.fixed, deep.moving, config=_affine_only(), **rois)
    fixed = _forms(deep.fixed, tmp_path / "fixed.nii.gz")[form]
    moving = _forms(deep.moving, tmp_path / "moving.nii.gz")[form]
    labels = tmp_path / "labels.nii.gz"
    write_labels(labels, deep.moving_labels)
    result = roireg.register(
        fixed, moving, config=_affine_only(), fixed_rois=deep.fixed_labels.data[0].numpy(), moving_rois=labels
    )
    points = deep.fixed_points
    np.testing.assert_allclose(result.map_points(points.tolist()), expected.map_points(points), atol=1e-3)


def test_pictures_are_arrays_alone(flat):
    expected = roireg.register(flat.fixed, flat.moving, config=_affine_only())
    result = roireg.register(flat.fixed.to_numpy(), flat.moving.to_numpy(), config=_affine_only())
    assert result.fixed.unit == "px" and result.fixed.name == "fixed image"
    np.testing.assert_array_equal(result.affine.matrix, expected.affine.matrix)


def test_masks_are_arrays_and_starts_are_files(flat, tmp_path):
    start = Affine.translation([2.0, 1.0])
    write_transform(tmp_path / "start.h5", start)
    for init in (str(tmp_path / "start.h5"), tmp_path / "start.h5", to_sitk(start)):
        result = roireg.register(
            flat.fixed, flat.moving, config=quick(stages=()), fixed_mask=flat.fixed.to_numpy() > 20, init=init
        )
        np.testing.assert_allclose(result.map_points([[3, 4]]), [[5, 5]])


@pytest.mark.parametrize("call", [roireg.register, roireg.prompt_session], ids=["register", "prompt_session"])
def test_what_is_no_image_is_a_type_error_that_says_what_is_taken(flat, call):
    with pytest.raises(
        TypeError, match=r"moving image: expected a path, a roireg\.Image, \(array, spacing\).*found list"
    ):
        call(flat.fixed, [[1, 2], [3, 4]])
    with pytest.raises(InputError, match="nowhere"):
        call("nowhere.nii.gz", flat.moving)


def test_what_is_no_prompt_is_a_type_error(flat):
    with pytest.raises(TypeError, match=r"roireg\.Prompt\.at"):
        roireg.prompt(flat.fixed, flat.moving, [(10, 20)], guide="identity")


def test_prompts_take_arrays_and_lists_of_points(flat):
    asked = flat.fixed_points[:1].tolist()
    expected = roireg.prompt(flat.fixed, flat.moving, roireg.Prompt.at(*asked), guide="identity")
    arrays = flat.fixed.to_numpy(), flat.moving.to_numpy()
    result = roireg.prompt(*arrays, roireg.Prompt.at(*asked), guide=to_sitk(Affine.identity(2)))
    assert result.answers[0].found is not None and expected.answers[0].found is not None
    assert result.answers[0].given.points.tolist() == asked


def test_a_nibabel_image_of_several_volumes_is_refused(flat):
    with pytest.raises(InputError, match=r"fixed image: the image has 3 volumes; take one, image\.slicer"):
        roireg.register(nibabel.Nifti1Image(np.zeros((4, 4, 4, 3), np.float32), np.eye(4)), flat.moving)


def test_threads_are_limited_while_it_runs_and_are_as_before_afterwards(flat, monkeypatch):
    seen = []
    judge = run.judge
    monkeypatch.setattr(run, "judge", lambda *a, **k: (seen.append(torch.get_num_threads()), judge(*a, **k))[1])
    before = torch.get_num_threads()
    with limited_threads(3):
        result = roireg.register(flat.fixed, flat.moving, config=quick(stages=()), threads=2)
        assert torch.get_num_threads() == 3
    assert torch.get_num_threads() == before and seen == [2]
    assert result.provenance["threads"] == 2


@pytest.mark.parametrize("threads", [0, -1, 1.5, True])
def test_threads_are_a_whole_number(flat, threads):
    with pytest.raises(InputError, match="number of threads"):
        roireg.register(flat.fixed, flat.moving, threads=threads)

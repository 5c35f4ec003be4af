"""What is said in Python names arguments, in a shell options."""

from __future__ import annotations

import pickle

import nibabel
import numpy as np
import pytest

import roireg
from roireg.core.errors import GeometryError, InputError
from roireg.core.spoken import python_words


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("choose one with --frame N, N from 0 to 4", "choose one with roireg.read(FILE, frame=N), N from 0 to 4"),
        ("or use --init centers, or --init FILE", "or use init='centers', or init=FILE"),
        ("give --moving-rois too; leave --pairs-only out", "give moving_rois too; leave pairs_only out"),
        ("allow it with --replace", "allow it with --replace"),
        ("take one slice with `roireg convert a.nii b.nii --slice z=N`", "take one slice of its array, as array[N]"),
    ],
)
def test_options_become_arguments(said: str, expected: str) -> None:
    assert python_words(said, ("init", "moving_rois", "pairs_only")) == expected


def test_errors_of_the_front_name_arguments(tmp_path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.ones((5, 6, 7, 3), np.float32), np.eye(4)), tmp_path / "i.nii")
    with pytest.raises(InputError, match=r"choose one with frame=N, N from 0 to 2$"):
        roireg.read(tmp_path / "i.nii")
    flat, deep = np.eye(9), np.random.default_rng(0).random((8, 9, 10))
    with pytest.raises(InputError, match=r"4D .*choose one with roireg.read\(FILE, frame=N\)"):
        roireg.register(tmp_path / "i.nii", (deep, 1.0))
    with pytest.raises(GeometryError, match=r"same dimension: take one slice of its array, as array\[N\]$"):
        roireg.register(flat, (deep, 1.0))


def test_functions_of_the_front_are_themselves() -> None:
    assert pickle.loads(pickle.dumps(roireg.register)) is roireg.register
    assert roireg.register.__doc__ == roireg.pipeline.register.__doc__

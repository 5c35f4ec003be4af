"""An affine as c3d_affine_tool -oitk and programs of ANTs write it: a MatrixOffsetTransformBase (ANTs issue 84)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from app.scenes import run
from roireg.io import read_points


@pytest.mark.parametrize("scalar", ["double", "float"])
def test_points_go_where_itk_takes_them(tmp_path: Path, scalar: str) -> None:
    (tmp_path / "affine.txt").write_text(
        f"#Insight Transform File V1.0\n#Transform 0\nTransform: MatrixOffsetTransformBase_{scalar}_3_3\n"
        "Parameters: 1.03 0.13 0.33 -0.09 0.88 -0.21 -0.37 0.15 0.97 3 -4 5.5\nFixedParameters: 0 0 0\n"
    )
    (tmp_path / "points.csv").write_text("x,y,z\n1,2,3\n")
    done = run("apply", tmp_path / "affine.txt", tmp_path / "points.csv", "-o", tmp_path / "out.csv")
    assert done.exit_code == 0, done.output
    np.testing.assert_allclose(read_points(tmp_path / "out.csv").points, [[5.28, -2.96, 8.34]], atol=1e-9)
    assert run("info", tmp_path / "affine.txt").exit_code == 0
    assert run("convert", tmp_path / "affine.txt", tmp_path / "affine.h5").exit_code == 0

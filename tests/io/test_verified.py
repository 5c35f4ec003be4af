"""Nothing half-written: where files may not grow, every writer says so and leaves nothing, and the old file stays."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from roireg.core.errors import OutputError
from roireg.io.verified import verified_path

WRITE = """
import resource, sys
from pathlib import Path
import numpy as np, torch
from roireg.core.errors import OutputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.transforms import Affine, Chain, DisplacementField
from roireg.io import write_image, write_transform
from roireg.io.timeseries import write_series

folder = Path(sys.argv[1])
noise = torch.from_numpy(np.random.default_rng(0).normal(0, 50, (1, 24, 24, 24))).float()
volume = Image(noise, Grid.pixels((24, 24, 24)))
plane = Image(noise.reshape(1, 96, 144).abs(), Grid.pixels((96, 144)), unit="px", dtype="uint8")
frames = Image(noise.reshape(2, 12, 24, 24), Grid.pixels((12, 24, 24)))
field = DisplacementField(volume.grid, noise.expand(3, -1, -1, -1).contiguous())
jobs = [(write_image, f"v{e}", volume) for e in (".nii", ".nii.gz", ".mha", ".nrrd")]
jobs += [(write_image, f"p{e}", plane) for e in (".png", ".jpg", ".tif")]
jobs += [(write_transform, f"f{e}", field) for e in (".h5", ".nii.gz", ".mha", ".nrrd")]
jobs += [(write_series, f"s{e}", frames) for e in (".nii", ".nii.gz", ".mha", ".nrrd")]
jobs += [(write_transform, "f.tfm", Chain((field, Affine.identity(3))))]
for limit in (0, 1, 400, 4096):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    for write, name, value in jobs:
        (folder / name).touch(exist_ok=True)
        try:
            write(folder / name, value)
        except OutputError as error:
            assert "\\n" not in str(error) and name in str(error), error
        else:
            sys.exit(f"{name} was accepted at {limit} bytes")
        assert (folder / name).stat().st_size == 0, name
    assert len(list(folder.iterdir())) == len(jobs), sorted(folder.iterdir())
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
for write, name, value in jobs:
    write(folder / name, value)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits of file sizes are a thing of POSIX")
def test_no_writer_leaves_a_part_where_files_may_not_grow(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, "-c", WRITE, str(tmp_path)], capture_output=True, text=True, timeout=120, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert all(file.stat().st_size > 4096 for file in tmp_path.iterdir())


def test_a_file_that_does_not_hold_what_was_meant_gets_no_name(tmp_path: Path) -> None:
    def fails(file: Path) -> bool:
        raise ValueError("unreadable")

    (tmp_path / "a").write_text("old")
    for holds in (lambda file: False, fails):
        whole = pytest.raises(OutputError, match="a: the file was not written whole")
        with whole, verified_path(tmp_path / "a", holds) as temporary:
            temporary.write_text("half")
    written = pytest.raises(OutputError, match="a: the file could not be written")
    with written, verified_path(tmp_path / "a", lambda file: True) as temporary:
        raise OSError(28, "No space left on device")
    assert [file.read_text(encoding="utf-8") for file in tmp_path.iterdir()] == ["old"]
    with verified_path(tmp_path / "a", lambda file: file.read_text(encoding="utf-8") == "new") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "a").read_text(encoding="utf-8") == "new"

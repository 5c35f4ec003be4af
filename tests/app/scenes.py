"""Small files and a way to run the command line in-process, shared by the tests of the app."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
import typer.testing
from click.testing import Result
from typer.testing import CliRunner

from roireg.app.cli import app
from roireg.core.files import RECORD
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.transforms import Affine, Chain, DisplacementField
from roireg.io import PointSet, write_image, write_labels, write_points, write_transform
from support import blobs, threads_kept


class Runner(CliRunner):
    """Runs the program, whose commands typer would otherwise build anew for every line: a third of a short run."""

    def invoke(self, *arguments: Any, **options: Any) -> Result:
        with threads_kept(), pytest.MonkeyPatch.context() as patch:
            patch.setattr(typer.testing, "_get_command", _built)
            return super().invoke(*arguments, **options)


_built = cache(typer.main.get_command)

# One thread keeps runs repeatable and leaves the other cores to the other workers.
RUNNER = Runner()


def run(*arguments: object) -> Result:
    """Run the command line; exceptions that are no user mistake are raised."""
    return RUNNER.invoke(app, [str(a) for a in arguments], catch_exceptions=False)


def fails(*arguments: object, words: tuple[str, ...]) -> str:
    """Run, expecting exit code 2 and one error line with all `words` in it; return that line."""
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, result.stderr
    assert "Traceback" not in result.output
    missing = [w for w in words if w not in lines[0]]
    assert not missing, f"{missing} not in: {lines[0]}"
    return lines[0]


def answer(*arguments: object, code: int | None = 0) -> dict:
    """Run with --json; the whole of stdout must be one JSON document. A code of None is 0 or 3."""
    result = run(*arguments, "--json")
    assert result.exit_code in ((0, 3) if code is None else (code,)), result.output
    return json.loads(result.stdout)


def files_in(folder: Path) -> set[str]:
    """Everything below a folder, hidden files too, but for records."""
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.name != RECORD}


@dataclass(frozen=True)
class Scene:
    """Files of a pair and its true transform (a translation of (dx, dy[, dz]) mm)."""

    folder: Path
    fixed: Path
    moving: Path
    fixed_labels: Path
    moving_labels: Path
    fixed_points: Path
    moving_points: Path
    truth: Path
    offset: np.ndarray


def make_scene(folder: Path, grid: Grid, voxels: tuple[float, ...]) -> Scene:
    """Write a pair whose moving content is shifted by `voxels` (storage order), and everything around it."""
    raster = np.array_equal(grid.affine, Grid.pixels(grid.shape).affine)
    kind = ".png" if raster else ".nii.gz"
    fixed, fixed_labels = blobs(grid, name="fixed")
    moving, moving_labels = blobs(grid, shift=voxels, name="moving")
    offset = grid.affine[:-1, :-1] @ np.asarray(voxels, dtype=float)
    scene = Scene(
        folder,
        folder / f"fixed{kind}",
        folder / f"moving{kind}",
        folder / f"fixed_labels{kind}",
        folder / f"moving_labels{kind}",
        folder / "fixed_points.csv",
        folder / "moving_points.csv",
        folder / "truth.h5",
        offset,
    )
    for path, image in ((scene.fixed, fixed), (scene.moving, moving)):
        if raster:
            image = Image(image.data, grid, name=image.name, unit="px", dtype="uint8")
        write_image(path, image)
    write_labels(scene.fixed_labels, fixed_labels)
    write_labels(scene.moving_labels, moving_labels)
    points = grid.world_from_index(np.array([[0.3] * grid.ndim, [0.6] * grid.ndim, [0.5] * grid.ndim]) * grid.shape)
    write_points(scene.fixed_points, PointSet(points, ("a", "b", "c")))
    write_points(scene.moving_points, PointSet(points + offset, ("a", "b", "c")))
    write_transform(scene.truth, Affine.translation(offset))
    return scene


def volume_grid(shape: tuple[int, ...] = (12, 20, 16)) -> Grid:
    """A small anisotropic grid with an odd axis order away from the origin."""
    affine = np.eye(4)
    affine[:3, :3] = np.array([[0, 0, 1.5], [0, -2.0, 0], [3.0, 0, 0]])
    affine[:3, 3] = (-20, 35, 100)
    return Grid(shape, affine)


def bent(grid: Grid, size: float = 1.0) -> Chain:
    """A smooth field followed by a translation."""
    index = np.stack(np.meshgrid(*(np.linspace(0, np.pi, n) for n in grid.shape), indexing="ij"))
    bump = torch.from_numpy(np.prod(np.sin(index), axis=0)).float()
    field = DisplacementField(grid, size * torch.stack([bump] * grid.ndim))
    return Chain((field, Affine.translation(np.arange(1.0, grid.ndim + 1))))

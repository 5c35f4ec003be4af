"""Templates: the mean of shapes, the mean of images, labels and regions on it."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from app.scenes import answer, fails
from roireg.cohort import TemplateJob
from roireg.cohort.averaging import mean_shape, next_mean, sharpened, velocity_file
from roireg.cohort.fusion import finish
from roireg.cohort.process import Processes
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.progress import ProgressEvent
from roireg.core.transforms import Affine, Chain, DisplacementField
from roireg.io import read_image, read_labels, read_transform, write_image, write_labels, write_transform
from support import blobs

SHIFTS = ((3.0, -2.0), (-1.0, 3.0), (-2.0, -1.0))
"""Of three images, storage order, voxels; they cancel each other."""

GRID = Grid.of_array((48, 56), spacing=(1.0, 1.0))


@pytest.fixture(scope="module")
def shifted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three images of one scene at three places, with label maps and a table."""
    folder = tmp_path_factory.mktemp("shifted")
    lines = ["id,image,labels"]
    for name, shift in zip("abc", SHIFTS, strict=True):
        image, labels = blobs(GRID, shift=shift, name=name)
        write_image(folder / f"{name}.nii.gz", image)
        write_labels(folder / f"{name}_labels.nii.gz", labels)
        lines.append(f"{name},{name}.nii.gz,{name}_labels.nii.gz")
    image, labels = blobs(GRID, name="mean")
    write_labels(folder / "mean_labels.nii.gz", labels)
    (folder / "subjects.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_the_mean_shape_undoes_maps_that_cancel_each_other():
    grid = Grid.of_array((12, 14), spacing=(1.0, 2.0))
    turn = np.radians(20)
    rotations = [np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]]) for a in (turn, -turn)]
    scales = [np.diag([s, s, 1.0]) for s in (2.0, 0.5)]
    field = torch.randn(2, *grid.shape, generator=torch.Generator().manual_seed(1))
    velocities = [DisplacementField(grid, sign * field) for sign in (1.0, -1.0)]
    for matrices in (rotations, scales):
        mean = mean_shape([Affine(m) for m in matrices], velocities, grid)
        assert float(mean.displacement_on(grid).abs().max()) < 1e-5
    mean = mean_shape([Affine(m) for m in scales], [DisplacementField(grid, torch.ones(2, *grid.shape))] * 2, grid)
    middle = grid.center[None]
    assert np.allclose(mean.map_points(middle), middle + 1.0, atol=1e-5)


def test_sharpening_makes_edges_steeper_and_no_value_new():
    ramp = torch.linspace(-3, 3, 32).sigmoid().expand(1, 24, 32)
    image = Image(ramp.clone(), Grid.pixels((24, 32)))
    sharp = sharpened(image, 1.0).data
    assert float(sharp.diff(dim=2).max()) > float(ramp.diff(dim=2).max())
    assert float(sharp.min()) >= float(ramp.min()) and float(sharp.max()) <= float(ramp.max())
    assert sharpened(image, 0.0) is image


def registered(shifted: Path, place: Path, template: Path) -> list[dict[str, str]]:
    """Results of a round as registrations to `template` that make no error would leave them."""
    grid = read_image(template).grid
    for name, shift in zip("abc", SHIFTS, strict=True):
        folder = place / "pairs" / name
        folder.mkdir(parents=True)
        away = Affine.translation(np.array(shift[::-1]) + 5.0)
        (folder / "result.json").write_text(json.dumps({"stamp": "0" * 64}))
        write_transform(folder / "transform.h5", away)
        write_transform(folder / "inverse.h5", away.inverse())
        velocity_file(folder).parent.mkdir(exist_ok=True)
        write_transform(velocity_file(folder), DisplacementField(grid, torch.zeros(2, *grid.shape)))
    return [
        {"id": n, "image": str(shifted / f"{n}.nii.gz"), "labels": str(shifted / f"{n}_labels.nii.gz")} for n in "abc"
    ]


def test_the_next_mean_lies_where_images_are_on_the_average_and_carries_their_labels(shifted, tmp_path):
    # A template five millimetres away from where the images are on the average.
    image, _ = blobs(GRID, shift=(-5.0, -5.0), name="far")
    write_image(tmp_path / "far.nii.gz", image)
    members = registered(shifted, tmp_path / "round", tmp_path / "far.nii.gz")
    files = [{k: m[k] for k in ("id", "image")} for m in members]
    place = str(tmp_path / "round")
    said = next_mean(out=place, round=place, template=str(tmp_path / "far.nii.gz"), members=files, sharpen=0.0)
    assert said["moved_mm"] == pytest.approx(np.hypot(5, 5), abs=1e-3)
    truth, _ = blobs(GRID, name="mean")
    mean = read_image(tmp_path / "round/mean/template.nii.gz").data.numpy()
    inner = (0, slice(6, -6), slice(6, -6))
    assert np.corrcoef(mean[inner].ravel(), truth.data.numpy()[inner].ravel())[0, 1] > 0.99
    kept = next_mean(out=place, round=place, template=str(tmp_path / "far.nii.gz"), members=files, sharpen=0.0)
    assert kept == {"kept": True}

    finish(
        out=str(tmp_path / "t"), place=place, template=str(tmp_path / "round/mean/template.nii.gz"), members=members
    )
    true = read_labels(shifted / "mean_labels.nii.gz").data
    fused = read_labels(tmp_path / "t/labels.nii.gz").data
    assert float((fused == true).float().mean()) > 0.99
    rows = table(tmp_path / "t/volumes.tsv")
    assert [row["id"] for row in rows if row["label"] == "1"] == ["a", "b", "c"]
    assert all(float(row["dice"]) > 0.9 and 0.5 < float(row["confidence"]) <= 1 for row in rows)
    # The transforms lead from the template to the images, and back.
    points = GRID.world_from_index(np.array([[20.0, 20], [30, 30]]))
    way = read_transform(tmp_path / "t/transforms/a.h5"), read_transform(tmp_path / "t/transforms/a_inverse.h5")
    assert np.allclose(way[0].map_points(points) - points, [SHIFTS[0][::-1]] * 2, atol=1e-4)
    assert np.allclose(Chain(way).map_points(points), points, atol=1e-4)


def table(file: Path) -> list[dict[str, str]]:
    with file.open() as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


@pytest.mark.usefixtures("warm")
def test_a_template_that_was_stopped_goes_on_and_comes_out_the_same(shifted, tmp_path, settings):
    out = tmp_path / "t"
    options = ("--config", settings, "--iterations", 2, "--affine-iterations", 0)
    first = answer("template", shifted / "subjects.csv", "-o", out, *options)
    assert len(first["moved_mm"]) == 2 and max(first["moved_mm"]) < 4
    assert {f.name for f in (out / "transforms").iterdir()} == {f"{n}{k}.h5" for n in "abc" for k in ("", "_inverse")}
    assert sum(float(row["dice"]) for row in table(out / "volumes.tsv")) / 9 > 0.6
    before = {f.name: f.read_bytes() for f in out.glob("*.nii.gz")}
    shutil.rmtree(out / "rounds/2/pairs/b")
    shutil.rmtree(out / "rounds/2/mean")
    job = TemplateJob(files=[shifted / "subjects.csv"], out=out, config=settings, iterations=2, affine_iterations=0)
    events: list[ProgressEvent] = []
    second = job.run(events.append)
    assert {pair["id"] for pair in second.pairs if pair["kept"]} == {"a", "c"}
    done = [event.fraction for event in events if not event.notice]
    assert done == sorted(done) and done[0] == 0 and 0.5 in done, "told of both rounds together"
    assert done[-1] == pytest.approx(1)
    assert {f.name: f.read_bytes() for f in out.glob("*.nii.gz")} == before


@pytest.mark.usefixtures("warm")
def test_without_labels_the_regions_that_images_share_are_fused(shifted, tmp_path, settings):
    files = [shifted / f"{name}.nii.gz" for name in "abc"]
    options = ("--config", settings, "--iterations", 1, "--affine-iterations", 0)
    answer("template", *files, "-o", tmp_path / "t", *options)
    regions = read_image(tmp_path / "t/regions.nii.gz").data
    rows = table(tmp_path / "t/volumes.tsv")
    assert set(np.unique(regions.numpy())) - {0} == {int(row["region"]) for row in rows} != set()
    assert {row["id"] for row in rows} == {"a", "b", "c"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("a.nii.gz",), ("two images",)),
        (("a.nii.gz", "none.nii.gz"), ("none.nii.gz",)),
        (("subjects.csv", "--iterations", "1", "--affine-iterations", "2"), ("--affine-iterations 2",)),
        (("pairs.csv",), ("columns", "image", "fixed")),
        (("notes.txt", "a.nii.gz"), ("notes.txt", "not an image")),
        (("a.nii.gz", "deep.nii.gz"), ("deep.nii.gz", "3D", "a.nii.gz", "2D")),
        (("a.nii.gz", "b.nii.gz", "--start", "deep.nii.gz"), ("deep.nii.gz", "3D", "a.nii.gz", "2D")),
        (("notes.csv",), ("notes.txt", "not an image")),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(shifted, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(shifted)
    (shifted / "pairs.csv").write_text("fixed,moving\na,b\n")
    (shifted / "notes.txt").write_text("to do\n")
    (shifted / "notes.csv").write_text("image,labels\na.nii.gz,a_labels.nii.gz\nb.nii.gz,notes.txt\n")
    write_image(shifted / "deep.nii.gz", Image(torch.rand(1, 4, 5, 6), Grid.of_array((4, 5, 6))))
    # Read before any process is started.
    monkeypatch.setattr(Processes, "run", lambda self, task, limits: pytest.fail(f"{task.key} was started"))
    fails("template", *arguments, "-o", tmp_path / "o", words=words)
    assert not (tmp_path / "o").exists()

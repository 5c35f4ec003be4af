"""ROI pairs on disk: exact round trip, readable by others, clear about hand-made mistakes."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from roireg.core.errors import GeometryError, InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.rois import Prompt, ROIPair, ROIPairs, ROISet
from roireg.io import read_labels, read_pairs, write_labels, write_pairs

OBLIQUE = np.array([[0.36, 0.48, -0.8], [-0.8, 0.6, 0.0], [0.48, 0.64, 0.6]])
GRIDS = {
    "3d": (
        Grid.from_itk((9, 8, 7), (0.7, 0.7, 3.3), (-100.1, 20.2, 3.3), OBLIQUE),
        Grid.from_itk((6, 5, 4), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), np.eye(3)),
    ),
    "2d": (Grid.pixels((9, 8)), Grid.pixels((12, 11))),
    "2d-mm": (Grid.from_itk((9, 8), (0.3, 0.4), (5.0, 6.0), [0.6, -0.8, 0.8, 0.6]), Grid.pixels((12, 11))),
    "flat": (Grid.from_itk((9, 8, 1), (1.0, 1.0, 5.0), (0, 0, 0), np.eye(3)), Grid.pixels((3, 4, 5))),
}


def _rois(grid: Grid, count: int, seed: int) -> ROISet:
    rng = np.random.default_rng(seed)
    masks = torch.as_tensor(rng.random((count, *grid.shape)) < 0.3)
    for k in range(count):
        masks[k].view(-1)[k] = True
    names = tuple(None if k % 2 else f"Organ {k} ä" for k in range(count))
    return ROISet(masks, grid, names, torch.as_tensor(rng.random(count), dtype=torch.float32))


def _pairs(kind: str) -> ROIPairs:
    moving_grid, fixed_grid = GRIDS[kind]
    d = moving_grid.ndim
    prompt = Prompt(np.arange(2.0 * d).reshape(2, d) / 3, np.array([1, 0]), np.arange(2.0 * d).reshape(2, d) / 7)
    box = Prompt(np.zeros((0, d)), np.zeros(0, int), np.ones((2, d)))
    return ROIPairs(
        _rois(moving_grid, 5, 0),
        _rois(fixed_grid, 4, 1),
        (
            ROIPair(3, 1, 1 / 3, 0.9, source="user", status="accepted", name="liver", prompts=(prompt, box)),
            ROIPair(0, 2, 0.1 + 0.2, 0.5),
            ROIPair(0, 3, -0.25, 1.0, source="labels", status="rejected"),
        ),
    )


def _same_prompt(a: Prompt, b: Prompt) -> bool:
    boxes = (a.box is None and b.box is None) or np.array_equal(a.box, b.box)  # type: ignore[arg-type]
    return np.array_equal(a.points, b.points) and np.array_equal(a.labels, b.labels) and boxes


def _assert_same(a: ROIPairs, b: ROIPairs) -> None:
    for one, two in ((a.moving, b.moving), (a.fixed, b.fixed)):
        assert one.grid == two.grid
        assert torch.equal(one.masks, two.masks)
        assert one.names == two.names
        assert one.scores is not None and two.scores is not None
        assert torch.equal(one.scores, two.scores)
    assert len(a) == len(b)
    for p, q in zip(a.pairs, b.pairs, strict=True):
        for key in ("moving", "fixed", "similarity", "confidence", "source", "status", "name"):
            assert getattr(p, key) == getattr(q, key), key
        assert len(p.prompts) == len(q.prompts)
        assert all(_same_prompt(x, y) for x, y in zip(p.prompts, q.prompts, strict=True))


@pytest.mark.parametrize("kind", GRIDS)
@pytest.mark.parametrize("name", ["pairs", "pairs.zip"])
def test_round_trip_is_exact(tmp_path: Path, kind: str, name: str) -> None:
    pairs = _pairs(kind)
    write_pairs(tmp_path / name, pairs)
    _assert_same(read_pairs(tmp_path / name), pairs)
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_layout_and_labels(tmp_path: Path) -> None:
    pairs = _pairs("3d")
    write_pairs(tmp_path / "p", pairs)
    names = sorted(p.name for p in (tmp_path / "p").iterdir())
    assert {"pairs.json", "fixed_rois.nii.gz", "moving_rois.nii.gz", "fixed_rois_1.nii.gz"} <= set(names)
    document = json.loads((tmp_path / "p" / "pairs.json").read_text(encoding="utf-8"))
    first = document["pairs"][0]
    assert first["moving"] == first["fixed"] == 1  # equal labels, equal colours in a viewer
    assert np.allclose(first["fixed_centroid"], pairs.fixed.centroids[1])
    roi = next(r for r in document["moving"]["rois"] if r["label"] == 1)
    labels = read_labels(tmp_path / "p" / document["moving"]["layers"][roi["layer"]])
    assert torch.equal(labels.data[0] == 1, pairs.moving.masks[3])
    assert labels.grid.is_close(pairs.moving.grid, tolerance=1e-4)
    text = (tmp_path / "p" / "pairs.json").read_text(encoding="utf-8")
    assert max(map(len, text.splitlines())) < 400
    assert any(line.strip().startswith('"fixed_centroid": [') and "]" in line for line in text.splitlines())


def test_plane_images_are_png(tmp_path: Path) -> None:
    write_pairs(tmp_path / "p", _pairs("2d"))
    assert (tmp_path / "p" / "fixed_rois.png").exists()


def test_no_regions_at_all(tmp_path: Path) -> None:
    pairs = ROIPairs(ROISet.empty(GRIDS["3d"][0]), ROISet.empty(GRIDS["3d"][1]))
    write_pairs(tmp_path / "p", pairs)
    _assert_same(read_pairs(tmp_path / "p"), pairs)


def test_many_regions_need_wider_labels(tmp_path: Path) -> None:
    grid = Grid.pixels((20, 20))
    masks = torch.eye(400, dtype=torch.bool).reshape(400, 20, 20)
    pairs = ROIPairs(ROISet(masks, grid), ROISet(masks.flip(0), grid), (ROIPair(0, 399, 1.0, 1.0),))
    write_pairs(tmp_path / "p", pairs)
    _assert_same(read_pairs(tmp_path / "p"), pairs)


def test_second_write_replaces_and_leaves_no_stale_layer(tmp_path: Path) -> None:
    write_pairs(tmp_path / "p", _pairs("3d"))
    (tmp_path / "p" / "notes.txt").write_text("mine")
    single = ROIPairs(_rois(GRIDS["3d"][0], 1, 0), _rois(GRIDS["3d"][1], 1, 1), (ROIPair(0, 0, 1.0, 1.0),))
    write_pairs(tmp_path / "p", single)
    _assert_same(read_pairs(tmp_path / "p"), single)
    names = sorted(p.name for p in (tmp_path / "p").iterdir())
    assert names == [".roireg.json", "fixed_rois.nii.gz", "moving_rois.nii.gz", "notes.txt", "pairs.json"]


def test_same_pairs_same_bytes(tmp_path: Path) -> None:
    for name in ("a.zip", "b.zip"):
        write_pairs(tmp_path / name, _pairs("3d"))
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_zip_of_the_folder_itself(tmp_path: Path) -> None:
    write_pairs(tmp_path / "p", _pairs("2d"))
    shutil.make_archive(str(tmp_path / "q"), "zip", tmp_path, "p")
    _assert_same(read_pairs(tmp_path / "q.zip"), _pairs("2d"))


def test_a_short_file_by_hand(tmp_path: Path) -> None:
    labels = torch.zeros((1, 4, 4), dtype=torch.int32)
    labels[0, 1, 1:3] = 7
    for side in ("fixed", "moving"):
        write_labels(tmp_path / f"{side}_rois.png", Image(labels, Grid.pixels((4, 4)), unit="px"))
    side = {
        "grid": {"shape": [4, 4], "affine": Grid.pixels((4, 4)).affine.tolist()},
        "rois": [{"label": 7}],
    }
    document = {
        "schema_version": 1,
        "moving": {**side, "layers": ["moving_rois.png"]},
        "fixed": {**side, "layers": ["fixed_rois.png"]},
        "pairs": [{"id": 1, "moving": 7, "fixed": 7, "similarity": 1, "confidence": 1}],
    }
    (tmp_path / "pairs.json").write_text(json.dumps(document))
    pairs = read_pairs(tmp_path)
    assert pairs.pairs[0].source == "user"
    assert int(pairs.fixed.masks.sum()) == 2


# -- mistakes ---------------------------------------------------------------------------------------

Edit = Callable[[dict[str, Any]], object]
MISTAKES: dict[str, tuple[Edit, str]] = {
    "version": (lambda d: d.update(schema_version=9), "expected schema_version 1, found 9"),
    "missing": (lambda d: d["pairs"][0].pop("similarity"), r"pairs\.0\.similarity is missing"),
    "unknown": (lambda d: d["pairs"][0].update(colour="red"), r"pairs\.0\.colour is not a known entry"),
    "status": (
        lambda d: d["pairs"][1].update(status="maybe"),
        r"1\.status must be .*'accepted'.*found 'maybe'",
    ),
    "number": (
        lambda d: d["pairs"][1].update(confidence="high"),
        r"1\.confidence must be a number, found 'high'",
    ),
    "label": (lambda d: d["pairs"][1].update(fixed=99), "pair 2 names the fixed label 99, which fixed.rois does not"),
    "twice": (lambda d: d["fixed"]["rois"].append(d["fixed"]["rois"][0]), "lists label .* twice"),
    "unpainted": (
        lambda d: d["fixed"]["rois"].append({"label": 77}),
        "no voxel has label 77, which pairs.json lists",
    ),
    "unlisted": (
        lambda d: (d["pairs"].clear(), d["moving"]["rois"].pop(0)),
        r"label \d+ is not listed in moving\.rois",
    ),
    "layer": (lambda d: d["fixed"]["rois"][0].update(layer=50), "is in layer 50, found"),
    "outside": (lambda d: d["fixed"].update(layers=["../x.png"]), "names files of the same folder"),
    "gone": (lambda d: d["fixed"].update(layers=["gone.nii.gz"]), "gone.nii.gz: no such file"),
    "grid": (lambda d: d["fixed"]["grid"]["affine"][0].__setitem__(3, 55.0), "the label map lies on"),
    "shape": (lambda d: d["fixed"]["grid"].update(shape=[2, 5, 6]), "the label map lies on"),
    "singular": (lambda d: d["fixed"]["grid"].update(affine=[[0.0] * 4] * 4), r"fixed\.grid is not usable"),
    "prompt": (
        lambda d: d["pairs"][0]["prompts"][0].update(points=[[1, 2]], labels=[1]),
        "pair 1: prompt points have 3 coordinates",
    ),
    "prompt labels": (lambda d: d["pairs"][0]["prompts"][0].update(labels=[1]), "pair 1: .*one label per point"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_by_hand(tmp_path: Path, mistake: str) -> None:
    edit, message = MISTAKES[mistake]
    write_pairs(tmp_path / "p", _pairs("3d"))
    file = tmp_path / "p" / "pairs.json"
    document = json.loads(file.read_text(encoding="utf-8"))
    edit(document)
    file.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(InputError, match=message) as error:
        read_pairs(tmp_path / "p")
    assert "\n" not in str(error.value)
    assert str(tmp_path / "p") in str(error.value)


def test_not_json_and_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such folder or \.zip"):
        read_pairs(tmp_path / "missing")
    with pytest.raises(InputError, match=r"there is no pairs\.json in it"):
        read_pairs(tmp_path)
    (tmp_path / "pairs.json").write_text('{"schema_version": 1,\n "pairs": [,]}')
    with pytest.raises(InputError, match="line 2, column 12 is not valid JSON"):
        read_pairs(tmp_path)
    (tmp_path / "pairs.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(InputError, match="not UTF-8"):
        read_pairs(tmp_path)
    (tmp_path / "x.zip").write_text("no zip")
    with pytest.raises(InputError, match=r"expected a folder or \.zip"):
        read_pairs(tmp_path / "x.zip")
    with zipfile.ZipFile(tmp_path / "y.zip", "w") as archive:
        archive.writestr("other.txt", "x")
    with pytest.raises(InputError, match=r"there is no pairs\.json"):
        read_pairs(tmp_path / "y.zip")


def test_numbers_that_json_cannot_hold(tmp_path: Path) -> None:
    base = _pairs("2d")
    bad = ROIPairs(base.moving, base.fixed, (ROIPair(0, 0, float("nan"), 1.0),))
    with pytest.raises(InputError, match="cannot be written: similarity"):
        write_pairs(tmp_path / "p", bad)
    assert not list(tmp_path.iterdir())


def test_geometry_error_is_what_a_moved_label_map_gives(tmp_path: Path) -> None:
    write_pairs(tmp_path / "p", _pairs("3d"))
    labels = read_labels(tmp_path / "p" / "fixed_rois.nii.gz")
    moved = Grid(labels.grid.shape, np.diag([2.0, 2.0, 2.0, 1.0]) @ labels.grid.affine)
    write_labels(tmp_path / "p" / "fixed_rois.nii.gz", Image(labels.data, moved))
    with pytest.raises(GeometryError, match="save it on the grid it came with"):
        read_pairs(tmp_path / "p")

"""The result: what it writes, what it adds to its metrics, what it maps."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import roireg
from pipeline.cases import quick
from roireg.core.errors import GeometryError, InputError, OutputError
from roireg.core.transforms import Affine, Chain
from roireg.core.warp import warp
from roireg.core.words import OUTPUTS
from roireg.evaluate import Truth
from roireg.io import read_image, read_pairs, read_transform

FILES = {
    "transform": "transform.h5",
    "inverse": "inverse.h5",
    "warped": "warped.png",
    "pairs": "pairs",
    "result": "result.json",
    "report": "report.html",
}


@pytest.fixture(scope="module")
def saved(flat_result, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    flat_result.save(folder)
    return folder


def files_in(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_everything_is_written(saved):
    assert {p.name for p in saved.iterdir()} == set(FILES.values())
    assert set(OUTPUTS) == set(FILES)


@pytest.mark.parametrize("name", [n for n in OUTPUTS if n != "report"])
def test_only_what_is_asked_for_is_written(flat_result, saved, name, tmp_path):
    flat_result.save(tmp_path / "out", only=[name])
    assert {p.name for p in (tmp_path / "out").iterdir()} == {FILES[name], "result.json"}
    written = files_in(tmp_path / "out")
    del written["result.json"]  # the record of what is in the folder
    for path, content in written.items():
        assert content == (saved / path).read_bytes()


def test_other_files_in_the_folder_stay(flat_result, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    flat_result.save(tmp_path, only=["transform"])
    flat_result.save(tmp_path, only=["warped"])
    assert {p.name for p in tmp_path.iterdir()} == {"notes.txt", "result.json", "warped.png"}
    assert (tmp_path / "notes.txt").read_text(encoding="utf-8") == "mine"


def test_an_unknown_output_or_place_is_refused_and_nothing_is_written(flat_result, tmp_path):
    with pytest.raises(InputError, match="unknown output movie; choose from transform, inverse"):
        flat_result.save(tmp_path / "out", only=["warped", "movie"])
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        flat_result.save(tmp_path / "file" / "out", only=["result"])
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_two_runs_write_the_same_bytes(flat, flat_result, saved, tmp_path):
    again = roireg.register(flat.fixed, flat.moving, config=quick())
    again.save(tmp_path)
    first, second = files_in(saved), files_in(tmp_path)
    # How long the stages took is the only thing that may differ, and stands in one file only.
    results = [json.loads(files.pop("result.json")) for files in (first, second)]
    assert all(result.pop("timings") for result in results)
    assert first == second and results[0] == results[1]


@pytest.mark.parametrize("name", ["transform", "inverse"])
@pytest.mark.parametrize("case", ["flat", "deep"])
def test_written_transforms_map_points_as_the_result_does(case, name, request, tmp_path):
    result = request.getfixturevalue(f"{case}_result")
    result.save(tmp_path, only=[name])
    expected = getattr(result, name)
    grid = (result.fixed if name == "transform" else result.moving).grid
    rng = np.random.default_rng(0)
    index = rng.uniform(-0.5, np.array(grid.shape) - 0.5, size=(1000, grid.ndim))
    points = grid.world_from_index(index)
    found = read_transform(tmp_path / f"{name}.h5").map_points(points)
    np.testing.assert_allclose(found, expected.map_points(points), atol=1e-3)


def test_simpleitk_maps_points_as_the_result_does(deep_result, tmp_path):
    import SimpleITK as sitk

    deep_result.save(tmp_path, only=["transform"])
    transform = sitk.ReadTransform(str(tmp_path / "transform.h5"))
    grid = deep_result.fixed.grid
    index = np.random.default_rng(1).uniform(0, np.array(grid.shape) - 1, size=(200, 3))
    points = grid.world_from_index(index)
    found = np.array([transform.TransformPoint(tuple(p)) for p in points])
    np.testing.assert_allclose(found, deep_result.map_points(points), atol=1e-3)


@pytest.mark.parametrize("case", ["flat", "deep"])
def test_the_inverse_brings_points_back(case, request):
    result = request.getfixturevalue(f"{case}_result")
    points = request.getfixturevalue(case).fixed_points
    apart = np.linalg.norm(result.inverse.map_points(result.map_points(points)) - points, axis=1)
    # The strongest bends of a volume of 12 mm voxels lie between the points of the field.
    assert np.percentile(apart, 90) < 0.3 * result.fixed.grid.spacing.min()
    assert apart.max() < 0.75 * result.fixed.grid.spacing.min()
    assert result.metrics["inverse_consistency_p99"].value < 0.75 * result.fixed.grid.spacing.min()


def test_written_images_and_pairs_are_those_of_the_result(flat_result, saved):
    image = read_image(saved / "warped.png")
    assert torch.equal(image.data.float(), flat_result.warped.data.float())
    pairs = read_pairs(saved / "pairs")
    assert len(pairs) == len(flat_result.pairs)
    assert torch.equal(pairs.fixed_masks().masks, flat_result.pairs.fixed_masks().masks)
    assert torch.equal(pairs.moving_masks().masks, flat_result.pairs.moving_masks().masks)


def test_volumes_are_written_as_nifti(deep_result, tmp_path):
    deep_result.save(tmp_path, only=["warped"])
    image = read_image(tmp_path / "warped.nii.gz")
    assert image.grid.is_close(deep_result.fixed.grid)
    torch.testing.assert_close(image.data, deep_result.warped.data, atol=1e-3, rtol=1e-5)


def test_the_result_file_is_plain_json(flat_result, saved):
    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    content = json.loads((saved / "result.json").read_text(encoding="utf-8"), parse_constant=refuse)
    assert set(content) == {
        "verdict",
        "reasons",
        "worse",
        "pairs",
        "metrics",
        "timings",
        "provenance",
        "written",
        "complete",
    }
    assert content["verdict"] == flat_result.verdict
    assert content["pairs"] == len(flat_result.pairs.active)
    assert set(content["metrics"]) == set(flat_result.metrics)
    assert roireg.Config.model_validate(content["provenance"]["settings"]) == flat_result.config


def test_the_report_stands_alone(saved):
    text = (saved / "report.html").read_text(encoding="utf-8")
    assert text.lstrip().lower().startswith("<!doctype html")
    assert 'src="http' not in text and 'href="http' not in text


# -- what moves along -------------------------------------------------------------------------------


def test_labels_move_without_new_labels(flat, flat_result):
    moved = flat_result.move_labels(flat.moving_labels)
    assert moved.grid == flat.fixed.grid
    assert set(torch.unique(moved.data).tolist()) <= set(torch.unique(flat.moving_labels.data).tolist())
    expected = warp(flat.moving_labels, flat_result.transform, flat.fixed.grid, mode="nearest", fill=0)
    assert torch.equal(moved.data, expected.data)


def test_scores_add_the_state_before_and_after(flat, flat_result):
    truth = Truth(
        unit="px",
        labels=(flat.fixed_labels, flat.moving_labels),
        points=(flat.fixed_points, flat.moving_points),
    )
    scored = flat_result.scored(truth)
    added = set(scored.metrics) - set(flat_result.metrics)
    assert any(n.startswith("dice") for n in added) and any(n.startswith("landmark_error") for n in added)
    assert set(flat_result.metrics) < set(scored.metrics)
    for name in added:
        value = scored.metrics[name]
        assert value.before is not None
        if name.startswith("dice"):
            assert value.value > value.before
    error = scored.metrics["landmark_error_mean"]
    expected = np.linalg.norm(flat_result.map_points(flat.fixed_points) - flat.moving_points, axis=1).mean()
    before = np.linalg.norm(flat.fixed_points - flat.moving_points, axis=1).mean()
    assert error.value == pytest.approx(expected) and error.before == pytest.approx(before)
    assert error.unit == "px"


def test_an_empty_truth_adds_nothing_and_uneven_points_are_refused(flat, flat_result):
    assert flat_result.scored(Truth()).metrics == flat_result.metrics
    lists = flat_result.scored(Truth(points=(flat.fixed_points.tolist(), flat.moving_points.tolist()))).metrics
    arrays = flat_result.scored(Truth(points=(flat.fixed_points, flat.moving_points))).metrics
    assert lists == arrays
    with pytest.raises(InputError, match="as many points"):
        flat_result.scored(Truth(points=(flat.fixed_points, flat.moving_points[:-1])))


def test_what_lies_outside_the_moving_image_gets_its_lowest_value(flat, deep_result):
    far = replace(deep_result, transform=roireg.core.transforms.Chain((Affine.translation((1e5, 0, 0)),)))
    assert torch.equal(torch.unique(far.warped.data), deep_result.moving.data.min()[None])


def test_a_label_that_the_transform_loses_counts_as_zero(flat_result, flat):
    away = replace(flat_result, transform=Chain((Affine.translation([500.0, 0.0]),)))
    scored = away.scored(Truth(labels=(flat.fixed_labels, flat.moving_labels)))
    found = scored.metrics["dice_mean"]
    assert found.value == 0 and found.before > 0.3
    assert "hd95_mean" not in scored.metrics


def test_very_large_pictures_are_written_in_bands(flat_result, tmp_path, monkeypatch):
    monkeypatch.setattr("roireg.pipeline.registration.LARGEST_PNG", 100)
    monkeypatch.setattr("roireg.pipeline.registration.BAND", 16)
    monkeypatch.setattr("roireg.io.tiff_writing.BAND", 16)
    flat_result.save(tmp_path, only=["warped"])
    back = read_image(tmp_path / "warped.tif")
    whole = flat_result.warped
    assert back.dtype == whole.dtype
    assert back.grid == whole.grid
    assert torch.equal(back.data, whole.data.round().clip(0))
    filled = replace(flat_result, transform=Chain((Affine.translation([500.0, 0.0]),)), fill=77.0)
    filled.save(tmp_path, only=["warped"])
    assert set(read_image(tmp_path / "warped.tif").data.flatten().tolist()) == {77}


# -- in a notebook ----------------------------------------------------------------------------------


def _pixels(figure, row, column=0):
    return np.asarray(figure.axes[row * (len(figure.axes) // 2) + column].images[0].get_array(), dtype=float)


def test_the_figure_shows_less_colour_after_than_before(flat_result, deep_result):
    for result, planes in ((flat_result, 1), (deep_result, 3)):
        figure = result.plot()
        assert len(figure.axes) == 2 * planes
        # What lies in both images at one place is gray: the spread over the colours of a pixel is what differs.
        before, after = (_pixels(figure, row).std(axis=-1).mean() for row in (0, 1))
        assert after < before
        assert figure._repr_png_().startswith(b"\x89PNG")


def test_the_planes_of_a_figure_pass_through_a_point(deep_result):
    point = deep_result.fixed.grid.world_from_index([3, 5, 7])
    titles = [axes.get_title() for axes in deep_result.plot(point.tolist()).axes[:3]]
    assert [t.split("slice ")[1].split("/")[0] for t in titles] == ["4", "6", "8"]
    with pytest.raises(GeometryError, match="3 coordinates"):
        deep_result.plot([1.0, 2.0])


def test_a_notebook_shows_verdict_reasons_numbers_and_picture(flat_result):
    page = replace(flat_result, verdict="uncertain", reasons=("a <b> doubt",), worse=("labels lie",))._repr_html_()
    assert "uncertain" in page and "a &lt;b&gt; doubt" in page and "data:image/png;base64," in page
    assert "Correlation of intensities" in page and "labels lie" in page


def test_labels_move_in_every_form(flat, flat_result):
    expected = flat_result.move_labels(flat.moving_labels)
    moved = flat_result.move_labels(flat.moving_labels.data[0].numpy())
    assert torch.equal(moved.data, expected.data)
    assert flat_result.map_points(flat.fixed_points.tolist()).shape == flat.fixed_points.shape

"""`register`, `report` and `demo` from files to files."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from app.scenes import answer, fails, files_in, run
from roireg.io import read_image, read_labels, read_points, read_transform, sha256_of
from roireg.segment import hierarchy
from roireg.segment.kept import Kept

ALL = {"transform.h5", "inverse.h5", "pairs/", "result.json", "report.html"}


@pytest.fixture(scope="module")
def registered(flat, tmp_path_factory):
    """The raster pair, registered once with everything carried along."""
    out = tmp_path_factory.mktemp("registered") / "out"
    document = answer(
        "register", flat.fixed, flat.moving, "-o", out,
        "--fixed-labels", flat.fixed_labels, "--moving-labels", flat.moving_labels,
        "--fixed-points", flat.fixed_points, "--moving-points", flat.moving_points,
    )  # fmt: skip
    return out, document


def test_the_folder_holds_what_the_help_says(registered):
    out, document = registered
    moved = {
        "moved_labels.png",
        "moved_labels_fixed_to_moving.png",
        "moved_points_fixed_to_moving.csv",
        "moved_points_moving_to_fixed.csv",
    }
    assert set(document["files"]) == ALL | {"warped.png"} | moved
    assert {f.name + ("/" if f.is_dir() else "") for f in out.iterdir()} == set(document["files"])
    assert {f.name for f in out.parent.iterdir()} == {"out"}


def test_the_answer_is_the_stored_result_and_better_than_before(registered):
    out, document = registered
    stored = json.loads((out / "result.json").read_text(encoding="utf-8"))
    assert document["verdict"] == stored["verdict"]
    assert document["metrics"] == stored["metrics"]
    for name, better in (("dice_mean", 1), ("landmark_error_mean", -1)):
        metric = stored["metrics"][name]
        assert better * metric["value"] > better * metric["before"]
    assert stored["metrics"]["landmark_error_mean"]["value"] < 1.5


def test_the_report_shows_the_labels_and_landmarks_and_is_made_again_alike(registered, tmp_path):
    out, _ = registered
    page = (out / "report.html").read_text(encoding="utf-8")
    drawn = dict(re.findall(r'data-mark="(\w+)" d="([^"]*)"', page))
    assert set(drawn) == {
        *(f"outline_{state}" for state in ("fixed", "before", "after")),
        *(f"dots_{state}" for state in ("fixed", "before", "after")),
        *(f"arrows_{state}" for state in ("before", "after")),
    }
    assert all(drawn.values())
    assert drawn["outline_before"] != drawn["outline_after"]
    run("report", out, "-o", tmp_path / "again.html")
    again = (tmp_path / "again.html").read_text(encoding="utf-8")
    assert set(dict(re.findall(r'data-mark="(\w+)" d="([^"]*)"', again))) == set(drawn)


def test_the_transform_is_what_itk_reads_and_what_moved_the_rest(flat, registered):
    out, _ = registered
    points = read_points(flat.fixed_points)
    mapped = read_points(out / "moved_points_fixed_to_moving.csv")
    assert mapped.names == points.names
    itk = sitk.ReadTransform(str(out / "transform.h5"))
    expected = [itk.TransformPoint(p) for p in points.points.tolist()]
    np.testing.assert_allclose(mapped.points, expected, atol=1e-3)
    back = read_points(out / "moved_points_moving_to_fixed.csv").points
    np.testing.assert_allclose(back, points.points, atol=1.5)
    labels = read_labels(out / "moved_labels.png")
    assert labels.grid.is_close(read_image(flat.fixed).grid)
    assert set(torch.unique(labels.data).tolist()) <= {0, 1, 2, 3}
    again = out.parent / "again.png"
    run("apply", out, flat.moving_labels, "--labels", "--reference", flat.fixed, "-o", again)
    differ = (read_labels(again).data != labels.data).float().mean()
    again.unlink()
    assert differ < 0.01


def test_apply_repeats_the_warped_image(flat, registered, tmp_path):
    out, _ = registered
    run("apply", out, flat.moving, "--reference", flat.fixed, "-o", tmp_path / "w.png")
    difference = read_image(tmp_path / "w.png").data - read_image(out / "warped.png").data
    assert float(difference.abs().max()) <= 1


def test_evaluate_reads_the_result_folder(flat, registered):
    out, document = registered
    points = ("--fixed-points", flat.fixed_points, "--moving-points", flat.moving_points)
    metrics = answer("evaluate", out, "--fixed", flat.fixed, *points)["metrics"]
    stored = document["metrics"]["landmark_error_mean"]
    assert metrics["landmark_error_mean"]["value"] == pytest.approx(stored["value"], abs=1e-3)


def test_provenance_names_files_and_checksums(flat, registered):
    _, document = registered
    inputs = document["provenance"]["inputs"]
    assert inputs["fixed"] == {"path": str(flat.fixed), "sha256": sha256_of(flat.fixed)}
    assert set(inputs) == {"fixed", "moving", "fixed_labels", "moving_labels", "fixed_points", "moving_points"}
    assert document["provenance"]["arguments"]["init"] == "auto"


def test_a_registration_of_b_between_leaves_a_as_it_was(flat, volume, tmp_path, quick, monkeypatch):
    monkeypatch.setattr(hierarchy, "KEPT", Kept())  # all of it is computed twice
    for name, scene in (("one", flat), ("other", volume), ("two", flat)):
        run("register", scene.fixed, scene.moving, *quick, "-o", tmp_path / name)
    assert (tmp_path / "one/transform.h5").read_bytes() == (tmp_path / "two/transform.h5").read_bytes()


def test_info_describes_the_result_folder(registered):
    out, _ = registered
    result, pairs = answer("info", out, out / "pairs")["files"]
    assert result["kind"] == "result" and result["parts"] and result["verdict"]
    assert pairs["kind"] == "pairs" and pairs["pairs"]


def test_a_start_from_the_pairs_of_a_result(flat, registered, tmp_path, settings):
    out, _ = registered
    options = ("--pairs", out / "pairs", "--only", "transform,result", "--config", settings, "-o", tmp_path / "o")
    document = answer("register", flat.fixed, flat.moving, *options)
    assert document["files"] == ["result.json", "transform.h5"]
    points = read_points(flat.fixed_points).points
    truth = read_points(flat.moving_points).points
    found = read_transform(tmp_path / "o" / "transform.h5").map_points(points)
    assert np.linalg.norm(found - truth, axis=1).mean() < 1.5


def test_report_renders_the_saved_result_again(flat, registered, tmp_path):
    out, document = registered
    run_again = run("report", out, "-o", tmp_path / "r.html")
    assert run_again.exit_code == 0
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert document["verdict"] in page and "Landmark error, mean" in page
    assert not re.search(r"""(src|href)=["']https?:""", page)
    other = ("--fixed", flat.moving, "-o", tmp_path / "x.html")
    fails("report", out, *other, words=("moving.png", "not the fixed image"))
    fails("report", tmp_path, words=("result.json",))
    assert files_in(tmp_path) == {"r.html"}


def test_summary_for_people(flat, tmp_path, settings):
    labels = ("--fixed-labels", flat.fixed_labels, "--moving-labels", flat.moving_labels)
    result = run("register", flat.fixed, flat.moving, *labels, "--config", settings, "-o", tmp_path / "o")
    assert result.exit_code == 0
    for words in ("moving.png onto fixed.png", "before", "after", "Dice", "report.html"):
        assert words in result.stdout
    assert result.stderr == ""


def test_landmarks_that_got_worse_are_said_and_stored(flat, tmp_path, quick):
    points = ("--fixed-points", flat.fixed_points, "--moving-points", flat.fixed_points)
    result = run("register", flat.fixed, flat.moving, "-o", tmp_path / "out", *points, *quick)
    (sentence,) = json.loads((tmp_path / "out" / "result.json").read_text(encoding="utf-8"))["worse"]
    assert "3 of 3 landmarks lie farther apart than before" in sentence
    assert f"  - {sentence}" in result.stdout


def test_only_limits_what_is_written_and_foreign_files_stay(flat, tmp_path, quick):
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    assert run("register", flat.fixed, flat.moving, *quick, "-o", out).exit_code in (0, 3)
    assert files_in(out) == {"notes.txt", "result.json", "transform.h5"}


def test_labels_of_one_side_are_carried_but_not_scored(flat, tmp_path, quick):
    options = (*quick, "--moving-labels", flat.moving_labels, "--fixed-points", flat.fixed_points)
    result = run("register", flat.fixed, flat.moving, *options, "-o", tmp_path / "o", "--json")
    document = json.loads(result.stdout)
    assert {"moved_labels.png", "moved_points_fixed_to_moving.csv"} <= set(document["files"])
    assert "dice_mean" not in document["metrics"]
    assert "landmark_error_mean" not in document["metrics"]


@pytest.mark.usefixtures("cheap_presets")
def test_label_maps_as_regions_in_3d(volume, tmp_path):
    regions = ("--fixed-rois", volume.fixed_labels, "--moving-rois", volume.moving_labels)
    points = ("--fixed-points", volume.fixed_points, "--moving-points", volume.moving_points)
    options = (*regions, *points, "--only", "transform,warped,pairs", "-o", tmp_path / "o")
    document = answer("register", volume.fixed, volume.moving, *options)
    assert {"transform.h5", "warped.nii.gz", "pairs/"} <= set(document["files"])
    metric = document["metrics"]["landmark_error_mean"]
    assert metric["value"] < 0.6 * metric["before"]


def test_a_failed_verdict_writes_and_exits_with_3(flat, tmp_path, monkeypatch, quick):
    from dataclasses import replace

    from roireg.jobs import registering

    usual = registering.register

    def failing(*arguments, **options):
        return replace(usual(*arguments, **options), verdict="failed", reasons=("nothing fits",))

    monkeypatch.setattr(registering, "register", failing)
    result = run("register", flat.fixed, flat.moving, *quick, "-o", tmp_path / "o")
    assert result.exit_code == 3
    assert (tmp_path / "o" / "transform.h5").is_file()
    assert "nothing fits" in result.stdout
    assert "must not be used as it is: the reasons are above" in result.stderr
    quiet = run("register", flat.fixed, flat.moving, *quick, "-o", tmp_path / "o", "-q")
    assert (quiet.exit_code, quiet.stdout) == (3, "")
    assert quiet.stderr == "failed: the result must not be used as it is: nothing fits\n"


def test_a_failure_while_writing_leaves_nothing(flat, tmp_path, monkeypatch, quick):
    from roireg.core.errors import OutputError
    from roireg.jobs import registering

    def full(*arguments):
        raise OutputError("out: no space left")

    monkeypatch.setattr(registering, "_write_carried", full)
    arguments = (flat.fixed, flat.moving, *quick, "-o", tmp_path / "a" / "o")
    fails("register", *arguments, words=("no space left",))
    assert files_in(tmp_path) == set()


@pytest.mark.usefixtures("cheap_presets")
def test_demo_measures_the_true_error(tmp_path, monkeypatch):
    from roireg.app import demo
    from roireg.synth import make_pair

    # A coarse phantom: what is tested is the path, not the accuracy.
    monkeypatch.setattr(demo, "make_pair", lambda ndim, seed: make_pair(ndim, seed=seed, shape=(48, 64)))
    document = answer("demo", "-o", tmp_path / "demo")
    truth = document["truth"]["displacement_error_mean"]
    assert truth["value"] < truth["before"]
    inputs = tmp_path / "demo" / "inputs"
    assert {f.name for f in inputs.iterdir()} >= {"fixed.png", "moving.png", "true_transform.h5", "fixed_points.csv"}
    assert (tmp_path / "demo" / "report.html").is_file()
    options = ("--fixed", inputs / "fixed.png", "--truth", inputs / "true_transform.h5")
    options += ("--fixed-mask", inputs / "fixed_labels.png")
    scored = answer("evaluate", tmp_path / "demo", *options)["metrics"]["displacement_error_mean"]
    assert scored["value"] == pytest.approx(truth["value"], rel=0.02)

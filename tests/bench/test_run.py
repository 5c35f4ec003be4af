"""The whole harness on two tiny sets: rows, resuming, several jobs, pictures, table and page."""

import math
import os
import shutil
import sys
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import SimpleITK as sitk

from bench.scenes import Broken, LookingAround, Shift, change_json, flat_pair, write_both, write_set
from roireg.core.errors import InputError
from roireg.io import PointSet, write_points
from roireg_bench.cases import load_folder
from roireg_bench.methods import make_method
from roireg_bench.page import render_page
from roireg_bench.results import Row, read_rows, write_rows
from roireg_bench.run import THUMBNAILS, run_benchmark
from roireg_bench.table import markdown
from roireg_bench.thumbnails import GAP, thumbnail_path


@pytest.fixture
def flat(tmp_path):
    return load_folder(write_set(tmp_path / "flat", ndim=2))


def test_two_sets_two_methods(tmp_path):
    folders, results = write_both(tmp_path / "data"), tmp_path / "out" / "results.csv"
    events = []
    methods = [make_method("demons"), Shift(offset=0.0)]
    rows = run_benchmark(folders, methods, results, progress=events.append)

    assert [row.place for row in rows] == [(s, "one", m) for s in ("deep", "flat") for m in ("demons", "shift")]
    assert [event.fraction for event in events] == [0.25, 0.5, 0.75, 1.0]
    deep, deep_shift, flat, flat_shift = rows
    for row in (deep, flat):
        assert row.status == "ok" and row.change("dice_mean") > 0.05 and row.change("landmark_error_mean") < -1
        assert row.seconds > 0 and row.cpu_seconds > 0 and row.peak_mb > 50
    # A 2D transform for 3D images is the method's failure, with the reason.
    assert deep_shift.status == "failed" and "2D but the images are 3D" in deep_shift.reason and not deep_shift.after
    assert flat_shift.change("dice_mean") == 0 and flat_shift.verdict == "uncertain" and flat_shift.seconds == 1.5
    assert (deep.unit, flat.unit) == ("mm", "px")
    assert deep.before == deep_shift.before and "folding_percent" in deep.after

    stored = {row.place: row for row in read_rows(results)}
    assert set(stored) == {row.place for row in rows}
    for row in rows:
        assert stored[row.place].same_work(row) and stored[row.place].reason == row.reason
        assert stored[row.place].after == pytest.approx(row.after, rel=1e-4)

    assert len(deep.dice_labels) > 3 and np.mean(list(deep.dice_labels.values())) == pytest.approx(
        deep.after["dice_mean"]
    )
    assert (deep.ndim, flat.ndim) == (3, 2) and 0 <= deep.startup_seconds < 60

    page = markdown(rows, folders, heading="Title")
    assert page.startswith("# Title") and "## deep" in page and "## flat" in page and "synthetic, 2D, phantom" in page
    assert f"| before | 1 | {flat.before['dice_mean']:.3f} |" in page
    assert f"| demons | 1 | {flat.after['dice_mean']:.3f} |" in page
    assert "| shift | 0 of 1 |" in page and "- shift, one: failed, the transform is 2D" in page

    html = render_page(rows, folders, thumbnails=tmp_path / "out" / THUMBNAILS, heading="Title")
    assert html.count("data:image/jpeg") == 3  # every run that worked is among the worst five of its method
    assert "no result" in html and html.count("the transform is 2D") == 2  # in its set and among the worst
    assert "http://" not in html and "https://" not in html


def test_a_run_goes_on_where_it_stopped(tmp_path, flat):
    results = tmp_path / "results.csv"
    first = run_benchmark([flat], [Shift(), Broken("raises")], results)
    again = run_benchmark([flat], [Shift(), Broken("dies", name="other")], results)
    assert again[0].session == first[0].session and again[0].seconds == 1.5
    assert {row.method for row in read_rows(results)} == {"shift", "broken", "other"}
    events, text = [], results.read_bytes()
    run_benchmark([flat], [Shift(), Broken("raises")], results, progress=events.append)
    assert [event.detail for event in events] == ["done before"] * 2 and results.read_bytes() == text

    def offsets(method, **options):
        return run_benchmark([flat], [method], results, **options)[0].after["landmark_error_mean"]

    start = offsets(Shift())
    # Changed settings, version, threads or files are new work; the old row of the same place goes.
    assert offsets(Shift(offset=9.0)) != pytest.approx(start, abs=1e-3)
    assert len([row for row in read_rows(results) if row.method == "shift"]) == 1
    assert run_benchmark([flat], [Shift(version="2")], results)[0].version == "2"
    assert run_benchmark([flat], [Shift(version="2")], results, threads=2)[0].threads == 2
    write_points(flat.path / "moving_points.csv", PointSet(flat_pair().fixed_points))
    assert offsets(Shift(version="2"), threads=2) == pytest.approx(0, abs=1e-6)


def test_failures_are_kept_unless_tried_again(tmp_path, flat):
    results = tmp_path / "results.csv"
    method = Broken("writes nonsense")
    row = run_benchmark([flat], [method], results)[0]
    assert row.status == "failed" and "wrong.h5: this is no transform" in row.reason
    write_rows(results, [replace(row, reason="before")])
    assert run_benchmark([flat], [method], results)[0].reason == "before"
    assert run_benchmark([flat], [method], results, retry_failed=True)[0].reason == row.reason


def test_what_was_stopped_too_early_gets_the_time_it_is_given_now(tmp_path, flat):
    results = tmp_path / "results.csv"
    run = partial(run_benchmark, [flat], [Broken("sleeps")], results)
    first = run(timeout=0.2)[0]
    assert (first.status, first.reason) == ("failed", "stopped after 0.2 s")
    assert run(timeout=0.2)[0].session == first.session
    assert run(timeout=0.4)[0].reason == "stopped after 0.4 s"
    assert run(timeout=0.3)[0].reason == "stopped after 0.4 s"


def test_measured_anew_are_the_rows_asked_for_alone(tmp_path, flat):
    results = tmp_path / "results.csv"
    write_rows(results, [replace(r, seconds=9.0) for r in run_benchmark([flat], [Shift(), Shift(name="b")], results)])
    assert run_benchmark([flat], [Shift()], results, anew=True)[0].seconds == 1.5
    assert {row.method: row.seconds for row in read_rows(results)} == {"shift": 1.5, "b": 9.0}


def test_a_method_sees_two_images_and_nothing_else(tmp_path, flat):
    (row,) = run_benchmark([flat], [LookingAround()], tmp_path / "results.csv")
    assert row.reason == "ValueError: fixed/fixed.png moving/moving.png"


def test_an_image_in_two_files_is_seen_whole(tmp_path):
    folder = write_set(tmp_path / "deep", ndim=3)
    sitk.WriteImage(sitk.ReadImage(str(folder / "moving.nii.gz")), str(folder / "moving.mhd"))
    (folder / "voxels").mkdir()
    (folder / "moving.raw").rename(folder / "voxels" / "other.raw")
    header = (folder / "moving.mhd").read_text(encoding="utf-8")
    (folder / "moving.mhd").write_text(header.replace("moving.raw", "voxels/other.raw"), encoding="utf-8")
    change_json(folder, moving="moving.mhd")
    methods = [LookingAround(), make_method("demons")]
    looked, moved = run_benchmark([load_folder(folder)], methods, tmp_path / "results.csv")
    assert looked.reason == "ValueError: fixed/fixed.nii.gz moving/moving.mhd moving/voxels/other.raw"
    assert moved.change("dice_mean") > 0


def read_example():
    row = Row("flat", "one", "ours", "1", "s", "c", 1, 1, "now")
    return replace(
        row,
        before={"dice_mean": 0.7},
        after={"dice_mean": 0.75, "folding_percent": 0.0, "sdlogj": 0.1},
        dice_labels={1: 0.5, 7: 1.0},
    )


def test_rows_are_read_as_they_were_written(tmp_path):
    row = replace(read_example(), ndim=2, jobs=3, startup_seconds=0.5, status="failed", reason='a "b", c\nd')
    write_rows(tmp_path / "rows.csv", [row])
    (found,) = read_rows(tmp_path / "rows.csv")
    names = [f.name for f in fields(Row) if f.name not in ("seconds", "cpu_seconds", "peak_mb")]
    assert {n: getattr(found, n) for n in names} == {n: getattr(row, n) for n in names}
    assert all(math.isnan(v) for v in (found.seconds, found.cpu_seconds, found.peak_mb))


def test_what_is_not_installed_is_a_row_and_is_tried_again(tmp_path, flat):
    results = tmp_path / "results.csv"
    rows = run_benchmark([flat], [Broken("is not there"), Shift()], results)
    assert [row.status for row in rows] == ["unavailable", "ok"]
    assert rows[0].reason == "not installed: pip install missing"
    events = []
    run_benchmark([flat], [Broken("is not there"), Shift()], results, progress=events.append)
    assert [e.detail for e in events] == ["unavailable: not installed: pip install missing", "done before"]


def test_several_pairs_at_once_give_the_same_rows_and_a_broken_case_is_told(tmp_path, monkeypatch):
    pytest.importorskip("distributed")
    # Processes of tasks import the methods of this test.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[1]), *sys.path]))
    folders = write_both(tmp_path / "data")
    methods = [Shift(), Broken("raises")]
    alone = run_benchmark(folders, methods, tmp_path / "a" / "results.csv")
    (tmp_path / "b").mkdir()
    write_rows(tmp_path / "b" / "results.csv", [replace(row, jobs=2) for row in alone if row.pair == "one"][:1])
    broken = replace(folders[1], path=tmp_path / "broken")
    shutil.copytree(folders[1].path, broken.path)
    (broken.path / "fixed_labels.png").write_text("no image", encoding="utf-8")
    events = []
    with pytest.raises(InputError, match=r"flat one: .*fixed_labels.*all others were measured"):
        run_benchmark([folders[0], broken], methods, tmp_path / "b" / "results.csv", jobs=2, progress=events.append)
    beside = read_rows(tmp_path / "b" / "results.csv")
    assert [row.jobs for row in beside] == [2, 2] and [row.jobs for row in alone] == [1] * 4
    again = {row.place: row for row in beside}
    for a in read_rows(tmp_path / "a" / "results.csv")[:2]:
        b = again[a.place]
        assert (a.status, a.reason, a.after, a.before) == (b.status, b.reason, b.after, b.before)
    assert "done before" in {e.detail for e in events} and events[-1].fraction == 1
    assert any(e.detail.startswith("left out: ") for e in events)


def test_a_broken_case_is_told_once_the_others_are_measured(tmp_path):
    deep, flat = write_both(tmp_path / "data")
    (flat.path / "fixed_labels.png").write_text("no image", encoding="utf-8")
    results, events = tmp_path / "results.csv", []
    with pytest.raises(InputError, match=r"flat one: .*fixed_labels.*all others were measured"):
        run_benchmark([flat, deep], [Shift(ndim=3), Broken("raises")], results, progress=events.append)
    assert {row.place[0] for row in read_rows(results)} == {"deep"}
    assert events[-1].fraction == 1 and any(e.detail.startswith("left out: ") for e in events)


def test_a_label_map_on_another_grid_is_no_truth(tmp_path, flat):
    labels = PIL.Image.open(flat.path / "fixed_labels.png")
    labels.resize((40, 30), PIL.Image.Resampling.NEAREST).save(flat.path / "fixed_labels.png")
    with pytest.raises(InputError, match="lies on another grid than its image"):
        run_benchmark([flat], [Shift()], tmp_path / "results.csv")


def test_pictures_are_kept_for_good_runs_alone(tmp_path, flat):
    results = tmp_path / "results.csv"
    run_benchmark([flat], [Shift(name="a / b")], results)
    (file,) = (tmp_path / THUMBNAILS).iterdir()
    assert file == thumbnail_path(tmp_path / THUMBNAILS, ("flat", "one", "a / b"))
    panels = np.asarray(PIL.Image.open(file)).astype(float)
    side = (panels.shape[1] - 3 * GAP) // 4
    first, second, third = (panels[:, i * (side + GAP) : i * (side + GAP) + side] for i in range(3))
    # The method moves nothing: before and after are alike, and unlike the fixed image.
    assert np.abs(second - third).mean() < 4 < np.abs(first - second).mean()
    run_benchmark([flat], [Broken("raises", name="a / b")], results)
    assert list((tmp_path / THUMBNAILS).iterdir()) == []


def test_wrong_use_is_refused(tmp_path, flat):
    with pytest.raises(InputError, match="methods need at least one and each name once, found shift, shift"):
        run_benchmark([flat], [Shift(), Shift(version="2")], tmp_path / "results.csv")
    with pytest.raises(InputError, match="threads is 1 or more, found 0"):
        run_benchmark([flat], [Shift()], tmp_path / "results.csv", threads=0)
    with pytest.raises(InputError, match="jobs is 1 or more, found 0"):
        run_benchmark([flat], [Shift()], tmp_path / "results.csv", jobs=0)
    (tmp_path / "other.csv").write_text("x,y\n1,2\n", encoding="utf-8")
    with pytest.raises(InputError, match="not a results file of this version"):
        run_benchmark([flat], [Shift()], tmp_path / "other.csv")
    write_rows(tmp_path / "rows.csv", [read_example()])
    text = (tmp_path / "rows.csv").read_text(encoding="utf-8")
    (tmp_path / "rows.csv").write_text(text.replace("0.75", "much"), encoding="utf-8")
    with pytest.raises(InputError, match=r"rows\.csv: line 2: could not convert"):
        read_rows(tmp_path / "rows.csv")

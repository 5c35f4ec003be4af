"""The measurement of prompts: where they are put, what counts as right, and the tables."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest

from bench.scenes import bench, write_set
from roireg.core.errors import InputError
from roireg.core.grid import Grid
from roireg_bench.cases import load_folder
from roireg_bench.prompt_tables import (
    PromptRow,
    calibration,
    markdown,
    plot_calibration,
    read_prompts,
    right,
    transfer_table,
    write_prompts,
)
from roireg_bench.prompts import METHODS, label_point, measure

ROW = PromptRow(
    "s", "p", "heart", "default", 0.9, 0.8, True, True, 0.9, True, 0.7, 0.85, True, 0.8, 0.7, 0.9, 0.0, 0.2, "1"
)


def test_a_prompt_is_put_at_the_centroid_or_well_inside():
    grid = Grid.pixels((41, 41))
    distance = np.linalg.norm(grid.points() - 20, axis=1).reshape(41, 41)
    np.testing.assert_allclose(label_point(distance < 9, grid), [20, 20])
    ring = (distance > 8) & (distance < 16)
    point = label_point(ring, grid)
    radius = np.linalg.norm(point - 20)
    # A quarter of the largest depth (about 4 pixels) from the inner border of the ring.
    assert 8.5 < radius < 11


def test_right_is_three_quarters_of_what_was_possible():
    assert right(ROW)
    assert right(replace(ROW, dice=0.61))
    assert not right(replace(ROW, dice=0.59))


def test_calibration_counts_by_tenth_and_leaves_out_hopeless_regions():
    rows = [
        replace(ROW, confidence=0.81),
        replace(ROW, confidence=0.89, dice=0.1),
        replace(ROW, confidence=1.0),
        replace(ROW, confidence=0.05, source_dice=0.05),
    ]
    table = calibration(rows)
    assert [(low, n, share) for low, _, n, _, share in table] == [(0.8, 2, 0.5), (0.9, 1, 1.0)]
    assert table[0][3] == pytest.approx(0.85)


def test_the_page_has_a_line_per_method_and_the_calibration(tmp_path):
    rows = [ROW, replace(ROW, method="guide: none", found=False, answered=False, dice=0.0, inside=0.0)]
    page = markdown(rows, notes="note")
    assert "## s" in page and "note" in page
    lines = [line for line in page.splitlines() if line.startswith("| default")]
    assert lines == [
        "| default | 1 | 100 % | 100 % | 100 % of 1 | 100 % | 0.700 | 0.800 | 0 % | 100 % | 100 % of 1 | 0.20 |"
    ]
    assert (
        "| guide: none | 1 | 100 % | 0 % | 0 % of 1 | 100 % | 0.000 | 0.800 | 100 % | 0 % | – of 0 | 0.20 |" in page
    )
    assert "## Calibration: default" in page and "0.8–0.9" in page
    plot_calibration(rows, tmp_path / "c.png")
    assert (tmp_path / "c.png").stat().st_size > 5000


def test_a_table_can_have_a_line_per_set():
    lines = transfer_table([ROW, replace(ROW, set="t", dice=0.5)], by="set").splitlines()
    assert lines[0].startswith("| set | prompts |")
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| s", "| t"]


def test_rows_are_read_as_they_were_written(tmp_path):
    rows = [ROW, replace(ROW, label="left, lung", found=False, returned_distance=float("inf"))]
    write_prompts(tmp_path / "rows.csv", rows)
    assert read_prompts(tmp_path / "rows.csv") == rows
    (tmp_path / "other.csv").write_text("set,pair\na,b\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"other.csv: no table of prompts"):
        read_prompts(tmp_path / "other.csv")


def test_a_set_is_measured_and_written(tmp_path):
    write_set(tmp_path / "flat", ndim=2)
    out = tmp_path / "out"
    methods = "guide: same place,guide: none"
    done = bench("prompts", tmp_path, "--sets", "flat", "--methods", methods, "-o", out)
    assert done.exit_code == 0, done.output
    with (out / "prompts.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    labels = {r["label"] for r in rows}
    assert len(labels) >= 3 and len(rows) == 2 * len(labels)
    guided = [float(r["dice"]) for r in rows if r["method"] == "guide: same place"]
    assert max(guided) > 0.5
    assert "guide: same place" in (out / "prompts.md").read_text(encoding="utf-8")


def test_unknown_methods_and_sets_are_named(tmp_path):
    write_set(tmp_path / "flat", ndim=2)
    with pytest.raises(InputError, match="unknown method magic"):
        list(measure([load_folder(tmp_path / "flat")], ["magic"]))
    failed = bench("prompts", tmp_path, "--sets", "deep", "-o", tmp_path / "out")
    assert failed.exit_code == 2 and "deep" in failed.stderr
    assert not (tmp_path / "out").exists()
    assert "default" in METHODS


def test_no_name_of_a_method_breaks_a_comma_separated_list():
    assert not [name for name in METHODS if "," in name]

"""The whole harness on two tiny sets: rows, resuming, the table, the command."""

from dataclasses import replace

import pytest

from bench.scenes import Broken, Shift, flat_pair, write_both, write_set
from roireg.bench import Row, load_folder, make_method, markdown, read_rows, run_benchmark, write_rows
from roireg.bench.__main__ import main
from roireg.bench.table import got_worse
from roireg.core.errors import InputError
from roireg.io import PointSet, write_points


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

    page = markdown(rows, folders, heading="Title")
    assert page.startswith("# Title") and "## deep" in page and "## flat" in page
    assert f"{flat.before['dice_mean']:.3f} → {flat.after['dice_mean']:.3f}" in page
    assert "| shift | 0 of 1 |" in page and "- shift, one: the transform is 2D" in page
    assert f" {1.5 / flat.seconds:.2f} |" in page


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
    assert row.status == "failed" and "wrong.h5: this is not a transform" in row.reason
    write_rows(results, [replace(row, reason="before")])
    assert run_benchmark([flat], [method], results)[0].reason == "before"
    assert run_benchmark([flat], [method], results, retry_failed=True)[0].reason == row.reason


def test_who_got_worse():
    row = read_example()
    assert not got_worse(row)
    assert got_worse(replace(row, after={"dice_mean": 0.679}))
    assert not got_worse(replace(row, after={"dice_mean": 0.681}))
    points = replace(row, before={"landmark_error_mean": 2.0}, after={"landmark_error_mean": 2.01})
    assert got_worse(points) and not got_worse(replace(points, after={"landmark_error_mean": 2.0}))


def test_the_table_counts_and_names_the_worse(flat):
    row = replace(read_example(), verdict="ok", seconds=4.0)
    rows = [row] + [
        replace(row, pair=f"p{i}", after=row.after | {"dice_mean": 0.7 - 0.1 * i}, verdict="failed") for i in (1, 2)
    ]
    peers = [replace(r, method="demons", seconds=2.0, session="then", verdict="") for r in rows]
    page = markdown([*rows, *peers], [flat])
    line = next(line for line in page.splitlines() if line.startswith("| ours |") and "→" in line)
    assert "0.700 → 0.617" in line and "-0.200 Dice (p2)" in line and "2: p1 (failed), p2 (failed)" in line
    assert "| 2.00* |" in line
    assert "| ours | 3 | 0 | 2 | 0 | 1 ok, 2 failed |" in page and "| demons | 3 | 0 | 2 | 2 |" in page


def read_example():
    row = Row("flat", "one", "ours", "1", "s", "c", 1, 1, "now")
    return replace(
        row,
        before={"dice_mean": 0.7},
        after={"dice_mean": 0.75, "folding_percent": 0.0, "sdlogj": 0.1},
    )


def test_wrong_use_is_refused(tmp_path, flat):
    with pytest.raises(InputError, match="methods need at least one and each name once, found shift, shift"):
        run_benchmark([flat], [Shift(), Shift(version="2")], tmp_path / "results.csv")
    with pytest.raises(InputError, match="threads is 1 or more, found 0"):
        run_benchmark([flat], [Shift()], tmp_path / "results.csv", threads=0)
    (tmp_path / "other.csv").write_text("x,y\n1,2\n", encoding="utf-8")
    with pytest.raises(InputError, match="not a results file of this version"):
        run_benchmark([flat], [Shift()], tmp_path / "other.csv")
    write_rows(tmp_path / "rows.csv", [read_example()])
    text = (tmp_path / "rows.csv").read_text(encoding="utf-8")
    (tmp_path / "rows.csv").write_text(text.replace("0.75", "much"), encoding="utf-8")
    with pytest.raises(InputError, match=r"rows\.csv: line 2: could not convert"):
        read_rows(tmp_path / "rows.csv")


def test_the_command_registers_with_a_preset(tmp_path, flat, capsys, monkeypatch):
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"):
        monkeypatch.setenv(variable, "1")
    out = tmp_path / "out"
    code = main([str(flat.path), "--methods", "default", "--threads", "1", "--limit", "1", "-o", str(out)])
    assert code == 0
    printed = capsys.readouterr().out
    rows = read_rows(out / "results.csv")
    assert len(rows) == 1 and rows[0].status == "ok" and rows[0].verdict in ("ok", "uncertain", "failed")
    assert rows[0].change("landmark_error_mean") < 0
    assert "[100%] flat one default: Dice" in printed and (out / "table.md").read_text(encoding="utf-8") in printed


def test_the_command_says_what_is_wrong(tmp_path, flat, capsys):
    assert main([str(flat.path), "--check"]) == 0
    assert capsys.readouterr().out == "flat: 1 pairs, all files fit\n"
    for arguments, words in (
        ([str(tmp_path / "gone")], "no such folder"),
        ([str(flat.path), "--methods", "ants", "-o", str(tmp_path / "out")], "no method 'ants'"),
        ([str(tmp_path), "--sets", "deep"], "no case set deep"),
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and words in error and "Traceback" not in error
    assert not (tmp_path / "out").exists()
    with pytest.raises(SystemExit) as caught:
        main([str(flat.path), "--limit", "0"])
    assert caught.value.code == 2

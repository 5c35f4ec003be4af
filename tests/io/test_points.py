"""Point files: exact round trips, coordinate systems, malformed input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from roireg.core.errors import InputError
from roireg.io import HeaderWarning, PointSet, pair_points, read_points, write_points

coordinates = st.floats(-1e4, 1e4, allow_nan=False)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    points=st.integers(2, 3).flatmap(
        lambda d: arrays(float, st.tuples(st.integers(1, 5), st.just(d)), elements=coordinates)
    ),
    named=st.booleans(),
)
def test_csv_round_trip_is_exact(tmp_path: Path, points: np.ndarray, named: bool) -> None:
    names = tuple(f'p,"{i}"' for i in range(len(points))) if named else ()
    write_points(tmp_path / "p.csv", PointSet(points, names))
    back = read_points(tmp_path / "p.csv")
    assert np.array_equal(back.points, points)
    assert back.names == (names or ("",) * len(points))


@pytest.mark.parametrize("name", ["p.mrk.json", "p.fcsv"])
def test_slicer_round_trip_is_exact(tmp_path: Path, name: str) -> None:
    points = PointSet(np.random.default_rng(0).normal(size=(4, 3)) * 100, ("a", "b, c", "", "Ä"))
    write_points(tmp_path / name, points)
    back = read_points(tmp_path / name)
    assert np.array_equal(back.points, points.points)
    assert back.names == points.names


@pytest.mark.parametrize(("header", "sign"), [("RAS", -1), ("0", -1), ("LPS", 1), ("1", 1), (None, -1)])
def test_fcsv_coordinate_systems(tmp_path: Path, header: str | None, sign: int) -> None:
    lines = ["# Markups fiducial file version = 4.10"]
    if header is not None:
        lines.append(f"# CoordinateSystem = {header}")
    lines += [
        "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID",
        "n1,1,2,3,0,0,0,1,1,1,0,tip,,",
    ]
    (tmp_path / "p.fcsv").write_text("\n".join(lines))
    back = read_points(tmp_path / "p.fcsv")
    assert back.points.tolist() == [[sign * 1.0, sign * 2.0, 3.0]]
    assert back.names == ("tip",)


@pytest.mark.parametrize(("system", "sign"), [("RAS", -1), ("LPS", 1)])
def test_markups_coordinate_systems(tmp_path: Path, system: str, sign: int) -> None:
    control = {"label": "tip", "position": [1, 2, 3]}
    document = {"markups": [{"coordinateSystem": system, "controlPoints": [control]}, {"controlPoints": [control]}]}
    (tmp_path / "p.mrk.json").write_text(json.dumps(document))
    assert read_points(tmp_path / "p.mrk.json").points.tolist() == [[sign * 1.0, sign * 2.0, 3.0], [1.0, 2.0, 3.0]]


def test_a_comma_at_the_end_and_a_coded_unit_are_no_reason_to_refuse(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("x,y\n1,2,\n3,4, ,\n")
    assert read_points(tmp_path / "p.csv").points.tolist() == [[1.0, 2.0], [3.0, 4.0]]
    markup = {"coordinateUnits": ["mm", "UCUM", "millimeter"], "controlPoints": [{"position": [1, 2, 3]}]}
    (tmp_path / "p.mrk.json").write_text(json.dumps({"markups": [markup]}))
    assert read_points(tmp_path / "p.mrk.json").points.tolist() == [[1.0, 2.0, 3.0]]


def test_csv_dialects(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("\ufeffLabel;Y;X\r\nnose;2;1\r\n\r\nchin;4;3\r\n", encoding="utf-8")
    back = read_points(tmp_path / "p.csv")
    assert back.points.tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert back.names == ("nose", "chin")
    (tmp_path / "ants.csv").write_text("x,y,z,t,label\n1,2,3,0,7\n")
    assert read_points(tmp_path / "ants.csv").points.tolist() == [[1.0, 2.0, 3.0]]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.csv", "1,2\n3,4\n", "first line names the columns"),
        ("p.csv", "x,z\n3,4\n", "first line names the columns"),
        ("p.csv", "x,y\n", "holds no points"),
        ("p.csv", "", "holds no points"),
        ("p.csv", "x,y\n1,2\n1\n", "line 3 has 1 columns, expected 2"),
        ("p.csv", "x,y\n1,5,2,0\n", "line 2 has 4 columns, expected 2"),
        ("p.csv", "x,y,x\n1,2,3\n", "names the column x twice"),
        ("p.csv", "x,y\n1_000,2\n", "line 2 has '1_000' where a finite number"),
        ("p.csv", "x;y\n1,5;2,5\n", "line 2 has '1,5' where a finite number"),
        ("p.csv", "x,y\n1,a\n", "line 2 has 'a' where a finite number"),
        ("p.csv", "x,y\n1,nan\n", "line 2 has 'nan' where a finite number"),
        ("p.fcsv", "# CoordinateSystem = XYZ\n", "LPS or RAS, found ' XYZ'"),
        ("p.fcsv", "# columns = id,x,y\n", "must name x, y and z"),
        ("p.fcsv", "a,1\n", "line 1 has 2 columns"),
        ("p.mrk.json", "{", "line 1, column 2 is not valid JSON"),
        ("p.mrk.json", "[]", "a list 'markups'"),
        ("p.mrk.json", '{"markups": [{"coordinateSystem": "ABC"}]}', "LPS or RAS, found 'ABC'"),
        ("p.mrk.json", '{"markups": [{"controlPoints": [{"label": "F-1"}]}]}', r"1 \(F-1\) has no position"),
        ("p.mrk.json", '{"markups": [{"controlPoints": [{"position": [1, 2, null]}]}]}', "finite number"),
        ("p.xyz", "x,y\n1,2\n", r"found '\.xyz'"),
    ],
)
def test_malformed(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message) as error:
        read_points(tmp_path / name)
    assert str(tmp_path / name) in str(error.value)


def test_unusable_places_and_values(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_points(tmp_path / "missing.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(InputError, match="cannot be read as text"):
        read_points(tmp_path / "binary.csv")
    flat = PointSet(np.zeros((1, 2)))
    for name, message in (("p.fcsv", "3D, found 2D"), ("p.mrk.json", "3D, found 2D"), ("p.doc", r"found '\.doc'")):
        with pytest.raises(InputError, match=message):
            write_points(tmp_path / name, flat)
    with pytest.raises(InputError, match=r"\(N, 2\) or \(N, 3\)"):
        PointSet(np.zeros((3, 4)))
    with pytest.raises(InputError, match="as many names"):
        PointSet(np.zeros((3, 2)), ("a",))
    with pytest.raises(InputError, match="point 2 has coordinates not finite"):
        PointSet(np.array([[0.0, 0.0], [np.nan, 0.0]]))


# -- points of two files ----------------------------------------------------------------------------


def _markups(path: Path, points: list[tuple[str, list | None, str]]) -> Path:
    controls = [{"label": n, "position": p, "positionStatus": s} for n, p, s in points]
    path.write_text(json.dumps({"markups": [{"coordinateSystem": "RAS", "controlPoints": controls}]}))
    return path


@pytest.mark.parametrize("status", ["undefined", "preview", "missing"])
def test_points_that_are_not_placed_are_left_out_and_told(tmp_path: Path, status: str) -> None:
    file = _markups(tmp_path / "p.mrk.json", [("A", [1, 2, 3], "defined"), ("B", [0, 0, 0], status), ("C", [4, 5, 6], "defined")])  # fmt: skip  # noqa: E501
    with pytest.warns(HeaderWarning, match=r"p\.mrk\.json: points that were not placed are left out: B"):
        found = read_points(file)
    assert found.names == ("A", "C") and found.rows == (0, 2)
    assert found.points.tolist() == [[-1, -2, 3], [-4, -5, 6]]
    with pytest.raises(InputError, match="no points that are placed"):
        read_points(_markups(tmp_path / "q.mrk.json", [("A", None, status)]))


def test_points_of_fcsv_that_are_not_placed_are_left_out_and_told(tmp_path: Path) -> None:
    """Slicer 5 says so in a column beyond those its header names."""
    header = "# CoordinateSystem = LPS\n# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n"
    rows = [f"{i},{i},2,3,0,0,0,1,1,1,0,P{i},,,{state},0\n" for i, state in enumerate((2, 0, 1, 2, 3))]
    (tmp_path / "p.fcsv").write_text(header + "".join(rows))
    with pytest.warns(HeaderWarning, match="not placed are left out: P1, P2, P4"):
        points = read_points(tmp_path / "p.fcsv")
    assert (points.names, points.rows) == (("P0", "P3"), (0, 3))
    np.testing.assert_array_equal(points.points, [[0, 2, 3], [3, 2, 3]])
    (tmp_path / "q.fcsv").write_text(header + rows[1])
    with pytest.raises(InputError, match="no points that are placed"):
        read_points(tmp_path / "q.fcsv")


def test_rows_whose_names_differ_are_told() -> None:
    fixed, moving = PointSet(np.eye(3), ("A", "A", "B")), PointSet(2 * np.eye(3), ("B", "A", "A"))
    with pytest.warns(HeaderWarning, match=r"row by row although names differ \(A with B, B with A\)"):
        first, second = pair_points(fixed, moving)
    np.testing.assert_array_equal(2 * first.points, second.points)


def test_equal_names_in_another_order_are_paired_by_name() -> None:
    fixed = PointSet(np.diag([1.0, 2, 3]), ("A", "B", "C"))
    moving = fixed.take([2, 0, 1])
    with pytest.warns(HeaderWarning, match="another order"):
        first, second = pair_points(fixed, moving)
    assert first.names == second.names == ("A", "B", "C")
    np.testing.assert_array_equal(first.points, second.points)


def test_names_without_a_partner_are_left_out_and_told() -> None:
    fixed, moving = PointSet(np.eye(3), ("A", "B", "C")), PointSet(np.ones((2, 3)), ("C", "A"))
    with pytest.warns(HeaderWarning) as told:
        first, second = pair_points(fixed, moving, fixed_name="f.csv")
    assert first.names == second.names == ("A", "C")
    assert any("f.csv: without a partner on the other side, left out: B" in str(w.message) for w in told)


@pytest.mark.parametrize("names", [("", "", ""), ("P", "P", "P"), ("X", "Y", "Z")])
def test_without_common_names_rows_correspond(names: tuple[str, ...]) -> None:
    fixed, moving = PointSet(np.eye(3), names), PointSet(2 * np.eye(3), ("", "", ""))
    first, second = pair_points(fixed, moving)
    np.testing.assert_array_equal(2 * first.points, second.points)


def test_a_row_that_is_not_placed_has_no_partner() -> None:
    fixed, moving = PointSet(np.eye(3)[:2], rows=(0, 2)), PointSet(np.eye(3)[1:], rows=(1, 2))
    with pytest.warns(HeaderWarning, match="left out: row"):
        first, second = pair_points(fixed, moving)
    np.testing.assert_array_equal(first.points, [[0, 1, 0]])
    np.testing.assert_array_equal(second.points, [[0, 0, 1]])


def test_points_that_do_not_fit_each_other() -> None:
    with pytest.raises(InputError, match="2D, those of fixed points 3D"):
        pair_points(PointSet(np.eye(3)), PointSet(np.eye(2)))
    with pytest.raises(InputError, match="found 2 points but 3"):
        pair_points(PointSet(np.eye(3)), PointSet(np.eye(3)[:2]))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.mrk.json", '{"markups": [{"controlPoints": 5}]}', "is a list of points, found 5"),
        ("p.mrk.json", '{"markups": [{"controlPoints": [7]}]}', "is a list of points"),
        ("p.mrk.json", '{"markups": [{"controlPoints": [{"position": [%s, 1, 2]}]}]}' % ("9" * 400), "finite number"),
        ("p.mrk.json", '{"markups": [{"controlPoints": [{"position": [%s, 1, 2]}]}]}' % ("9" * 5000), "digits"),
        ("p.mrk.json", '{"markups": [{"controlPoints": [{"position": [true, 1, 2]}]}]}', "has True"),
        ("p.mrk.json", '{"markups": ' + "[" * 50_000, "nested too deeply"),
        (
            "p.mrk.json",
            '{"markups": [{"controlPoints": [{"label": "\\ud800", "position": [1, 2, 3]}]}]}',
            "surrogate",
        ),
        ("p.mrk.json", '{"markups": [{"coordinateUnits": "m", "controlPoints": [{"position": [1, 2, 3]}]}]}', "'m'"),
        ("p.csv", "x,y,name\n1,2," + "a" * 200_000 + "\n", "line 2 is no row of a table"),
        ("p.csv", "a" * 200_000 + "\n", "is no row of a table"),
    ],
    ids=range(10),
)
def test_hostile_points_end_in_a_sentence(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message) as error:
        read_points(tmp_path / name)
    assert len(str(error.value)) < 600 and "\n" not in str(error.value)

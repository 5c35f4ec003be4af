"""The commands of ``bench``: what they print and write, and the sentence for what cannot be done."""

import json
import subprocess
import sys
from dataclasses import replace
from functools import partial

import pytest
import typer

from bench.regions import Regions
from bench.scenes import bench, change_json, write_set
from bench.shift import Shift
from roireg_bench.cases import load_folder
from roireg_bench.cli import bench_app
from roireg_bench.methods import METHODS
from roireg_bench.results import read_rows, write_rows
from roireg_bench.run import THUMBNAILS
from roireg_bench.schema import schema_text

GROUP = typer.main.get_command(bench_app)
VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    for variable in VARIABLES:
        monkeypatch.setenv(variable, "1")


def test_a_run_goes_on_and_its_page_can_be_made_again(tmp_path, monkeypatch):
    # How well the preset does is tested elsewhere.
    monkeypatch.setitem(METHODS, "default", partial(Regions, "default"))
    data, out = write_set(tmp_path / "flat", ndim=2), tmp_path / "out"
    options = ("--methods", "default,demons", "--threads", "1", "--limit", "1", "-o", out)
    first = bench(data, *options)
    assert first.exit_code == 0, first.output
    assert "[ 50%] flat one default: Dice" in first.stdout and "[100%] flat one demons" in first.stdout
    assert {p.name for p in out.iterdir()} == {"results.csv", "table.md", "index.html", THUMBNAILS}
    rows = read_rows(out / "results.csv")
    assert [row.method for row in rows] == ["default", "demons"] and all(row.status == "ok" for row in rows)
    assert rows[0].verdict in ("ok", "uncertain", "failed") and rows[0].change("landmark_error_mean") < 0
    table = (out / "table.md").read_text(encoding="utf-8")
    assert "--methods default,demons --limit 1" in table and "**default**" in table

    again = bench("run", data, *options, "--json")
    document = json.loads(again.stdout)
    assert document["rows"] == {"ok": 2, "failed": 0, "unavailable": 0}
    assert {m["method"] for m in document["methods"]} == {"default", "demons"}
    assert read_rows(out / "results.csv") == rows  # not measured again

    (out / "index.html").unlink()
    assert bench("page", out, "--data", data).exit_code == 0
    page = (out / "index.html").read_text(encoding="utf-8")
    assert "synthetic, 2D, phantom" in page and page.count("data:image/jpeg") == 2


def test_a_fresh_run_measures_what_it_is_asked_for(tmp_path):
    data, out = write_set(tmp_path / "flat", ndim=2), tmp_path / "out"
    options = ("--methods", "demons", "--threads", "1", "-o", out)
    bench(data, *options)
    (row,) = read_rows(out / "results.csv")
    # No run takes so much memory: a row that still says so was not measured again.
    marked = replace(row, peak_mb=1e9)
    write_rows(out / "results.csv", [marked, replace(marked, set="old")])
    bench(data, *options)
    assert {row.peak_mb for row in read_rows(out / "results.csv")} == {1e9}
    bench(data, *options, "--anew")
    rows = {row.set: row for row in read_rows(out / "results.csv")}
    assert rows["old"].peak_mb == 1e9 > rows["flat"].peak_mb
    assert "## old" in (out / "table.md").read_text(encoding="utf-8")


@pytest.mark.skipif(sys.platform == "win32", reason="batch systems run on Unix")
def test_pairs_run_in_batch_jobs(tmp_path, batch_system, monkeypatch):
    pytest.importorskip("dask_jobqueue")
    # A method that takes no time and moves nothing: what is tested is where it runs.
    monkeypatch.setitem(METHODS, "shift", Shift)
    data = write_set(tmp_path / "flat", ndim=2)
    result = bench(data, "--methods", "shift", "--slurm", batch_system / "slurm.yaml", "-o", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    (row,) = read_rows(tmp_path / "out/results.csv")
    assert row.place == ("flat", "one", "shift") and row.status == "ok"
    assert row.change("dice_mean") == row.change("landmark_error_mean") == 0
    job = (batch_system / "jobs.txt").read_text(encoding="utf-8")
    assert "#SBATCH -p short" in job and (batch_system / "cancelled.txt").read_text(encoding="utf-8").split()


def test_check_names_every_problem(tmp_path):
    write_set(tmp_path / "data" / "good", ndim=2)
    bad = write_set(tmp_path / "data" / "bad", ndim=2)
    assert bench("check", tmp_path / "data").stdout == "bad: 1 pairs, all files fit\ngood: 1 pairs, all files fit\n"
    pair = load_folder(bad).content.model_dump()["pairs"][0]
    change_json(bad, labels={"99": "x"}, pairs=[pair, pair | {"id": "two"}])
    result = bench("check", tmp_path / "data")
    assert result.exit_code == 2 and result.stdout == "good: 1 pairs, all files fit\n"
    errors = result.stderr.splitlines()
    assert len(errors) == 2 and "'one'" in errors[0] and "'two'" in errors[1] and "does not name the ids" in errors[0]
    document = json.loads(bench("check", tmp_path / "data", "--json").stdout)
    assert [len(entry["problems"]) for entry in document["sets"]] == [2, 0]


def test_check_looks_at_every_pair_of_every_set(tmp_path):
    first, second = (write_set(tmp_path / "data" / name, ndim=2) for name in ("a", "b"))
    pair = load_folder(first).content.model_dump()["pairs"][0]
    change_json(
        first, pairs=[pair | {"id": "sound"}, *(pair | {"id": i, "fixed": f"{i}.png"} for i in ("gone", "lost"))]
    )
    change_json(second, moving="fixed.png")
    change_json(write_set(tmp_path / "data" / "c", ndim=2), labels={"99": "x"})
    result = bench("check", tmp_path / "data")
    assert result.exit_code == 2
    expected = ("'gone' names gone.png", "'lost' names lost.png", "names fixed.png as fixed and", "not name the ids")
    lines = result.stderr.splitlines()
    assert all(words in line for words, line in zip(expected, lines, strict=True))


@pytest.mark.parametrize("moving, words", [("2", "2.nii.gz as moving, which is missing"), ("1", "name two images")])
def test_adapt_writes_no_set_that_cannot_be_used(tmp_path, moving, words):
    flat, source = write_set(tmp_path / "flat", ndim=3), tmp_path / "src"
    for kind, name in (("imagesTr", "fixed"), ("labelsTr", "fixed_labels"), ("labelsTr", "moving_labels")):
        (source / kind).mkdir(parents=True, exist_ok=True)
        number = "2" if name == "moving_labels" else "1"
        (flat / f"{name}.nii.gz").rename(source / kind / f"{number}.nii.gz")
    pair = {"fixed": "imagesTr/1.nii.gz", "moving": f"imagesTr/{moving}.nii.gz"}
    (source / "dataset.json").write_text(json.dumps({"registration_val": [pair]}), encoding="utf-8")
    result = bench("adapt", "learn2reg", source, "-o", tmp_path / "set")
    (line,) = result.stderr.splitlines()
    assert result.exit_code == 2 and line.startswith("error: ") and words in line
    assert {p.name for p in tmp_path.iterdir()} == {"flat", "src"}


def test_the_schema_is_printed_as_it_is_kept():
    assert bench("check", "--schema").stdout == schema_text()
    assert json.loads(bench("check", "--schema", "--json").stdout) == json.loads(schema_text())


def test_adapt_writes_a_set_that_runs(tmp_path):
    flat = write_set(tmp_path / "flat", ndim=3)
    for kind, name in (("images", "{}.nii.gz"), ("labels", "{}_labels.nii.gz")):
        (tmp_path / "src" / kind).mkdir(parents=True)
        for side in ("fixed", "moving"):
            (flat / name.format(side)).rename(tmp_path / "src" / kind / f"{side}.nii.gz")
    result = bench("adapt", "folder", tmp_path / "src", "-o", tmp_path / "set")
    assert result.exit_code == 0 and "1 pairs" in result.stdout
    assert bench("check", tmp_path / "set").exit_code == 0


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["{tmp}/gone"], "no such folder"),
        (["{tmp}/flat", "--methods", "magic", "-o", "{tmp}/out"], "no method 'magic'"),
        (["{tmp}/flat", "--methods", ",", "-o", "{tmp}/out"], "--methods expects names"),
        (["{tmp}", "--filter", "deep", "-o", "{tmp}/out"], "no pair fits deep"),
        (["{tmp}", "--quick", "-o", "{tmp}/out"], "found none of them"),
        (["{tmp}", "--timeout", "0", "-o", "{tmp}/out"], "--timeout is a number of seconds above 0"),
        (["{tmp}", "-o", "{tmp}/flat/pairs.json"], "a file has this name"),
        (["check"], "name a case set"),
        (["check", "{tmp}/out"], "no such folder"),
        (["adapt", "dicom", "{tmp}", "-o", "{tmp}/out"], "no layout 'dicom'"),
        (["page", "{tmp}/flat"], "found no results.csv"),
    ],
)
def test_mistakes_are_one_sentence_and_leave_nothing(tmp_path, arguments, words):
    write_set(tmp_path / "flat", ndim=2)
    result = bench(*(a.format(tmp=tmp_path) for a in arguments))
    assert result.exit_code == 2
    (line,) = [line for line in result.stderr.splitlines() if not line.startswith("note: ")]
    assert line.startswith("error: ") and words in line
    assert {p.name for p in tmp_path.iterdir()} == {"flat"}


def test_other_mistakes_are_left_to_the_parser(tmp_path):
    for arguments in ([tmp_path, "--limit", "0"], [tmp_path, "--jobs", "0"], [tmp_path, "--nonsense"]):
        assert bench(*arguments).exit_code == 2


@pytest.mark.parametrize("name", ["run", "check", "adapt", "page", "prompts", "speed"])
def test_help_has_a_purpose_an_example_and_explains_every_option(name):
    command = GROUP.commands[name]
    example = command.help.partition("Example:\n")[2].strip().splitlines()
    assert example and all(line.split()[:3] == ["roireg", "bench", name] for line in example)
    known = {o for p in command.params for o in p.opts}
    used = {word for line in example for word in line.split() if word.startswith("-")}
    assert used <= known and all(getattr(p, "help", None) for p in command.params)
    assert bench(name, "--help").exit_code == 0


def test_the_module_is_the_same_command(tmp_path):
    data = write_set(tmp_path / "flat", ndim=2)
    command = [sys.executable, "-m", "roireg_bench", "check", str(data)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "flat: 1 pairs, all files fit\n"), done.stderr

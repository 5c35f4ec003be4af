"""`roireg cohort`: what runs, what is kept, what is told."""

from __future__ import annotations

import csv
import errno
import json
import shutil
import signal
import sys
from pathlib import Path

import pytest

from app.scenes import answer, fails, run
from roireg.cohort import CohortJob
from roireg.cohort.book import Book
from roireg.cohort.engines import Here
from roireg.cohort.process import Ending
from roireg.cohort.running import register_all
from roireg.core.errors import OutputError
from roireg.core.progress import silent


def states(document: dict) -> dict[str, str]:
    return {pair["id"]: pair["state"] for pair in document["pairs"]}


def kept(document: dict) -> set[str]:
    return {pair["id"] for pair in document["pairs"] if pair.get("kept")}


@pytest.fixture
def table(pictures: Path, tmp_path: Path) -> Path:
    """A table of four pairs, of which the file of one is not there."""
    lines = [f"{name},{pictures / name / 'fixed.png'},{pictures / name / 'moving.png'},transform" for name in "abc"]
    lines[0] = lines[0].replace("transform", '"transform,report"')
    lines.insert(1, f"lost,{pictures / 'a' / 'fixed.png'},{pictures / 'none.png'},transform")
    (tmp_path / "four.csv").write_text("\n".join(["id,fixed,moving,outputs", *lines]) + "\n")
    return tmp_path / "four.csv"


@pytest.mark.usefixtures("warm")
def test_a_cohort_from_its_first_run_to_its_last(table, tmp_path, settings, pictures):
    out = tmp_path / "study"
    first = answer("cohort", table, "-o", out, "--config", settings, code=3)
    assert first["counts"]["error"] == 1 and states(first)["lost"] == "error"
    (cause,) = [pair["cause"] for pair in first["pairs"] if pair["id"] == "lost"]
    assert (
        "none.png" in cause and json.loads((out / "failures/lost.json").read_text(encoding="utf-8"))["cause"] == cause
    )
    good = {id: state for id, state in states(first).items() if id != "lost"}
    assert set(good) == set("abc") and set(good.values()) <= {"ok", "uncertain"}
    # A table of all, the failed one too, and a page with the worst first.
    with (out / "summary.tsv").open() as stream:
        rows = {row["id"]: row for row in csv.DictReader(stream, delimiter="\t")}
    assert list(rows) == ["a", "lost", "b", "c"] and rows["lost"]["why"] == cause
    assert float(rows["a"]["ncc"]) > float(rows["a"]["ncc_before"])
    page = (out / "index.html").read_text(encoding="utf-8")
    assert page.index('data-sort="lost"') < page.index('data-sort="a"')
    assert 'href="pairs/a/report.html"' in page and 'href="pairs/b/"' in page
    assert all((out / f"thumbnails/{id}.jpg").stat().st_size > 500 for id in "abc")

    # Once more: what is there is kept; what came, changed or went is registered.
    shutil.copy(pictures / "b" / "moving.png", tmp_path / "none.png")
    table.write_text(table.read_text(encoding="utf-8").replace(str(pictures / "none.png"), "none.png"))
    (out / "pairs/b/transform.h5").unlink()
    second = answer("cohort", table, "-o", out, "--config", settings)
    assert kept(second) == {"a", "c"} and not (out / "failures/lost.json").exists()
    assert states(second).keys() == {"a", "lost", "b", "c"}
    # Other settings for those that need it: only they run.
    only = answer("cohort", table, "-o", out, "--config", settings, "--only", "failed,error", "--seed", 5)
    assert states(only) == states(second)
    assert json.loads((out / "pairs/a/result.json").read_text(encoding="utf-8"))["provenance"]["seed"] == 0
    # One row for itself, as in an array of jobs.
    shutil.rmtree(out / "pairs/c")
    alone = answer("cohort", table, "-o", out, "--config", settings, "--index", 3)
    assert [pair["id"] for pair in alone["pairs"]] == ["c"] and (out / "pairs/c/result.json").is_file()


@pytest.fixture
def interruptible():
    """Ctrl-C interrupts, also where the tests were started with it ignored, as a shell does in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("warm", "interruptible")
def test_ctrl_c_ends_with_a_summary_and_the_same_command_goes_on(pictures, tmp_path, settings, monkeypatch):
    out = tmp_path / "study"
    enter = Book.enter

    def interrupted(book, id, ending):
        entry = enter(book, id, ending)
        if id == "a":
            signal.raise_signal(signal.SIGINT)
        return entry

    monkeypatch.setattr(Book, "enter", interrupted)
    command = ("cohort", pictures / "pairs.csv", "-o", out, "--config", settings, "--outputs", "transform")
    stopped = run(*command)
    assert stopped.exit_code == 130 and "Traceback" not in stopped.output
    with (out / "summary.tsv").open() as stream:
        rows = {row["id"]: row["state"] for row in csv.DictReader(stream, delimiter="\t")}
    assert rows["a"] in ("ok", "uncertain") and rows["b"] == rows["c"] == "missing"
    monkeypatch.undo()
    assert kept(answer(*command)) == {"a"}


def test_what_cannot_be_written_down_on_a_full_disk_stops_nothing(pictures, tmp_path, settings, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    job = CohortJob(files=[pictures / "pairs.csv"], out=tmp_path, config=settings)
    book = Book(tmp_path, [(row.id, job.job(row)) for row in job.rows()])
    monkeypatch.setattr("roireg.cohort.book.write_json", full)
    entry = book.enter("a", Ending("refused", None, "no space left"))
    assert entry["state"] == "error" and entry["cause"].endswith("could not be written down")
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OutputError, match=r"summary cannot be written \(No space left.*same command again"):
        book.write("study")


@pytest.mark.skipif(sys.platform == "win32", reason="the limit of file sizes is of Unix")
def test_a_full_disk_is_told_and_costs_what_ran_meanwhile(pictures, tmp_path, settings, kept_processes):
    job = CohortJob(files=[pictures / "pairs.csv"], out=tmp_path, config=settings, outputs="transform,warped")
    rows = [(row.id, job.job(row)) for row in job.rows()][:2]
    engine = Here(job.limits(None), kept_processes)
    full = register_all(rows, job, tmp_path, silent, engine, function="cohort.deeds:register_on_a_full_disk")
    assert full.counts == {"error": 2} and not full.went_well()
    assert all("File too large" in pair["cause"] for pair in full.pairs), "the words of the system"
    assert not list(tmp_path.glob("pairs/**/*.png")), "nothing is left half written"
    again = register_all(rows, job, tmp_path, silent, engine)
    assert again.went_well() and not list(tmp_path.glob("failures/*.json"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("a.png", "b.png"), ("one table", "--all-to")),
        (("pairs.csv", "--all-pairs", "--all-to", "a/fixed.png"), ("--all-to and --all-pairs",)),
        (("pairs.csv", "--index", "3"), ("3 rows", "from 0 to 2")),
        (("pairs.csv", "--only", "bad"), ("--only", "uncertain", "bad")),
        (("pairs.csv", "--index", "1", "--only", "failed"), ("--index", "--only")),
        (("pairs.csv", "--outputs", "warp"), ("warp", "transform")),
        (("pairs.csv", "--dask", "x:1", "--slurm", "y"), ("--dask and --slurm",)),
        (("pairs.csv", "--slurm", "none.yaml"), ("none.yaml", "no such file")),
        (("none.csv",), ("none.csv",)),
        (("pairs.csv", "--preset", "default", "--profile", "fast"), ("--profile", "--model")),
    ],
)
def test_what_is_wrong_with_a_cohort_is_said_before_anything_runs(pictures, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(pictures)
    (pictures / "a.png").touch(), (pictures / "b.png").touch()
    fails("cohort", *arguments, "-o", tmp_path / "o", words=words)
    assert not (tmp_path / "o").exists()


@pytest.mark.usefixtures("warm")
def test_settings_that_are_none_are_said_once(pictures, tmp_path):
    (tmp_path / "wrong.yaml").write_text("colour: red\n")
    for command in (("cohort", pictures / "pairs.csv"), ("template", *pictures.glob("[ab]/fixed.png"))):
        out = tmp_path / command[0]
        fails(*command, "-o", out, "--config", tmp_path / "wrong.yaml", words=("wrong.yaml", "colour"))
        assert not out.exists()


def test_a_summary_that_somebody_wrote_is_not_replaced(pictures, tmp_path):
    (tmp_path / "summary.tsv").write_text("mine")
    fails("cohort", pictures / "pairs.csv", "-o", tmp_path, words=("summary.tsv", "not written by roireg"))
    assert run("cohort", "--help").exit_code == 0

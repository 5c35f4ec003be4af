"""Where results go: nothing of others is replaced, nothing half-written stays, what is there is kept when asked."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from app.scenes import answer, fails, files_in, run
from roireg.app.console import _StageLines
from roireg.core.errors import OutputError
from roireg.io import read_image
from roireg.jobs import registering


@pytest.fixture
def scene(flat, tmp_path):
    """The raster pair in a folder of its own, which a test may write into."""
    folder = shutil.copytree(flat.folder, tmp_path / "in")
    return replace(flat, folder=folder, **{n: folder / getattr(flat, n).name for n in ("fixed", "moving", "truth")})


@pytest.fixture
def never(monkeypatch):
    """Make it an error to begin a registration."""

    def refuse(*arguments, **options):
        raise AssertionError("this was to be seen before anything is computed")

    monkeypatch.setattr(registering, "register", refuse)


STAGES = ("reading the files", "finding regions", "pairing regions", "judging the result", "writing")


@pytest.mark.parametrize("stage", STAGES)
def test_ctrl_c_in_any_stage_leaves_nothing(scene, tmp_path, settings, monkeypatch, stage):
    def listen(self, event):
        if event.stage == stage:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(_StageLines, "__call__", listen)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        result = run("register", scene.fixed, scene.moving, "-o", tmp_path / "new" / "out", "--config", settings)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (result.exit_code, result.stderr) == (130, "stopped: interrupted\n")
    assert not (tmp_path / "new").exists()


DEEP = {
    "search": ("register", "roireg.fit.search.search.climb", "{stages: [{stage: search}]}"),
    "deformation": ("register", "roireg.fit.adam.Adam.step", "{stages: [{stage: velocity}]}"),
    "match": ("match", "roireg.match.candidates.RegionCandidates.paired", "{}"),
}


@pytest.mark.parametrize("place", DEEP)
def test_ctrl_c_deep_in_a_computation_leaves_nothing(scene, tmp_path, monkeypatch, place):
    command, function, text = DEEP[place]
    config = tmp_path / "c.yaml"
    config.write_text(text)
    monkeypatch.setattr(function, lambda *_, **__: signal.raise_signal(signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        result = run(command, scene.fixed, scene.moving, "-o", tmp_path / "new" / "out", "--config", config)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (result.exit_code, result.stderr) == (130, "stopped: interrupted\n")
    assert not (tmp_path / "new").exists()


def register(scene, out, *options, code=0):
    result = run("register", scene.fixed, scene.moving, "-o", out, *options)
    assert result.exit_code == code, result.output
    return result


def test_an_output_never_replaces_an_input(scene, never):
    moving = scene.moving.rename(scene.folder / "warped.png")
    before = moving.read_bytes()
    fails("register", scene.fixed, moving, "-o", scene.folder, words=("warped.png", "was not written by roireg"))
    fails("register", moving, scene.fixed, "-o", moving.parent, words=("warped.png",))
    assert moving.read_bytes() == before


def test_a_result_that_is_an_input_is_not_replaced_either(scene, quick):
    out = scene.folder / "out"
    register(scene, out, *quick[:2], "--only", "transform,pairs")
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    for option, value in (("--pairs", out / "pairs"), ("--init", out), ("--init", f"i:{out / 'transform.h5'}")):
        arguments = (scene.fixed, scene.moving, option, value, "-o", out)
        fails("register", *arguments, words=("out", "is an input and would be replaced", "another folder"))
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("name", ["report.html", "result.json", "pairs/pairs.json", "moved_labels.png"])
def test_files_of_other_people_are_refused_before_anything_is_computed(scene, never, name):
    mine = scene.folder / "out" / name
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    fails("register", scene.fixed, scene.moving, "-o", scene.folder / "out", words=(name, "not written by roireg"))
    assert mine.read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(("command", "name"), [("register", "warped.nii.gz"), ("match", "pairs.json")])
def test_a_folder_is_not_called_like_a_file(scene, never, command, name):
    out = scene.folder / name
    fails(command, scene.fixed, scene.moving, "-o", out, words=(name, "--out names a folder", "-o"))
    assert not out.exists()


def test_edited_pairs_are_not_lost(scene, quick):
    out = scene.folder / "out"
    register(scene, out, *quick[:2], "--only", "pairs")
    file = out / "pairs" / "pairs.json"
    file.write_text(file.read_text(encoding="utf-8").replace("proposed", "accepted"))
    fails("register", scene.fixed, scene.moving, "-o", out, words=("pairs.json", "was changed since it was written"))
    assert "accepted" in file.read_text(encoding="utf-8")


def test_a_new_result_replaces_the_earlier_one_whole(scene, quick):
    out = scene.folder / "out"
    register(scene, out, *quick[:2])
    (out / "notes.txt").write_text("mine")
    register(scene, out, *quick)
    assert files_in(out) == {"notes.txt", "transform.h5", "result.json"}
    # A page that is made later belongs to the result.
    assert run("report", out).exit_code == 0
    register(scene, out, *quick)
    assert files_in(out) == {"notes.txt", "transform.h5", "result.json"}


def test_the_current_folder_is_a_result_folder(scene, quick, monkeypatch):
    (scene.folder / "here").mkdir()
    monkeypatch.chdir(scene.folder / "here")
    register(scene, ".", *quick)
    assert files_in(scene.folder / "here") == {"transform.h5", "result.json"}


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs a second file system")
def test_results_behind_a_link_on_another_file_system(scene, quick):
    with tempfile.TemporaryDirectory(dir="/dev/shm") as there:
        (scene.folder / "out").symlink_to(there)
        register(scene, scene.folder / "out", *quick)
        link = scene.folder / "link.csv"
        link.symlink_to(Path(there) / "points.csv")
        assert run("convert", scene.folder / "fixed_points.csv", link).exit_code == 0
        assert link.is_symlink()
        assert files_in(Path(there)) == {"points.csv", "result.json", "transform.h5"}


def test_pipes_and_devices_are_neither_read_nor_replaced(scene):
    pipe = scene.folder / "pipe.png"
    os.mkfifo(pipe)
    fails("register", pipe, scene.moving, "-o", scene.folder / "out", words=("pipe.png", "device or pipe"))
    labels = (
        "--fixed-labels",
        scene.folder / "fixed_labels.png",
        "--moving-labels",
        scene.folder / "moving_labels.png",
    )
    for place in (pipe, Path("/dev/null")):
        fails("evaluate", *labels, "-o", place, words=(str(place), "device or pipe"))
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    fails("evaluate", *labels, "-o", labels[1], words=("fixed_labels.png", "is an input"))


def test_convert_deletes_nothing_of_the_user(scene, quick):
    register(scene, scene.folder / "out", *quick[:2], "--only", "pairs")
    place = scene.folder / "pp"
    place.mkdir()
    (place / "fixed_rois_of_mine.png").write_text("mine")
    assert run("convert", scene.folder / "out" / "pairs", place).exit_code == 0
    assert run("convert", scene.folder / "out" / "pairs", place).exit_code == 0
    assert (place / "fixed_rois_of_mine.png").read_text(encoding="utf-8") == "mine"
    (scene.folder / "qq").mkdir()
    (scene.folder / "qq" / "pairs.json").write_text("mine")
    words = ("pairs.json", "not written by roireg")
    fails("convert", scene.folder / "out" / "pairs", scene.folder / "qq", words=words)
    assert files_in(scene.folder / "qq") == {"pairs.json"}


def test_segment_replaces_its_own_files_alone(scene):
    out = scene.folder / "r.png"
    answer("segment", scene.fixed, "-o", out)
    answer("segment", scene.fixed, "-o", out, "--max-count", 2)
    out.with_suffix(".json").unlink()
    fails("segment", scene.fixed, "-o", out, words=("r", "was not written by roireg"))


# -- what goes wrong late -------------------------------------------------------------------------


def test_a_report_that_fails_does_not_cost_the_transform(scene, settings, monkeypatch):
    def broken(self, **_):
        raise OSError("broken data stream when writing image file")

    monkeypatch.setattr("roireg.pipeline.Registration.report_html", broken)
    out = scene.folder / "out"
    result = register(scene, out, "--config", settings, "--only", "transform,report")
    assert files_in(out) == {"transform.h5", "result.json"}
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("warning: ")]
    assert "report.html could not be made" in line and "broken data stream" in line
    assert json.loads((out / "result.json").read_text(encoding="utf-8"))["notes"]


def test_a_picture_that_fails_does_not_cost_the_pairs(scene, monkeypatch):
    from roireg.jobs import prompting, segmenting

    def broken(*arguments):
        raise ValueError("no picture")

    monkeypatch.setattr(prompting, "draw_answers", broken)
    monkeypatch.setattr(segmenting, "_overview", broken)
    asked = ("--point", "34,29", "--guide", "identity", "-o", scene.folder / "out")
    document = answer("prompt", scene.fixed, scene.moving, *asked)
    assert document["files"] == ["pairs/", "result.json"] and "no picture" in document["notes"][0]
    document = answer("segment", scene.fixed, "-o", scene.folder / "r.png")
    assert "no picture" in document["notes"][0] and (scene.folder / "r.png").is_file()


def test_what_a_killed_run_left_is_removed_by_the_next(scene, quick, monkeypatch):
    out = scene.folder / "out"
    usual = registering._write_carried

    def killed(folder, *arguments):
        dead = folder.with_name(folder.name.replace(str(os.getpid()), "4194304"))
        shutil.copytree(folder, dead)
        raise OutputError("out: killed")

    monkeypatch.setattr(registering, "_write_carried", killed)
    register(scene, out, *quick, code=2)
    assert any(name.endswith("transform.h5") for name in files_in(out)) and not (out / "transform.h5").exists()
    monkeypatch.setattr(registering, "_write_carried", usual)
    register(scene, out, *quick)
    assert files_in(out) == {"transform.h5", "result.json"}


def test_a_folder_with_half_a_result_is_told(scene, quick):
    out = scene.folder / "out"
    register(scene, out, *quick)
    record = out / "result.json"
    content = json.loads(record.read_text(encoding="utf-8"))
    record.write_text(json.dumps({"written": content["written"], "complete": False}))
    fails("info", out, words=("out", "was stopped while it wrote", "register again"))
    fails("report", out, words=("result.json", "register again"))
    register(scene, out, *quick)
    assert run("info", out).exit_code == 0


# -- results that are kept ------------------------------------------------------------------------


def test_a_result_of_the_same_inputs_options_and_code_is_kept(scene, quick, monkeypatch, tmp_path):
    out = scene.folder / "out"
    first = answer("register", scene.fixed, scene.moving, "-o", out, *quick)
    counted = []
    usual = registering.register
    monkeypatch.setattr(registering, "register", lambda *a, **o: counted.append(1) or usual(*a, **o))

    def again(*changes, **images):
        images = {"fixed": scene.fixed, "moving": scene.moving} | images
        document = answer("register", images["fixed"], images["moving"], "-o", out, *quick, "--resume", *changes)
        computed = len(counted)
        counted.clear()
        return document, computed

    document, computed = again()
    assert computed == 0 and document == first
    # Where the files lie does not matter, what is in them does.
    elsewhere = shutil.copy(scene.fixed, tmp_path / "other.png")
    assert again(fixed=elsewhere)[1] == 0
    assert again(fixed=scene.moving)[1] == 1
    assert again()[1] == 1
    assert again("--seed", 3)[1] == 1
    (out / "transform.h5").unlink()
    assert again("--seed", 3)[1] == 1
    monkeypatch.setattr("roireg.jobs.job.code_version", lambda: "another")
    assert again("--seed", 3)[1] == 1


def test_other_jobs_are_kept_too(scene, monkeypatch):
    from roireg.jobs import prompting, segmenting

    def refuse(*arguments, **options):
        raise AssertionError("computed again")

    asked = ("prompt", scene.fixed, scene.moving, "--point", "34,29", "--guide", "identity", "--resume")
    kept = [(*asked, "-o", scene.folder / "p"), ("segment", scene.fixed, "--resume", "-o", scene.folder / "r.png")]
    first = [answer(*arguments) for arguments in kept]
    monkeypatch.setattr(prompting, "compute", refuse)
    monkeypatch.setattr(segmenting, "compute", refuse)
    assert [answer(*arguments) for arguments in kept] == first


# -- what a script may ask for --------------------------------------------------------------------


def test_an_uncertain_verdict_is_exit_code_3_when_strict(scene, quick, monkeypatch):
    usual = registering.register
    monkeypatch.setattr(registering, "register", lambda *a, **o: replace(usual(*a, **o), verdict="uncertain"))
    register(scene, scene.folder / "a", *quick)
    result = register(scene, scene.folder / "b", *quick, "--strict", code=3)
    assert "uncertain: the result has to be checked by eye" in result.stderr


def test_more_memory_than_allowed_is_refused_and_large_needs_are_told(scene, quick, monkeypatch):
    from roireg.jobs import needs

    register(scene, scene.folder / "a", *quick, "--max-memory", "2G")
    arguments = (scene.fixed, scene.moving, "-o", scene.folder / "b", *quick, "--max-memory")
    fails("register", *arguments, "300M", words=("0.8 GB of memory", "--max-memory 300M", "coarser"))
    fails("register", *arguments, "much", words=("--max-memory", "4G", "'much'"))
    monkeypatch.setattr(needs, "LARGE", (1e8, 60.0))
    assert (
        "note: reading the files: the registration takes about 0.8 GB"
        in register(scene, scene.folder / "c", *quick).stderr
    )


def test_fill_is_what_lies_outside_the_moving_image(scene, settings):
    options = ("--config", settings, "--only", "warped")
    register(scene, scene.folder / "a", *options, "--fill", 255)
    register(scene, scene.folder / "b", *options)
    filled, usual = (read_image(scene.folder / name / "warped.png").data for name in "ab")
    assert (filled == 255).any() and not (usual == 255).any()
    assert (filled == usual)[filled != 255].all()
    fails("register", scene.fixed, scene.moving, "-o", scene.folder / "c", "--fill", "nan", words=("--fill", "'nan'"))


def test_a_file_of_others_is_replaced_only_when_that_is_said(scene, tmp_path):
    points, affine = tmp_path / "moved.csv", tmp_path / "x_0GenericAffine.mat"
    scores, page, placed = tmp_path / "scores.json", tmp_path / "page.csv", scene.folder / "fixed_points.csv"
    for file in (points, affine, scores, page):
        file.write_text("precious")
    commands = {
        points: ("apply", scene.truth, placed, "-o", points),
        affine: ("convert", scene.truth, "--ants", tmp_path / "x_"),
        page: ("convert", placed, page),
        scores: ("evaluate", "--fixed-points", placed, "--moving-points", placed, "-o", scores),
    }
    for file, command in commands.items():
        fails(*command, words=(file.name, "was not written by roireg", "--replace"))
        assert file.read_text(encoding="utf-8") == "precious"
        assert run(*command, "--replace").exit_code == 0
        assert file.read_bytes() != b"precious"


@pytest.mark.skipif(not hasattr(os, "setxattr"), reason="files carry no marks on this system")
def test_a_file_of_roireg_is_replaced_until_it_is_changed(scene, tmp_path):
    out = tmp_path / "points.csv"
    convert = ("convert", scene.folder / "fixed_points.csv", out)
    for _ in range(2):
        assert run(*convert).exit_code == 0
    out.write_text(out.read_text(encoding="utf-8") + "\n")
    fails(*convert, words=("points.csv", "changed since"))
    shutil.copyfile(out, tmp_path / "copy.csv")
    fails("convert", scene.folder / "fixed_points.csv", tmp_path / "copy.csv", words=("was not written",))

"""Jobs as values: one declaration is option, help, field and check."""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path
from typing import get_args

import pytest
import typer

from app.scenes import RUNNER, fails, run
from models import tiny
from roireg.app.cli import app
from roireg.core.errors import InputError
from roireg.core.words import FEATURES, MODELS, SECTIONS, PresetName, ProfileName, PromptPresetName
from roireg.features import available_extractors
from roireg.jobs import ApplyJob, ConvertJob, EvaluateJob, MatchJob, PromptJob, RegisterJob, SegmentJob
from roireg.jobs.files import ants_files
from roireg.jobs.options import PicturesOptions, parse_numbers, parse_size
from roireg.models import available_models
from roireg.models.profiles import PROFILES
from roireg.pipeline import PRESETS, Config
from roireg.pipeline.prompt_settings import PROMPT_PRESETS

COMMANDS = {
    "register": RegisterJob,
    "apply": ApplyJob,
    "convert": ConvertJob,
    "match": MatchJob,
    "prompt": PromptJob,
    "segment": SegmentJob,
    "evaluate": EvaluateJob,
}


def test_words_that_are_known_before_torch_is_loaded_are_those_of_the_pipeline():
    assert get_args(PresetName) == tuple(PRESETS)
    assert ("preset", *Config.model_fields) == SECTIONS
    assert get_args(PromptPresetName) == tuple(PROMPT_PRESETS)
    # Other tests add some of their own.
    assert tuple(card.name for card in available_models())[: len(MODELS)] == MODELS
    assert set(FEATURES) <= set(available_extractors())
    assert get_args(ProfileName) == tuple(PROFILES)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_takes_every_field_of_its_job_and_nothing_else(name):
    command = typer.main.get_command(app).commands[name]
    common = {"json_output", "verbose", "quiet", "debug", "threads", "help", "allow_remote"}
    found = {p.name.removesuffix("_by_name") for p in command.params} - common
    assert found == {f.name for f in fields(COMMANDS[name])}


@pytest.mark.parametrize(
    ("words", "start", "expected"),
    [
        ("register --preset", "", {"default", "regions", "samreg", "promptreg", "paper", "same", "same-convex"}),
        ("register --preset", "p", {"promptreg", "paper"}),
        ("register --init", "c", {"centers"}),
        ("prompt --in", "", {"fixed", "moving"}),
        ("segment --profile", "f", {"fast", "full"}),
    ],
)
def test_the_shell_completes_choices(words, start, expected):
    line = f"roireg {words} {start}"
    environment = os.environ | {
        "_ROIREG_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words.split()) + 1),
    }
    result = RUNNER.invoke(app, [], prog_name="roireg", env=environment)
    assert set(result.stdout.split()) == expected


# -- images in their place or by name -------------------------------------------------------------


@pytest.mark.parametrize("order", ["-f F -m M", "--moving M F", "-f F M", "F M", "F --moving M"])
def test_images_by_name_and_in_their_place(flat, tmp_path, quick, order):
    paths = {"F": flat.fixed, "M": flat.moving}
    result = run("register", *(paths.get(word, word) for word in order.split()), "-o", tmp_path / "o", *quick)
    assert result.exit_code == 0
    assert "moving.png onto fixed.png" in result.stdout


def test_images_that_are_missing_or_too_many(flat, tmp_path):
    out = ("-o", tmp_path / "o")
    fails("register", "-m", flat.moving, *out, words=("FIXED is missing", "--fixed"))
    fails("register", flat.fixed, "-f", flat.fixed, "-m", flat.moving, *out, words=("no place for this argument",))


def test_quiet_says_what_is_wrong_and_nothing_else(flat, tmp_path, quick):
    result = run("register", flat.fixed, flat.moving, "-o", tmp_path / "o", *quick, "-q")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")
    result = run("register", flat.fixed, "none.png", "-o", tmp_path / "o", "-q")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)


# -- from Python ----------------------------------------------------------------------------------


def test_a_job_runs_from_python_and_hands_back_the_value(flat, tmp_path, settings):
    job = RegisterJob(fixed=flat.fixed, moving=flat.moving, out=tmp_path / "o", config=settings, only="transform")
    result = job.run()
    assert result.files == ("result.json", "transform.h5") and not result.resumed
    assert result.value.verdict == result.document["verdict"]
    again = RegisterJob(**{f.name: getattr(job, f.name) for f in fields(job)} | {"resume": True}).run()
    assert again.resumed and again.value is None and again.document == result.document


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"preset": "best"}, ("--preset", "samreg", "'best'")),
        ({"prompt": ["1,2"], "prompt_in": "left"}, ("--prompt-in", "fixed or moving", "'left'")),
        ({"init": "middle"}, ("--init", "centers", "'middle'")),
        ({"fixed": Path("none.png")}, ("none.png", "no such file")),
        ({"profile": "fast"}, ("--profile", "--model")),
        ({"max_memory": "0G"}, ("--max-memory", "'0G'")),
    ],
)
def test_words_are_checked_for_python_too(flat, tmp_path, changes, words):
    job = RegisterJob(**{"fixed": flat.fixed, "moving": flat.moving, "out": tmp_path / "o"} | changes)
    with pytest.raises(InputError) as caught:
        job.check()
    assert not [w for w in words if w not in str(caught.value)], caught.value


def test_texts_of_options():
    def pictures(text):
        return PicturesOptions(frame=text).pictures

    assert (parse_size("4G"), parse_size("1.5 gb"), parse_size("800MiB")) == (
        4_000_000_000,
        1_500_000_000,
        800_000_000,
    )
    frames = [PicturesOptions(frame=text).frames for text in (None, "3", "1,0")]
    assert frames == [(None, None), (3, 3), (1, 0)]
    assert parse_numbers("--p", "1,-2.5", (2, 3)) == [1, -2.5]
    for parse, text in ((parse_size, "4"), (parse_size, "²G"), (pictures, "²"), (pictures, "1,2,3")):
        with pytest.raises(InputError):
            parse(text)
    for text in ("1", "1,nan", "a,b"):
        with pytest.raises(InputError):
            parse_numbers("--p", text, (2, 3))


def test_other_weights_are_another_result(flat, tmp_path):
    weights = tiny.saved("sam-file", tmp_path / "weights")
    config = tmp_path / "settings.yaml"
    config.write_text(f"network: {{model: {weights}}}\n")
    jobs = (
        SegmentJob(image=flat.fixed, out=tmp_path / "r.png", model=str(weights)),
        RegisterJob(fixed=flat.fixed, moving=flat.moving, out=tmp_path / "o", config=config),
    )
    before = [job.stamp() for job in jobs]
    assert before == [job.stamp() for job in jobs]
    os.utime(weights, ns=(0, 0))
    assert not set(before) & {job.stamp() for job in jobs}


@pytest.mark.parametrize("folder", [".", "/", ".."])
def test_folders_without_a_name_of_their_own_begin_no_files_of_ants(folder: str) -> None:
    assert ants_files(Path(folder)) == []

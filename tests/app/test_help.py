"""The help teaches: every command says in a line what it is for, shows an example and documents every option."""

from __future__ import annotations

import pytest
import typer

import roireg
from app.scenes import run
from roireg.app.cli import app

GROUP = typer.main.get_command(app)
COMMANDS = [
    "register",
    "apply",
    "convert",
    "segment",
    "prompt",
    "match",
    "evaluate",
    "cohort",
    "bids",
    "template",
    "report",
    "view",
    "serve",
    "info",
    "demo",
]


def test_all_commands_are_there():
    assert sorted(GROUP.commands) == sorted([*COMMANDS, "models", "train"])


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_a_purpose_an_example_and_says_what_is_written(name):
    result = run(name, "--help")
    assert result.exit_code == 0
    text = GROUP.commands[name].help
    first = text.split("\n\n")[0]
    assert first.endswith(".") and "\n" not in first and len(first) < 120
    example = text.partition("Example:\n")[2].strip().splitlines()
    assert example and all(line.split()[:2] == ["roireg", name] for line in example)
    assert any(word in text.lower() for word in ("writes", "prints"))
    assert f"roireg {name}" in result.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_explained(name):
    unexplained = [p.name for p in GROUP.commands[name].params if not getattr(p, "help", None)]
    assert unexplained == []


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_use_options_that_exist(name):
    known = {o for p in GROUP.commands[name].params for o in p.opts}
    example = GROUP.commands[name].help.partition("Example:\n")[2]
    used = {word for word in example.split() if word.startswith("-") and not word[1:2].isdigit()}
    assert used <= known


@pytest.mark.parametrize("name", COMMANDS)
def test_common_options(name):
    known = {o for p in GROUP.commands[name].params for o in p.opts}
    assert {"--json", "-v", "--debug", "--threads"} <= known


def test_version():
    result = run("--version")
    assert (result.exit_code, result.stdout.strip()) == (0, f"roireg {roireg.__version__}")


def test_the_program_without_arguments_shows_its_help():
    assert "register" in run().output


def test_an_unknown_option_is_a_usage_error(tmp_path):
    assert run("info", "--nonsense", tmp_path).exit_code == 2

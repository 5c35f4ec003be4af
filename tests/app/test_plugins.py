"""Commands of other distributions: listed and run where they are installed, unknown where they are not."""

from __future__ import annotations

import subprocess
import sys

import pytest

from app.scenes import run

COMMANDS = """
import sys
import typer

app = typer.Typer(help="Measure the weather.")


@app.command()
def rain(place: str) -> None:
    typer.echo(f"rain in {place}, torch: {'torch' in sys.modules}")


@app.callback()
def root() -> None:
    ...
"""


@pytest.fixture
def distribution(tmp_path, monkeypatch):
    """A function that puts a distribution with the command of a name, or a broken one, on the path."""

    def install(name: str, text: str = COMMANDS) -> None:
        (tmp_path / f"{name}_plugin.py").write_text(text, encoding="utf-8")
        described = tmp_path / f"{name}_plugin-1.0.dist-info"
        described.mkdir()
        (described / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-plugin\nVersion: 1.0\n")
        (described / "entry_points.txt").write_text(f"[roireg.commands]\n{name} = {name}_plugin:app\n")
        monkeypatch.syspath_prepend(tmp_path)

    return install


def test_a_command_of_another_distribution_is_listed_and_runs(distribution):
    distribution("weather")
    assert "weather" in run("--help").stdout and "Measure the weather." in run("--help").stdout
    assert run("weather", "rain", "Bergen").stdout.startswith("rain in Bergen")
    assert run("weather", "--nonsense").exit_code == 2


def test_without_the_distribution_the_command_is_unknown():
    assert "weather" not in run("--help").stdout
    result = run("weather", "rain", "Bergen")
    assert result.exit_code == 2 and "No such command 'weather'" in result.output


def test_other_commands_do_not_load_it(distribution):
    distribution("weather", "raise RuntimeError('loaded')")
    assert run("info", "--help").exit_code == 0


def test_a_command_of_the_program_is_not_replaced(distribution):
    distribution("info", "raise RuntimeError('loaded')")
    result = run("--help")
    assert result.exit_code == 0 and result.stdout.count(" info ") == 1


def test_the_help_needs_no_torch():
    code = (
        "import sys\n"
        "from roireg.app.cli import app\n"
        "app(['--help'], standalone_mode=False)\n"
        "assert not {'torch', 'numpy', 'SimpleITK'} & set(sys.modules)\n"
    )
    # Libraries that other tests load change the locale of this process, so the encoding is said.
    command = [sys.executable, "-X", "utf8", "-c", code]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    assert "register" in done.stdout

"""What docs/where-cohorts-run.md tells job arrays, Snakemake and Nextflow to run does what it says there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from app.scenes import answer
from cohort.conftest import TESTS

PAGE = (TESTS.parent / "docs/where-cohorts-run.md").read_text(encoding="utf-8")

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="their lines are for a Unix shell")


def block(section: str) -> str:
    """The last block of a section."""
    _, _, rest = PAGE.partition(f"\n## {section}\n")
    return re.findall(r"^```text\n(.*?)^```$", rest.partition("\n## ")[0], re.MULTILINE | re.DOTALL)[-1]


def filled(text: str, index: int) -> str:
    """A text with the values that the program which reads it puts in."""
    values = {"{input}": "pairs.csv", "{params.index}": index, "${launchDir}/": "", "${index}": index}
    for name, value in (values | {"${task.cpus}": 2, "\\$": "$"}).items():
        text = text.replace(name, str(value))
    return text


def rules(section: str, index: int) -> list[str]:
    """What is run for a pair, and for all at the end."""
    if section == "SLURM and PBS":
        end = re.search(r"at the end `(roireg cohort .*?)`", PAGE, re.DOTALL)
        assert end
        return [block(section), end[1].replace("\n", " ")]
    lines = re.findall(r"^\s*\"?(roireg cohort [^\"\n]*)", block(section), re.MULTILINE)
    return [filled(line, index) for line in lines]


def shell(script: str, folder: Path, index: int, code: int) -> tuple[int, list[str]]:
    """Run a script where `roireg` ends with `code`; return how the script ends, and what `roireg` was given."""
    before = f'roireg() {{ printf "%s\\n" "$@" > {folder / "given"}; return {code}; }}\n'
    bash = shutil.which("bash")
    assert bash
    done = subprocess.run([bash, "-c", before + script], env={"SLURM_ARRAY_TASK_ID": str(index)}, check=False)
    return done.returncode, (folder / "given").read_text(encoding="utf-8").splitlines()


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize("section", ["SLURM and PBS", "Snakemake", "Nextflow"])
def test_row_after_row_and_then_the_summary(section, pictures, tmp_path, settings, monkeypatch):
    monkeypatch.chdir(pictures)
    # Settings of a moment, and the process that is there already.
    ours = ("-o", tmp_path / "study", "--config", settings, "--threads", 1, "--outputs", "transform")
    for index, id in enumerate("abc"):
        _, (_, *arguments) = shell(rules(section, index)[0], tmp_path, index, 0)
        (pair,) = answer("cohort", *arguments, *ours)["pairs"]
        assert pair["id"] == id
    assert not (tmp_path / "study/summary.tsv").exists(), "jobs of an array would meet there"
    _, (_, *arguments) = shell(rules(section, 0)[1], tmp_path, 0, 0)
    assert all(pair["kept"] for pair in answer("cohort", *arguments, *ours)["pairs"])
    assert (tmp_path / "study/summary.tsv").exists()


@pytest.mark.parametrize("section", ["Snakemake", "Nextflow"])
def test_a_pair_that_failed_does_not_stop_the_others_and_a_mistake_does(section, tmp_path):
    for line in rules(section, 1):
        ends = {code: shell(line, tmp_path, 1, code)[0] == 0 for code in (0, 2, 3, 130)}
        assert ends == {0: True, 2: False, 3: True, 130: False}


def test_the_snakefile_counts_rows_as_the_command_does(pictures, monkeypatch):
    monkeypatch.chdir(pictures)
    names: dict[str, object] = {}
    exec(block("Snakemake").partition("rule all:")[0], names)
    assert names["IDS"] == ["a", "b", "c"]

"""``cohort``: many registrations, each in a process of its own, and one summary of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from roireg.cohort.engines import EngineOptions
from roireg.cohort.rows import Row, all_pairs, all_to, read_table
from roireg.core.errors import InputError
from roireg.core.files import check_folder
from roireg.core.progress import Progress, silent
from roireg.jobs import RegisterJob
from roireg.jobs.files import check_input
from roireg.jobs.job import check_words
from roireg.jobs.options import OutFolder, Strict, option
from roireg.jobs.register import RegisterSettings

__all__ = ["STATES", "SUMMARY_FILES", "CohortJob", "CohortResult"]

STATES = ("error", "failed", "uncertain", "ok", "missing")
"""What a pair can be: without a result for a cause that is told, the verdict of its result, or not run yet."""

SUMMARY_FILES = ("summary.tsv", "index.html")


@dataclass(frozen=True)
class CohortResult:
    """What a cohort hands back.

    Attributes
    ----------
    out : its folder.
    pairs : a summary of every pair, in the order of the table; `state` is one of `STATES`.
    left : why pairs are missing that should have run, empty where none is.
    """

    out: Path
    pairs: Sequence[Mapping[str, Any]]
    left: str = ""

    @property
    def counts(self) -> dict[str, int]:
        """How many pairs there are of every state that occurs."""
        states = [pair["state"] for pair in self.pairs]
        return {state: states.count(state) for state in STATES if state in states}

    def went_well(self, *, strict: bool = False) -> bool:
        """Tell whether every pair has a result that may be used; with `strict`, one without any doubt."""
        return not self.left and self.counts.keys() <= ({"ok"} if strict else {"ok", "uncertain"})


@dataclass(frozen=True, kw_only=True)
class RowOptions(EngineOptions, RegisterSettings):
    """How and where the pairs of a study are registered."""

    only: Annotated[
        str | None,
        option(metavar="STATES", help="Run only pairs that are some of ok, uncertain, failed, error, missing; anew."),
    ] = None
    strict: Strict = False

    @property
    def states(self) -> Sequence[str] | None:
        """The states of the pairs that are run; None runs whatever is missing or changed.

        Raises
        ------
        InputError
            When one is unknown.
        """
        if self.only is None:
            return None
        names = [name.strip() for name in self.only.split(",") if name.strip()]
        unknown = [name for name in names if name not in STATES]
        if unknown or not names:
            raise InputError(f"--only takes states out of {', '.join(STATES)}, found {', '.join(unknown) or 'none'}")
        return names

    @property
    def settings(self) -> dict[str, Any]:
        """The fields of `RegisterJob` that are the same for all pairs, where they are not as usual."""
        values = {f.name: (getattr(self, f.name), f.default) for f in fields(RegisterSettings)}
        return {name: value for name, (value, usual) in values.items() if value != usual}


@dataclass(frozen=True, kw_only=True)
class CohortJob(RowOptions):
    """The registrations of a table, of all images to one, or of all pairs of images."""

    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="TABLE|IMAGES...",
            help="A table of pairs (.csv or .tsv); images with --all-to or --all-pairs.",
        ),
    ]
    out: OutFolder
    all_to: Annotated[Path | None, option("--all-to", metavar="IMAGE", help="Bring all images onto this one.")] = None
    all_pairs: Annotated[bool, option("--all-pairs", help="Register every image to every other.")] = False
    index: Annotated[
        int | None,
        option(
            "--index",
            min=0,
            metavar="K",
            help="Run row K alone, from 0, without Dask and summary: for job arrays, Snakemake, Nextflow.",
        ),
    ] = None
    outputs: Annotated[
        str | None,
        option(metavar="NAMES", help="Write only some of transform, inverse, warped, pairs, report for every pair."),
    ] = None

    def check(self) -> None:
        """Refuse what is wrong for all pairs; what is wrong with one of them is told when its turn comes.

        Raises
        ------
        RoiregError
            When options contradict each other, a table is none, or the folder cannot be written.
        """
        check_words(self)
        self.check_settings()
        self.check_engine()
        _ = self.states
        if self.all_to is not None and self.all_pairs:
            raise InputError("--all-to and --all-pairs both say what is registered; name one of them")
        if self.index is not None and self.only is not None:
            raise InputError("--index names one row and --only others; leave one out")
        for file in (*self.files, self.all_to, self.config):
            if file is not None:
                check_input(file)
        rows = self.rows()
        if self.index is not None and self.index >= len(rows):
            raise InputError(f"--index {self.index}: there are {len(rows)} rows, from 0 to {len(rows) - 1}")
        if self.outputs is not None:
            _ = replace(self.job(rows[0]), only=self.outputs).outputs
        read = [v for row in rows for v in row.options.values() if isinstance(v, Path)]
        check_folder(self.out, names=SUMMARY_FILES, inputs=[*self.files, *read])

    def rows(self) -> list[Row]:
        """Return the pairs.

        Raises
        ------
        InputError
            When the table is none.
        """
        if self.all_to is not None:
            return all_to(self.all_to, self.files)
        if self.all_pairs:
            return all_pairs(self.files)
        if len(self.files) != 1:
            raise InputError(
                f"cohort takes one table of pairs, found {len(self.files)} files; say what to do with images by "
                "--all-to IMAGE or --all-pairs"
            )
        return read_table(self.files[0])

    def job(self, row: Row) -> RegisterJob:
        """Return the registration of a row."""
        options = self.settings | ({} if self.outputs is None else {"only": self.outputs}) | dict(row.options)
        return RegisterJob(out=self.out / "pairs" / row.id, resume=True, **options)

    def run(self, progress: Progress = silent) -> CohortResult:
        """Register what is missing or changed and write the summary.

        Raises
        ------
        RoiregError
            When the cohort itself is unsuitable, or its summary cannot be written; pairs are told in the result.
        """
        from roireg.cohort.running import run_rows

        self.check()
        rows = self.rows()
        alone = None if self.index is None else rows[self.index].id
        return run_rows([(row.id, self.job(row)) for row in rows], self, self.out, progress, alone=alone)

"""``bench``: the benchmark's commands; what they do is in `commands`, imported when one runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from roireg.app.console import Outcome, Session, command
from roireg_bench.cohorts.cli import cohort_app

__all__ = ["bench_app"]


class _RunUnlessNamed(TyperGroup):
    """``bench DATA`` means ``bench run DATA``; a folder with the name of a command is given as ``./check``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


bench_app = typer.Typer(
    name="bench",
    cls=_RunUnlessNamed,
    no_args_is_help=True,
    add_completion=False,
    help="Compare methods on case sets: run them, score them alike, and make one table and one page.\n\n"
    "`roireg bench DATA` is short for `roireg bench run DATA`.\n\n\b\nExample:\n  roireg bench data --quick\n"
    "  roireg bench check data",
)

bench_app.add_typer(cohort_app)


@command(
    bench_app,
    "run",
    example="""
    roireg bench run data --quick
    roireg bench run data --methods default,ants-syn -o out/bench
    roireg bench run data --filter "acdc_*,hippocampus/02*" --limit 2 --jobs 2 --threads 1
""",
)
def run(
    session: Session,
    data: Annotated[Path, typer.Argument(help="A case set (a folder with pairs.json) or a folder of case sets.")],
    *,
    methods: Annotated[
        str | None, typer.Option(metavar="NAMES", help="Comma-separated; by default all, with --quick a fast few.")
    ] = None,
    choose: Annotated[
        str | None,
        typer.Option("--filter", metavar="GLOBS", help="Only these, comma-separated: SET or SET/PAIR, with * and ?."),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A few small pairs and fast methods: some minutes.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first pairs of every set.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the results.")] = Path("out/bench"),
    jobs: Annotated[int, typer.Option(min=1, help="Pairs worked on at once; each with --threads threads.")] = 1,
    dask: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Run pairs at this scheduler.")] = None,
    slurm: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Run pairs in batch jobs; see `roireg cohort`.")
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(help="Seconds after which a run is stopped and has failed.")
    ] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run again what failed before.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume/--anew", help="Keep rows of the same files, settings and versions.")
    ] = True,
) -> Outcome:
    """Run methods on case sets, every run in a process of its own, and score them all in the same way.

    Methods see two images, never labels or landmarks. Writes into OUT: results.csv (one row per pair and method),
    table.md, index.html (tables, figures and the worst pairs) and thumbnails/. A run that was cut off goes on where
    it stopped; rows are measured again when files, settings or code have changed. Table and page show all that
    results.csv holds. A method that is not installed is one line.
    """
    from roireg_bench.commands import BenchJob
    from roireg_bench.commands import run as work

    job = BenchJob(
        data=data,
        methods=_names(methods),
        patterns=_names(choose),
        quick=quick,
        limit=limit,
        out=out,
        jobs=jobs,
        dask=dask,
        slurm=slurm,
        timeout=timeout,
        retry_failed=retry_failed,
        resume=resume,
    )
    return work(session, job)


@command(
    bench_app,
    "check",
    example="""
    roireg bench check data/hippocampus
    roireg bench check data
    roireg bench check --schema
""",
)
def check(
    session: Session,
    data: Annotated[Path | None, typer.Argument(help="A case set or a folder of case sets.")] = None,
    *,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of pairs.json instead.")] = False,
) -> Outcome:
    """Read every file of case sets and say what is wrong with them.

    Prints one line per set, or one sentence per pair that could not be registered or scored; then the exit code is 2.
    """
    from roireg_bench.commands import check as work

    return work(session, data, schema=schema)


@command(
    bench_app,
    "adapt",
    example="""
    roireg bench adapt learn2reg OASIS -o sets/oasis
    roireg bench adapt acdc ACDC/training -o sets/acdc
    roireg bench adapt folder amos22 -o sets/amos --absolute
""",
)
def adapt(
    session: Session,
    layout: Annotated[str, typer.Argument(help="learn2reg, acdc, fire, folder (CHAOS, AMOS ...), anhir or bids.")],
    source: Annotated[Path, typer.Argument(help="Folder of the data set as it was published.")],
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the case set.")],
    absolute: Annotated[
        bool, typer.Option("--absolute", help="Absolute paths to the images; by default relative to OUT.")
    ] = False,
) -> Outcome:
    """Make a case set of a public data set on your disk, without copying an image.

    Writes OUT/pairs.json, and landmarks in this project's format into OUT/points where the data set has others. Check
    the result with `roireg bench check OUT`.
    """
    from roireg_bench.commands import adapt as work

    return work(session, layout, source, out, absolute=absolute)


@command(
    bench_app,
    "page",
    example="""
    roireg bench page out/bench
    roireg bench page out/bench --data data
""",
)
def page(
    session: Session,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of results.csv.")],
    *,
    data: Annotated[Path | None, typer.Option(help="The case sets, for what their titles say.")] = None,
) -> Outcome:
    """Make the table and the page again from results.csv, without running anything.

    Writes OUT/table.md and OUT/index.html.
    """
    from roireg_bench.commands import page as work

    return work(session, out, data)


@command(
    bench_app,
    "calibrate",
    example="""
    roireg bench calibrate data -o out/calibrate
    roireg bench calibrate data --filter "hippocampus,acdc_*" --limit 4
""",
)
def calibrate(
    session: Session,
    data: Annotated[Path, typer.Argument(help="A case set (a folder with pairs.json) or a folder of case sets.")],
    *,
    choose: Annotated[
        str | None,
        typer.Option("--filter", metavar="GLOBS", help="Only these, comma-separated: SET or SET/PAIR, with * and ?."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first pairs of every set.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the results.")] = Path("out/calibrate"),
) -> Outcome:
    """Fit the probability of the verdict to results and to generated misregistrations.

    Writes into OUT: results.csv (one row per result; a second call goes on where it stopped), calibration.json (the
    model, as the package ships it) and calibration.png (reliability and ROC on sets that were left out of the fit).
    """
    from roireg_bench.commands import calibrate as work

    return work(session, data, patterns=_names(choose), limit=limit, out=out)


@command(
    bench_app,
    "prompts",
    example="""
    roireg bench prompts data -o out/prompts
    roireg bench prompts data --sets hippocampus --methods "default,guide: none" --limit 3
""",
)
def prompts(
    session: Session,
    data: Annotated[Path, typer.Argument(help="A case set (a folder with pairs.json) or a folder of case sets.")],
    *,
    sets: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES", help="Comma-separated; by default those of the published table; all takes every set."
        ),
    ] = None,
    methods: Annotated[str | None, typer.Option(metavar="NAMES", help="Comma-separated; by default all.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first pairs of every set.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the results.")] = Path("out/prompts"),
    seed: Annotated[int, typer.Option(min=0, help="Of guide and views.")] = 0,
) -> Outcome:
    """Measure whether a prompt in every label of the moving image finds the same structure in the fixed one.

    Labels place the prompts and score the answers, nothing else. Writes into OUT: prompts.csv (one row per prompt and
    method), prompts.md and calibration.png.
    """
    from roireg_bench.commands import prompts as work

    return work(session, data, sets=_names(sets), methods=_names(methods), limit=limit, out=out, seed=seed)


@command(
    bench_app,
    "study",
    example="""
    roireg bench study --list
    roireg bench study epsilon data -o out/studies
    roireg bench study my_sweep.yaml data --sets hippocampus --limit 4
""",
)
def study(
    session: Session,
    name: Annotated[
        str | None, typer.Argument(help="A study, see --list, or a settings file with a `sweep` or `variants`.")
    ] = None,
    data: Annotated[
        Path | None, typer.Argument(help="A case set (a folder with pairs.json) or a folder of case sets.")
    ] = None,
    *,
    sets: Annotated[
        str | None, typer.Option(metavar="NAMES", help="Comma-separated; by default those of the study.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first pairs of every set.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the results.")] = Path("out/studies"),
    listed: Annotated[bool, typer.Option("--list", help="Print all studies instead.")] = False,
) -> Outcome:
    """Repeat an experiment of the papers, or one of your own, on case sets.

    Every variant of the study is measured on every pair. Writes into OUT: NAME.csv (one row per pair and variant),
    NAME.md (tables) and NAME.png. A study that was cut off goes on where it stopped.
    """
    from roireg_bench.commands import study as work

    return work(session, name, data, sets=_names(sets), limit=limit, out=out, listed=listed)


@command(
    bench_app,
    "speed",
    example="""
    roireg bench speed
    roireg bench speed --reference-size 1024 --reference-points 32 --end-to-end -o speed.md
""",
)
def speed(
    session: Session,
    *,
    device: Annotated[str, typer.Option(help="cpu, cuda or mps.")] = "cpu",
    reference_size: Annotated[int, typer.Option(min=16, help="Input size of the comparison, pixels.")] = 256,
    reference_points: Annotated[int, typer.Option(min=1, help="Points per side of the comparison.")] = 16,
    cpu_time: Annotated[
        bool, typer.Option("--cpu-time", help="Processor time, for a machine that others use too.")
    ] = False,
    whole_pair: Annotated[
        bool, typer.Option("--end-to-end", help="Also a whole pair, as published against `fast`: ten minutes.")
    ] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Markdown file for the tables.")] = None,
) -> Outcome:
    """Measure what Segment Anything costs on this machine, beside the mask generation of transformers.

    The network has random weights: no checkpoint is needed, and the time does not depend on the values. Prints the
    tables, and writes them into OUT.
    """
    from roireg_bench.commands import speed as work

    return work(
        session,
        out,
        device=device,
        reference_size=reference_size,
        reference_points=reference_points,
        cpu_time=cpu_time,
        whole_pair=whole_pair,
    )


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]

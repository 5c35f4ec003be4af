"""``python -m roireg.bench DATA``: run the benchmark, write results.csv and table.md."""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from roireg.bench.cases import check_folder, find_folders
from roireg.bench.methods import METHODS, make_method
from roireg.bench.run import run_benchmark
from roireg.bench.table import markdown
from roireg.core.errors import RoiregError
from roireg.core.progress import ProgressEvent
from roireg.io import atomic_path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(given)
    try:
        _run(options, given)
    except RoiregError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _run(options: argparse.Namespace, given: Sequence[str]) -> None:
    folders = find_folders(options.data, options.sets)
    if options.check:
        for folder in folders:
            check_folder(folder)
            print(f"{folder.content.name}: {len(folder.content.pairs)} pairs, all files fit")
        return
    # The processes of the methods inherit this; numpy's libraries look at it when they are loaded there.
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"):
        os.environ[variable] = str(options.threads)
    methods = [make_method(name) for name in options.methods]
    rows = run_benchmark(
        folders,
        methods,
        options.out / "results.csv",
        threads=options.threads,
        limit=options.limit,
        timeout=options.timeout,
        retry_failed=options.retry_failed,
        progress=_show,
    )
    page = markdown(rows, folders, heading="Benchmark", notes=_notes(given))
    with atomic_path(options.out / "table.md") as temporary:
        temporary.write_text(page, encoding="utf-8")
    print(f"\n{page}\nwritten: {options.out / 'results.csv'}, {options.out / 'table.md'}")


def _show(event: ProgressEvent) -> None:
    print(f"[{event.fraction:4.0%}] {event.stage}: {event.detail}", flush=True)


def _notes(given: Sequence[str]) -> str:
    versions = (
        f"Python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}, "
        f"SimpleITK {sitk.Version_VersionString()}"
    )
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    command = shlex.join(["python", "-m", "roireg.bench", *given])
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {machine}; {versions}.\n\n    {command}\n\n"
        "Before → after, means over the pairs; MB is the largest peak. Times are for registration alone, files in "
        "memory; * marks times of different sessions."
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m roireg.bench", description=__doc__)
    parser.add_argument("data", type=Path, help="a case set (a folder with pairs.json) or a folder of case sets")
    parser.add_argument("--sets", type=_names, help="only these sets, comma-separated folder names")
    parser.add_argument(
        "--methods", type=_names, default=list(METHODS), help=f"comma-separated, of {', '.join(METHODS)} (all)"
    )
    parser.add_argument(
        "-o", "--out", type=Path, default=Path("out/bench"), help="folder of results.csv and table.md (out/bench)"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of every method")
    parser.add_argument("--limit", type=_positive, help="only the first pairs of every set")
    parser.add_argument("--timeout", type=float, help="seconds after which a run counts as failed")
    parser.add_argument("--retry-failed", action="store_true", help="run again what failed before")
    parser.add_argument("--check", action="store_true", help="read every file of the sets and stop at what is wrong")
    return parser


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise argparse.ArgumentTypeError("expected names separated by commas")
    return names


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, found {text!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())

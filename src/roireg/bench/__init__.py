"""Case sets, methods beside each other, one scoring code path, one table: ``python -m roireg.bench DATA``."""

from roireg.bench.cases import Case, CaseFolder, CaseSet, check_folder, find_folders, load_folder
from roireg.bench.methods import METHODS, Inputs, Method, Output, Stopwatch, make_method
from roireg.bench.results import Row, read_rows, write_rows
from roireg.bench.run import run_benchmark
from roireg.bench.scoring import Truth, read_truth, score
from roireg.bench.table import markdown

__all__ = [
    "METHODS",
    "Case",
    "CaseFolder",
    "CaseSet",
    "Inputs",
    "Method",
    "Output",
    "Row",
    "Stopwatch",
    "Truth",
    "check_folder",
    "find_folders",
    "load_folder",
    "make_method",
    "markdown",
    "read_rows",
    "read_truth",
    "run_benchmark",
    "score",
    "write_rows",
]

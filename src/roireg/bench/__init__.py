"""Case sets, methods beside each other, one scoring code path, one table and page: ``roireg bench DATA``."""

from roireg.bench.adapters import LAYOUTS, write_set
from roireg.bench.cases import Case, CaseFolder, CaseSet, choose_cases, find_folders, find_problems, load_folder
from roireg.bench.methods import METHODS, Inputs, Method, Output, Stopwatch, make_method
from roireg.bench.page import render_page
from roireg.bench.quick import quick_cases
from roireg.bench.results import Row, read_rows, write_rows
from roireg.bench.run import run_benchmark
from roireg.bench.schema import schema, schema_text
from roireg.bench.scoring import read_truth
from roireg.bench.table import markdown

__all__ = [
    "LAYOUTS",
    "METHODS",
    "Case",
    "CaseFolder",
    "CaseSet",
    "Inputs",
    "Method",
    "Output",
    "Row",
    "Stopwatch",
    "choose_cases",
    "find_folders",
    "find_problems",
    "load_folder",
    "make_method",
    "markdown",
    "quick_cases",
    "read_rows",
    "read_truth",
    "render_page",
    "run_benchmark",
    "schema",
    "schema_text",
    "write_rows",
    "write_set",
]

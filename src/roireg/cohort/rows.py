"""What a cohort is made of: rows of a table, all images to one, or all pairs of images."""

from __future__ import annotations

import csv
import difflib
import io
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any, get_args, get_type_hints

from roireg.core.errors import InputError
from roireg.core.files import stem_of
from roireg.core.words import INIT_WORDS
from roireg.jobs import RegisterJob
from roireg.jobs.files import parse_transform

__all__ = ["Row", "all_pairs", "all_to", "check_ids", "named", "read_lines", "read_table", "relative_to", "safe_name"]

ASIDE = ("out", "resume", "strict", "cache", "max_memory", "device")
"""Fields of a registration that are those of the cohort, not of a row."""

RENAMED = {"outputs": "only"}
"""Columns whose name is another one than that of the field."""


@dataclass(frozen=True)
class Row:
    """One registration of a cohort.

    Attributes
    ----------
    id : name of the pair and of its result folder.
    options : fields of `RegisterJob`, `fixed` and `moving` among them, where they differ from those of the cohort.
    """

    id: str
    options: Mapping[str, Any]


def read_table(path: Path) -> list[Row]:
    """Read a table of pairs: CSV, or TSV by its name; the first line names the columns.

    Columns are ``id``, ``fixed``, ``moving`` and any other option of ``register`` without its dashes; ``outputs``
    stands for its ``--only``. Empty cells leave an option as it is. Paths are relative to the folder of the table.

    Raises
    ------
    InputError
        When it is no such table, naming row and column.
    """
    lines = read_lines(path)
    if not lines:
        raise InputError(f"{path}: expected a table whose first line names its columns, found an empty file")
    header = [name.strip().lstrip("-").replace("-", "_") for name in lines[0][1]]
    known = ["id", *RENAMED, *(n for n in _kinds() if n not in (*ASIDE, *RENAMED.values()))]
    for name in header:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=2, cutoff=0.5)
            hint = f"did you mean {' or '.join(near)}?" if near else f"use some of {', '.join(known)}"
            raise InputError(f"{path}: the column {name!r} is unknown; {hint}")
    for name in ("fixed", "moving"):
        if name not in header:
            raise InputError(f"{path}: expected a column {name}, found {', '.join(header)}")
    if len(set(header)) < len(header):
        raise InputError(f"{path}: a column occurs twice in {', '.join(header)}; name each once")
    drafts = []
    for number, cells in lines[1:]:
        if len(cells) != len(header):
            raise InputError(f"{path}, line {number}: expected {len(header)} cells, found {len(cells)}")
        filled = {name: cell.strip() for name, cell in zip(header, cells, strict=True) if cell.strip()}
        for name in ("fixed", "moving"):
            if name not in filled:
                raise InputError(f"{path}, line {number}: the cell of {name} is empty; name an image")
        where = f"{path}, line {number}"
        options = {RENAMED.get(n, n): _value(n, cell, path.parent, where) for n, cell in filled.items() if n != "id"}
        drafts.append((filled.get("id", ""), options))
    if not drafts:
        raise InputError(f"{path}: the table has no rows; write one pair per line")
    check_ids(path, [(number, id) for (number, _), (id, _) in zip(lines[1:], drafts, strict=True)])
    return named(drafts)


def check_ids(path: Path, ids: Iterable[tuple[int, str]]) -> None:
    """Refuse an id that an earlier line of a table has, or that is no name of a folder; empty ones are none.

    Parameters
    ----------
    ids : number of the line and id of every row.

    Raises
    ------
    InputError
        Naming the lines.
    """
    seen: dict[str, int] = {}
    for number, id in ids:
        if id and safe_name(id) != id:
            raise InputError(f"{path}, line {number}: {_no_folder(id)}")
        if id and id.lower() in seen:
            raise InputError(
                f"{path}, lines {seen[id.lower()]} and {number}: the id {id!r} occurs twice; each has its own"
            )
        seen[id.lower()] = number


def _no_folder(id: str) -> str:
    return f"the id {id!r} cannot be the name of a folder everywhere; use letters, digits, '-', '_' and '.'"


def read_lines(path: Path) -> list[tuple[int, list[str]]]:
    """Return the cells of a table, line by line with the number of the line, empty ones left out.

    A file named .tsv or .tab has tabs between cells; any other commas, or semicolons where its first line has no
    comma, as spreadsheets of some languages write it.

    Raises
    ------
    InputError
        When it is no table.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected a table in UTF-8, found other bytes; save it as text") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    first = text.partition("\n")[0]
    delimiter = "\t" if path.suffix.lower() in (".tsv", ".tab") else ";" if ";" in first and "," not in first else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        return [(reader.line_num, line) for line in reader if any(cell.strip() for cell in line)]
    except csv.Error as error:
        raise InputError(f"{path}: this is no table ({error}); save it as CSV or TSV") from error


@cache
def _kinds() -> dict[str, Any]:
    hints = get_type_hints(RegisterJob)
    return {f.name: hints[f.name] for f in fields(RegisterJob)}


def _value(name: str, text: str, folder: Path, where: str) -> Any:
    """Return what a cell says, as the value of its field."""
    kind = _kinds()[RENAMED.get(name, name)]
    kinds = get_args(kind) or (kind,)
    if Path in kinds:
        return relative_to(folder, text)
    if list[str] in kinds:
        return text.split(";")
    if name == "init" and text not in INIT_WORDS:
        place = parse_transform(text)[2]
        return text.removesuffix(str(place)) + str(relative_to(folder, str(place)))
    try:
        if bool in kinds:
            return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[text.lower()]
        if int in kinds:
            return int(text)
        if float in kinds:
            return float(text)
    except (ValueError, LookupError):
        what = "yes or no" if bool in kinds else "a number"
        raise InputError(f"{where}: {name} is {what}, found {text!r}") from None
    return text


def relative_to(folder: Path, text: str) -> Path:
    """Return the path that a cell names, from the folder of its table."""
    path = Path(text).expanduser()
    return path if path.is_absolute() else folder / path


def all_to(template: Path, files: Sequence[Path]) -> list[Row]:
    """Return the rows that bring every file onto one image."""
    return named(("", {"fixed": template, "moving": file}) for file in files)


def all_pairs(files: Sequence[Path]) -> list[Row]:
    """Return a row for every two files, the one named first being fixed; the way back is its inverse.

    Raises
    ------
    InputError
        When there are less than two.
    """
    if len(files) < 2:
        raise InputError(f"--all-pairs needs two images or more, found {len(files)}")
    return named(("", {"fixed": a, "moving": b}) for a, b in combinations(files, 2))


def named(drafts: Iterable[tuple[str, Mapping[str, Any]]], *, onto: bool = True) -> list[Row]:
    """Return rows of (id or "", options): those without an id are called by their images.

    Parameters
    ----------
    onto : whether the fixed image is part of the name.

    Raises
    ------
    InputError
        When an id occurs twice, or cannot be the name of a folder.
    """
    drafts = list(drafts)
    ids = [id or _short(o["moving"]) + (f"_to_{_short(o['fixed'])}" if onto else "") for id, o in drafts]
    for (id, _), name in zip(drafts, ids, strict=True):
        if id and safe_name(id) != id:
            raise InputError(_no_folder(name))
    twice = Counter(name.lower() for name in ids)  # some file systems do not tell capitals apart
    for i, (id, _) in enumerate(drafts):
        if twice[ids[i].lower()] > 1:
            if id:
                raise InputError(f"the id {id!r} occurs twice; every pair has an id of its own")
            ids[i] = f"{ids[i]}_{i + 1}"
    if len({name.lower() for name in ids}) < len(ids):
        raise InputError("the names of the images do not tell the pairs apart; give every pair an id")
    return [Row(name, options) for name, (_, options) in zip(ids, drafts, strict=True)]


def _short(path: Path) -> str:
    return safe_name(stem_of(Path(str(path).rpartition("::")[2])))[:80]


def safe_name(text: str) -> str:
    """Return a text as the name of a folder on any system."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip(".-") or "image"

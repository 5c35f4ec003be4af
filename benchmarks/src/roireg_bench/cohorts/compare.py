"""Whether two runs of a cohort left the same, times aside."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

__all__ = ["differences"]


def differences(one: Path, other: Path) -> list[str]:
    """Return what differs between the folders of two runs of one table: files by name, their bytes, the summary.

    Times differ from run to run: `timings` of result.json, the column `seconds` of the summary.
    """
    found = []
    files, others = _files(one), _files(other)
    found += [
        f"{name}: only in {place.name}"
        for name in files ^ others
        for place in (one, other)
        if (place / name).exists()
    ]
    for name in sorted(files & others):
        read = _document if name.endswith("result.json") else Path.read_bytes
        if read(one / name) != read(other / name):
            found.append(f"{name}: different")
    rows = [_rows(place / "summary.tsv") for place in (one, other)]
    if rows[0] != rows[1]:
        found.append("summary.tsv: different")
    ids = [row["id"] for row in rows[0]]
    if len(set(ids)) < len(ids):
        found.append("summary.tsv: a pair occurs twice")
    return found


def _files(place: Path) -> set[str]:
    """Return the files of all pairs, hidden and half-written ones too, and the small pictures."""
    return {
        file.relative_to(place).as_posix()
        for part in ("pairs", "thumbnails", "failures")
        for file in place.glob(f"{part}/**/*")
        if file.is_file()
    }


def _document(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return {key: value for key, value in content.items() if key != "timings"}


def _rows(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as stream:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(stream, delimiter="\t")]

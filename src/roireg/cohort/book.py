"""What is known of every pair of a cohort: read from its folder, entered as tasks end, written as a summary."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from roireg.cohort.cohort import STATES, SUMMARY_FILES
from roireg.cohort.process import Ending
from roireg.core.errors import OutputError
from roireg.core.files import new_folder, readable, write_json
from roireg.jobs import RegisterJob

__all__ = ["Book"]


class Book:
    """The pairs of a cohort and their states.

    Parameters
    ----------
    out : folder of the cohort: results are in ``pairs/ID``, causes of failures in ``failures/ID.json``.
    jobs : (id, registration) of every pair.
    """

    def __init__(self, out: Path, jobs: Sequence[tuple[str, RegisterJob]]) -> None:
        self.out = out
        self.jobs = dict(jobs)
        self.entries: dict[str, dict[str, Any]] = {}

    def state(self, id: str) -> str:
        """Return the state of a pair, of this run or of an earlier one."""
        return str(self.entry(id)["state"])

    def entry(self, id: str) -> dict[str, Any]:
        """Return what is known of a pair."""
        if id not in self.entries:
            self.entries[id] = self._stored(id)
        return self.entries[id]

    def thumbnail(self, id: str) -> Path:
        """Return where the small picture of a pair is."""
        return self.out / "thumbnails" / f"{id}.jpg"

    def _stored(self, id: str) -> dict[str, Any]:
        failure = _read(self.out / "failures" / f"{id}.json")
        if failure is not None:
            return {"state": "error", "cause": failure.get("cause", "")}
        document = _read(self.out / "pairs" / id / "result.json")
        if document is None or not document.get("complete") or document.get("verdict") not in STATES:
            return {"state": "missing"}
        return {
            "state": document["verdict"],
            "reasons": document["reasons"],
            "worse": document.get("worse", []),
            "metrics": document["metrics"],
            "seconds": document["timings"].get("total"),
        }

    def enter(self, id: str, ending: Ending) -> dict[str, Any]:
        """Keep how the task of a pair ended; what went wrong is written down, so that it is known later.

        Returns
        -------
        The entry of the pair.
        """
        file = self.out / "failures" / f"{id}.json"
        if ending.kind == "done":
            value = dict(ending.value)
            entry = {"state": value.pop("verdict"), **value}
            file.unlink(missing_ok=True)
        else:
            entry = {"state": "error", "kind": ending.kind, "cause": ending.cause}
            try:
                write_json(file, {"id": id, "kind": ending.kind, "cause": ending.cause, "trace": ending.trace})
            except (OutputError, OSError):
                # The disk is full, which is the cause of all that follows; the pair has no result and runs again.
                entry["cause"] += "; and this could not be written down"
        self.entries[id] = entry
        return entry

    def pairs(self) -> list[dict[str, Any]]:
        """Return a summary of every pair, in the order of the table."""
        return [
            {
                "id": id,
                "fixed": str(job.fixed),
                "moving": str(job.moving),
                "folder": f"pairs/{id}",
                **{k: v for k, v in self.entry(id).items() if k not in ("stamp",)},
            }
            for id, job in self.jobs.items()
        ]

    def write(self, title: str) -> None:
        """Write ``summary.tsv`` and ``index.html``.

        Raises
        ------
        OutputError
            When they cannot be written, or somebody has changed them.
        """
        from roireg.cohort.page import render

        pairs = self.pairs()
        texts = dict(zip(SUMMARY_FILES, (_table(pairs), render(title, pairs, self.out)), strict=True))
        try:
            with new_folder(self.out) as folder:
                for name, text in texts.items():
                    (folder / name).write_text(text, encoding="utf-8")
        except OutputError as error:
            reason = error.__cause__
            if not isinstance(reason, OSError):
                raise
            raise OutputError(
                f"{self.out}: the summary cannot be written ({reason.strerror}); results of pairs are kept, give the "
                "same command again"
            ) from error


def _read(file: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _table(pairs: Sequence[Mapping[str, Any]]) -> str:
    """Return the pairs as tab-separated values, a column for every metric and one for what it was before."""
    names = list(dict.fromkeys(name for pair in pairs for name in pair.get("metrics", {})))
    earlier = {n for pair in pairs for n, m in pair.get("metrics", {}).items() if m["before"] is not None}
    columns = [(n, suffix) for n in names for suffix in ("", "_before") if not suffix or n in earlier]
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(
        ["id", "state", "fixed", "moving", "folder", "why", *(name + suffix for name, suffix in columns), "seconds"]
    )
    for pair in pairs:
        metrics = pair.get("metrics", {})
        why = pair.get("cause") or "; ".join((*pair.get("reasons", ()), *pair.get("worse", ())))
        cells = [
            _cell(metrics[name]["before" if suffix else "value"]) if name in metrics else ""
            for name, suffix in columns
        ]
        writer.writerow(
            [
                *(pair[k] for k in ("id", "state", "fixed", "moving", "folder")),
                why,
                *cells,
                _cell(pair.get("seconds")),
            ]
        )
    return readable(text.getvalue())


def _cell(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.6g}"

"""A BIDS data set as a cohort: register, then put what was registered where BIDS expects it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import roireg
from roireg.cohort.bids import RECORD, BidsJob
from roireg.cohort.bids_layout import Step, Subject, read_subjects, steps
from roireg.cohort.book import Book
from roireg.cohort.cohort import CohortResult
from roireg.cohort.on_dask import EngineLost
from roireg.cohort.page import render
from roireg.cohort.process import Task
from roireg.cohort.running import run_rows
from roireg.core.errors import InputError
from roireg.core.files import new_folder
from roireg.core.progress import Progress, ProgressEvent

__all__ = ["group", "participants"]


def participants(job: BidsJob, progress: Progress) -> CohortResult:
    """Register the images of subjects and write their derivatives.

    Raises
    ------
    RoiregError
        When the data set cannot be read, or there is nothing to register.
    """
    subjects = read_subjects(job)
    plan = [(subject, steps(job, subject)) for subject in subjects]
    rows = [(step.name, step.job) for _, made in plan for step in made]
    if not rows:
        raise InputError(
            f"{job.bids}: every subject has one image; there is nothing to register unless --template is given"
        )
    result = run_rows(rows, job, job.work, progress, title=f"{job.bids.resolve().name}: all registrations")
    _write_description(job)
    states = {pair["id"]: pair for pair in result.pairs}
    lost = result.left
    try:
        with job.engine(job.limits(None), lambda text: None) as engine:
            tasks = [_export(job, subject, made, states) for subject, made in plan]
            for done, (task, ending) in enumerate(engine.run(tasks), 1):
                detail = f"sub-{task.key}: {ending.cause}" if ending.cause else ""
                progress(ProgressEvent("writing derivatives", done / len(tasks), detail, notice=bool(detail)))
                if ending.cause:
                    lost = lost or f"the derivatives of sub-{task.key} are not written: {ending.cause}"
    except EngineLost as error:
        lost = lost or str(error)
    return CohortResult(job.out, result.pairs, lost)


def _export(job: BidsJob, subject: Subject, made: Sequence[Step], states: Mapping[str, Any]) -> Task:
    arguments = {
        "out": str(job.out.absolute()),
        "subject": subject.label,
        "steps": [
            {
                "name": step.name,
                "stem": step.scan.stem,
                "folder": step.scan.folder,
                "suffix": step.scan.suffix,
                "source": step.scan.relative,
                "moving": str(step.scan.path.absolute()),
                "fixed": str(step.job.fixed.absolute()),
                "here": step.here,
                "to": step.to,
                "across": step.across,
                "labels": step.job.fixed_labels is not None,
                "pair": states[step.name],
            }
            for step in made
        ],
        "reference": subject.reference.relative,
        "space": job.space,
    }
    return Task(subject.label, "roireg.cohort.bids_files:export_subject", arguments)


def _write_description(job: BidsJob) -> None:
    """Write what makes the folder a derivative data set."""
    source = json.loads((job.bids / "dataset_description.json").read_text(encoding="utf-8"))
    description = {
        "Name": f"Registrations of {source.get('Name', job.bids.resolve().name)}",
        "BIDSVersion": source.get("BIDSVersion", "1.9.0"),
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "roireg", "Version": roireg.__version__}],
        "SourceDatasets": [{"URL": job.bids.resolve().as_uri()}],
        "DatasetLinks": {"raw": job.bids.resolve().as_uri()},
    }
    with new_folder(job.out, record=RECORD, keep=True) as folder:
        _write(folder / "dataset_description.json", description)
        (folder / ".bidsignore").write_text(_IGNORED, encoding="utf-8")
        (folder / "README").write_text(_README.format(name=source.get("Name", "the data set")), encoding="utf-8")


_IGNORED = "work\nfigures\n*.html\n*_xfm.*\n*_volumes.tsv\n"
"""What validators need not know; transforms are no part of the standard yet, and are ignored elsewhere, too."""

_README = """Registrations of {name}, made by roireg.

sub-*/**/*_from-A_to-B_mode-image_xfm.h5 brings images of A onto B: an ITK composite transform, LPS millimetres, which
maps points of B to points of A. *_space-B_desc-roireg_* lies on the grid of B. sub-*.html shows the registrations of
a subject; work/ keeps all of each, as `roireg register` writes it.
"""


def _write(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def group(job: BidsJob, progress: Progress) -> CohortResult:
    """Put what was registered together: one page, and one table of the volumes of labels.

    Raises
    ------
    InputError
        When no subject was registered yet.
    """
    subjects = read_subjects(job)
    made = [step for subject in subjects for step in steps(job, subject)]
    book = Book(job.work, [(step.name, step.job) for step in made])
    pairs = book.pairs()
    if all(pair["state"] == "missing" for pair in pairs):
        raise InputError(f"{job.out}: no subject is registered here yet; run the participant level first")
    for pair in pairs:
        subject = pair["id"].split("_")[0]
        pair["folder"] = f"{subject}/figures/{pair['id']}"
    volumes = [
        row
        for subject in subjects
        for row in _rows_of(job.out / f"sub-{subject.label}/sub-{subject.label}_desc-roireg_volumes.tsv")
    ]
    progress(ProgressEvent("writing", 0.5))
    with new_folder(job.out, record="work/records/group.json") as folder:
        (folder / "group.html").write_text(render("All subjects", pairs, job.out), encoding="utf-8")
        if volumes:
            text = io.StringIO()
            writer = csv.DictWriter(text, list(volumes[0]), delimiter="\t", lineterminator="\n")
            writer.writeheader()
            writer.writerows(volumes)
            (folder / "group_desc-roireg_volumes.tsv").write_text(text.getvalue(), encoding="utf-8")
    return CohortResult(job.out, pairs)


def _rows_of(file: Path) -> list[dict[str, str]]:
    if not file.is_file():
        return []
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))

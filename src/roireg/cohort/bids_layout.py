"""What is in a BIDS data set, and what is registered to what."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from roireg.cohort.bids import BidsJob
from roireg.core.errors import InputError
from roireg.core.files import stem_of
from roireg.jobs import RegisterJob

__all__ = ["Scan", "Step", "Subject", "read_subjects", "steps"]

NO_IMAGES = ("dseg", "probseg", "mask", "defacemask")
"""Suffixes of files that hold no intensities."""


@dataclass(frozen=True)
class Scan:
    """One image of a subject.

    Attributes
    ----------
    path : the file. relative : its path in the data set.
    session : its label, empty where a data set has none.
    suffix : what kind of image it is, such as T1w.
    stem : its entities as the file name has them, without the suffix.
    labels : a label map of the same image in a derivative data set.
    """

    path: Path
    relative: str
    session: str
    suffix: str
    stem: str
    labels: Path | None = None

    @property
    def folder(self) -> str:
        """Folder of its derivatives: ``sub-01/ses-1/anat``."""
        return Path(self.relative).parent.as_posix()


@dataclass(frozen=True)
class Subject:
    """The images of a subject, its reference first."""

    label: str
    scans: tuple[Scan, ...]

    @property
    def reference(self) -> Scan:
        """The image that the others are brought onto."""
        return self.scans[0]


@dataclass(frozen=True)
class Step:
    """One registration of a subject: `scan` onto its reference, or the reference (`scan`) onto the template.

    Attributes
    ----------
    name : file name of its transform without ``_mode-...``.
    to : name of the space that the scan goes to. here : name of the space that it comes from.
    """

    subject: str
    name: str
    scan: Scan
    here: str
    to: str
    job: RegisterJob
    across: bool


def read_subjects(job: BidsJob) -> list[Subject]:
    """Read a data set with pybids.

    Raises
    ------
    InputError
        When there is no anatomical image of the subjects, or a subject has no reference.
    """
    from bids import BIDSLayout

    with warnings.catch_warnings():
        # pybids speaks of its own future.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        layout = BIDSLayout(job.bids, derivatives=False, validate=True)
        asked: dict[str, Any] = {"datatype": "anat", "extension": [".nii", ".nii.gz"]}
        if job.session_label:
            asked["session"] = [label.removeprefix("ses-") for label in job.session_label]
        labels = layout.get_subjects()
        wanted = [label.removeprefix("sub-") for label in job.participant_label or labels]
        unknown = sorted(set(wanted) - set(labels))
        if unknown:
            raise InputError(
                f"{job.bids}: there is no subject {', '.join(unknown)}, only {', '.join(sorted(labels))}"
            )
        files = {label: layout.get(subject=label, **asked) for label in sorted(wanted)}
    segmented = _segmentations(job)
    return [_subject(job, label, found, segmented) for label, found in files.items()]


def _segmentations(job: BidsJob) -> Mapping[str, Path]:
    """Return the label maps of derivative data sets by the names of their images without the suffix."""
    maps: dict[str, Path] = {}
    for file in sorted((job.bids / "derivatives").glob("*/sub-*/**/anat/*_dseg.nii*")):
        entities = [part for part in stem_of(file).split("_")[:-1] if not part.startswith(("desc-", "space-"))]
        spaced = any(part.startswith("space-") for part in stem_of(file).split("_"))
        if not spaced and job.out.resolve() not in file.resolve().parents:
            maps.setdefault("_".join(entities), file)
    return maps


def _subject(job: BidsJob, label: str, files: Sequence[Any], segmented: Mapping[str, Path]) -> Subject:
    scans = []
    for file in files:
        suffix = file.entities["suffix"]
        if suffix in NO_IMAGES:
            continue
        path = Path(file.path)
        stem = stem_of(path).removesuffix(f"_{suffix}")
        relative = path.relative_to(job.bids.resolve()).as_posix()
        scans.append(Scan(path, relative, str(file.entities.get("session", "")), suffix, stem))
    scans.sort(key=lambda s: (s.suffix != job.reference, s.session, s.relative))
    if not scans or scans[0].suffix != job.reference:
        kinds = ", ".join(sorted({s.suffix for s in scans})) or "no anatomical image"
        raise InputError(
            f"sub-{label}: expected a {job.reference} image, found {kinds}; name another with --reference"
        )
    first = scans[0]
    first = replace(first, labels=segmented.get(first.stem))
    return Subject(label, (first, *scans[1:]))


def steps(job: BidsJob, subject: Subject) -> list[Step]:
    """Return the registrations of a subject: the images of a subject rigidly, the reference deformably."""
    first = subject.reference
    made = []
    for scan in subject.scans[1:]:
        # Between sessions a space needs the session in its name.
        to = first.suffix if scan.session == first.session else f"ses{first.session}{first.suffix}"
        if scan.suffix == first.suffix and scan.session == first.session:
            to = f"{first.suffix}ref"  # a second run of the same kind
        settings = job.settings | {"type": "rigid"}
        made.append(
            _step(job, subject, scan, to, settings | {"fixed": first.path, "moving": scan.path}, across=False)
        )
    if job.template is not None:
        options = {"fixed": job.template, "moving": first.path, "fixed_labels": job.template_labels}
        settings = job.settings | options | {"moving_labels": first.labels}
        made.append(_step(job, subject, first, job.space, settings, across=True))
    return made


def _step(job: BidsJob, subject: Subject, scan: Scan, to: str, settings: dict[str, Any], *, across: bool) -> Step:
    name = f"{scan.stem}_from-{scan.suffix}_to-{to}"
    registration = RegisterJob(out=job.work / "pairs" / name, resume=True, **settings)
    return Step(subject.label, name, scan, scan.suffix, to, registration, across)

"""``bids``: the images of a BIDS data set, registered within and across its subjects, as BIDS derivatives."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from roireg.cohort.cohort import CohortResult, RowOptions
from roireg.cohort.engines import needs
from roireg.core.errors import InputError
from roireg.core.files import check_folder, stem_of
from roireg.core.progress import Progress, silent
from roireg.jobs.files import check_input
from roireg.jobs.job import check_words
from roireg.jobs.options import option

__all__ = ["RECORD", "BidsJob"]

RECORD = "work/records/dataset.json"
"""What names the files that describe the data set of the derivatives."""


@dataclass(frozen=True, kw_only=True)
class BidsJob(RowOptions):
    """Every image of a subject onto its reference, rigidly, and the references onto a template."""

    bids: Annotated[Path, typer.Argument(metavar="BIDS", help="Folder of the data set.")]
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of the derivatives.")]
    analysis: Annotated[
        Literal["participant", "group"],
        typer.Argument(metavar="participant|group", help="Register subjects, or put what was registered together."),
    ]
    participant_label: Annotated[
        list[str] | None,
        option("--participant-label", metavar="LABEL", help="Only this subject, without sub-; repeatable."),
    ] = None
    session_label: Annotated[
        list[str] | None, option("--session-label", metavar="LABEL", help="Only this session; repeatable.")
    ] = None
    reference: Annotated[
        str,
        option(
            "--reference", metavar="SUFFIX", help="Image of a subject that its others go onto; of its first session."
        ),
    ] = "T1w"
    template: Annotated[
        Path | None, option("--template", metavar="IMAGE", help="Image that the references go onto, deformably.")
    ] = None
    template_labels: Annotated[
        Path | None, option("--template-labels", metavar="LABELS", help="Label map of the template, brought back.")
    ] = None
    to: Annotated[
        str | None,
        option(
            "--to", metavar="NAME", help="Name of the space of the template in file names; from its file if left out."
        ),
    ] = None

    @property
    def space(self) -> str:
        """Name of the space of the template; a BIDS label has letters and digits alone.

        Raises
        ------
        InputError
            When it is another.
        """
        if self.to is not None:
            if not re.fullmatch("[A-Za-z0-9]+", self.to):
                raise InputError(
                    f"--to is a label of letters and digits such as MNI152NLin2009cAsym, found {self.to!r}"
                )
            return self.to
        if self.template is None:
            return ""
        named = re.match("tpl-([A-Za-z0-9]+)", self.template.name)
        return named[1] if named else re.sub("[^A-Za-z0-9]", "", stem_of(self.template)) or "template"

    @property
    def work(self) -> Path:
        """Where the results of the registrations are, as `roireg register` writes them."""
        return self.out / "work"

    def check(self) -> None:
        """Refuse what is wrong for all subjects.

        Raises
        ------
        RoiregError
            When there is no data set, options contradict each other, or the folder cannot be written.
        """
        check_words(self)
        self.check_settings()
        self.check_engine()
        _ = self.states, self.space
        needs("bids")
        if not (self.bids / "dataset_description.json").is_file():
            raise InputError(
                f"{self.bids}: expected a BIDS data set, which has a dataset_description.json; name its folder"
            )
        for name, value in (("--to", self.to), ("--template-labels", self.template_labels)):
            if value is not None and self.template is None:
                raise InputError(f"{name} is of --template, which is not given; add it or leave {name} out")
        for file in (self.template, self.template_labels, self.config):
            if file is not None:
                check_input(file)
        if self.out.resolve() == self.bids.resolve():
            raise InputError(
                f"{self.out}: derivatives go into a folder of their own, such as {self.bids}/derivatives/roireg"
            )
        check_folder(self.out, names=("dataset_description.json", ".bidsignore", "README"), record=RECORD)

    def run(self, progress: Progress = silent) -> CohortResult:
        """Register what is missing or changed and write the derivatives.

        Raises
        ------
        RoiregError
            When the data set cannot be read or something cannot be written; pairs are told in the result.
        """
        from roireg.cohort.bids_running import group, participants

        self.check()
        return participants(self, progress) if self.analysis == "participant" else group(self, progress)

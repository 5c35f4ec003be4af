"""``template``: an unbiased mean of images, and what is known of their regions, on it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from roireg.cohort.cohort import CohortResult, RowOptions
from roireg.cohort.rows import check_ids, named, read_lines, relative_to
from roireg.core.errors import InputError
from roireg.core.files import check_folder
from roireg.core.progress import Progress, silent
from roireg.jobs.files import check_input
from roireg.jobs.job import check_words
from roireg.jobs.options import OutFolder, option

__all__ = ["Member", "TemplateJob"]

COLUMNS = ("id", "image", "labels")

TEMPLATE_FILES = (
    "template.nii.gz",
    "labels.nii.gz",
    "regions.nii.gz",
    "volumes.tsv",
    "transforms/*.h5",
)


@dataclass(frozen=True)
class Member:
    """One image of a template, and its label map where there is one."""

    id: str
    image: Path
    labels: Path | None = None


@dataclass(frozen=True, kw_only=True)
class TemplateJob(RowOptions):
    """An unbiased template of images."""

    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="TABLE|IMAGES...", help="Images, or a table (.csv or .tsv) with the columns id, image, labels."
        ),
    ]
    out: OutFolder
    iterations: Annotated[
        int,
        option("--iterations", min=1, max=50, metavar="N", help="How often all images are registered to the mean."),
    ] = 4
    affine_iterations: Annotated[
        int, option("--affine-iterations", min=0, metavar="N", help="How many of them move by an affine map alone.")
    ] = 1
    start: Annotated[
        Path | None,
        option("--start", metavar="IMAGE", help="Where to begin, instead of the mean with centres together."),
    ] = None
    sharpen: Annotated[
        float,
        option("--sharpen", min=0, max=1, metavar="S", help="How much edges of the mean are sharpened, 0 to 1."),
    ] = 0.5

    def check(self) -> None:
        """Refuse what is wrong for all images.

        Raises
        ------
        RoiregError
            When options contradict each other, a table is none, or the folder cannot be written.
        """
        check_words(self)
        self.check_settings()
        self.check_engine()
        _ = self.states
        if self.affine_iterations > self.iterations:
            raise InputError(
                f"--affine-iterations {self.affine_iterations} of --iterations {self.iterations}; give fewer"
            )
        for file in (*self.files, self.start, self.config):
            if file is not None:
                check_input(file)
        members = self.members()
        if len(members) < 2:
            raise InputError(f"a template is made of two images or more, found {len(members)}")
        read = [p for m in members for p in (m.image, m.labels) if p is not None]
        for file in read:
            check_input(file)
        check_folder(self.out, names=TEMPLATE_FILES, inputs=[*self.files, *read])

    def members(self) -> list[Member]:
        """Return the images with their ids.

        Raises
        ------
        InputError
            When a table is none, or images cannot be told apart.
        """
        table = self.files[0]
        if len(self.files) > 1 or table.suffix.lower() not in (".csv", ".tsv"):
            drafts: list[tuple[str, Path, Path | None]] = [("", file, None) for file in self.files]
        else:
            drafts = _members_of(table)
        # Rows of a cohort know how to name and to refuse; here a row has one image.
        rows = named(((id, {"moving": image}) for id, image, _ in drafts), onto=False)
        return [Member(row.id, image, labels) for row, (_, image, labels) in zip(rows, drafts, strict=True)]

    def run(self, progress: Progress = silent) -> CohortResult:
        """Build the template; what an earlier call has finished is kept.

        Raises
        ------
        RoiregError
            When too few images can be registered, or something cannot be written.
        """
        from roireg.cohort.template_running import build

        self.check()
        return build(self, progress)


def _members_of(table: Path) -> list[tuple[str, Path, Path | None]]:
    lines = read_lines(table)
    header = [name.strip() for name in lines[0][1]] if lines else []
    if "image" not in header or not set(header) <= set(COLUMNS) or len(set(header)) < len(header):
        raise InputError(
            f"{table}: expected columns out of {', '.join(COLUMNS)}, found {', '.join(header) or 'none'}"
        )
    members = []
    for number, cells in lines[1:]:
        if len(cells) != len(header):
            raise InputError(f"{table}, line {number}: expected {len(header)} cells, found {len(cells)}")
        row = {name: cell.strip() for name, cell in zip(header, cells, strict=True)}
        if not row["image"]:
            raise InputError(f"{table}, line {number}: the cell of image is empty; name an image")
        labels = relative_to(table.parent, row["labels"]) if row.get("labels") else None
        members.append((row.get("id", ""), relative_to(table.parent, row["image"]), labels))
    check_ids(table, [(number, id) for (number, _), (id, _, _) in zip(lines[1:], members, strict=True)])
    return members

"""Case sets: a folder of images, label maps and landmarks, and the ``pairs.json`` that says what belongs together.

A registration maps fixed points to moving points. Labels, landmarks and true transforms are for scoring alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator

from roireg.bench.protocol import Modality
from roireg.core.errors import GeometryError, InputError
from roireg.core.image import Image
from roireg.core.transforms import Affine
from roireg.io import read_image, read_labels, read_points, sha256_of
from roireg.pipeline.checks import check_inputs, check_labels, check_points

__all__ = ["Case", "CaseFolder", "CaseSet", "choose_cases", "find_folders", "find_problems", "load_folder"]

FILE = "pairs.json"
SCORED = ("fixed_labels", "moving_labels", "fixed_points", "moving_points")
FILES = ("fixed", "moving", *SCORED)

Name = Annotated[str, Field(min_length=1)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Case(_Record):
    """One pair of images and what is known about it; paths are relative to the folder of the set, or absolute."""

    id: Name = Field(description="unique within the set")
    fixed: Name = Field(description="image that stays")
    moving: Name = Field(description="image that is brought onto it")
    fixed_labels: Name | None = Field(None, description="label map on the grid of the fixed image, 0 = background")
    moving_labels: Name | None = Field(None, description="label map on the grid of the moving image, same ids")
    fixed_points: Name | None = Field(None, description="CSV of landmarks: x,y pixels (2D) or x,y,z mm LPS (3D)")
    moving_points: Name | None = Field(None, description="CSV of landmarks, row i belongs to row i of the fixed ones")
    true_affine: list[list[float]] | None = Field(None, description="homogeneous matrix, fixed to moving points")
    notes: str = ""

    @model_validator(mode="after")
    def _complete(self) -> Case:
        for what in ("labels", "points"):
            if (getattr(self, f"fixed_{what}") is None) != (getattr(self, f"moving_{what}") is None):
                raise ValueError(f"{what} are scored against each other: name those of both images or of none")
        if self.fixed_labels is None and self.fixed_points is None and self.true_affine is None:
            raise ValueError("there is nothing to score: name labels, points or a true affine")
        return self


class Shown(_Record):
    """What the images show."""

    fixed: str
    moving: str


class CaseSet(_Record):
    """The content of a ``pairs.json``; `CaseSet.model_json_schema()` is the schema of the format."""

    name: Name
    ndim: Literal[2, 3]
    task: str = Field(
        description="intra-subject, inter-subject, multimodal, synthetic ...; methods with settings for images of "
        "two modalities take those for 'multimodal'"
    )
    modality: Shown
    terms: str = Field(description="licence and citation")
    source: str = Field(description="where the files come from")
    labels: dict[PositiveInt, str] | None = Field(description="label id -> structure")
    spacing_known: bool = Field(description="whether world units are true lengths")
    pairs: list[Case] = Field(min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> CaseSet:
        ids = [case.id for case in self.pairs]
        if len(set(ids)) != len(ids):
            raise ValueError(f"the id {next(i for i in ids if ids.count(i) > 1)!r} occurs twice")
        side = self.ndim + 1
        for case in self.pairs:
            if case.true_affine is not None and np.shape(_padded(case.true_affine)) != (side, side):
                raise ValueError(f"pair {case.id!r}: the true affine of a {self.ndim}D set is {side} x {side}")
        return self


def _padded(matrix: list[list[float]]) -> list[list[float]]:
    """Return rows of equal length (NaN at the end), so that a ragged matrix has a shape of its own."""
    longest = max((len(row) for row in matrix), default=0)
    return matrix if all(len(row) == longest for row in matrix) else []


@dataclass(frozen=True)
class CaseFolder:
    """A case set and where its files are."""

    path: Path
    content: CaseSet

    def file(self, case: Case, what: str) -> Path | None:
        """Return the path of a file of a case ("fixed", "moving_labels" ...), None where the case has none."""
        name = getattr(case, what)
        return None if name is None else self.path / name

    @property
    def modality(self) -> Modality:
        """How alike the intensities of fixed and moving images are, as far as the task of the set says it."""
        return "multi" if self.content.task == "multimodal" else "mono"

    def digest(self, case: Case) -> str:
        """Return a hash of everything that decides images and scores of a case: contents, not names."""
        files = {what: self.file(case, what) for what in FILES}
        found = {what: None if file is None else sha256_of(file) for what, file in files.items()}
        text = json.dumps([found, case.true_affine], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def load_folder(path: str | Path) -> CaseFolder:
    """Read a ``pairs.json`` and make sure that every file it names is there.

    Parameters
    ----------
    path : the folder with the ``pairs.json``.

    Raises
    ------
    InputError
        When the file is missing, no JSON, not of this format, or names a file that is missing.
    """
    folder = Path(path)
    place = folder / FILE
    if not place.is_file():
        raise InputError(f"{folder}: expected a case set, found no {FILE} in it; name the folder of a set")
    try:
        content = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{place}: not readable as JSON ({error}); correct the file") from error
    try:
        cases = CaseSet.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole"
        message = first["msg"].removeprefix("Value error, ")
        raise InputError(f"{place}: {where}: {message}; correct the file") from error
    found = CaseFolder(folder, cases)
    for case in cases.pairs:
        for what in FILES:
            file = found.file(case, what)
            if file is not None and not file.exists():
                raise InputError(f"{place}: pair {case.id!r} names {file.name} as {what}, which is missing; add it")
    return found


def find_folders(root: str | Path, names: Collection[str] | None = None) -> list[CaseFolder]:
    """Return the case set in a folder, or the sets in its subfolders, sorted by folder name.

    Parameters
    ----------
    names : sets to take, by name of their folder; None takes all.

    Raises
    ------
    InputError
        When there is none, one that is asked for is missing, two sets have one name, or one is malformed.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"{root}: there is no such folder; name a case set or a folder of them")
    own = (root / FILE).is_file()
    places = [root] if own else sorted(p.parent for p in root.glob(f"*/{FILE}"))
    known = {place.resolve().name: place for place in places}
    if not known:
        raise InputError(f"{root}: expected case sets, found no {FILE} here or one level below; check the folder")
    if missing := sorted(set(names or ()) - set(known)):
        raise InputError(f"{root}: there is no case set {', '.join(missing)}; found {', '.join(known)}")
    folders = [load_folder(place) for name, place in known.items() if names is None or name in names]
    titles = [folder.content.name for folder in folders]
    if twice := sorted({title for title in titles if titles.count(title) > 1}):
        raise InputError(f"{root}: several case sets are named {', '.join(twice)}; names must differ")
    return folders


def choose_cases(folders: Sequence[CaseFolder], patterns: Sequence[str]) -> list[CaseFolder]:
    """Return the sets with the pairs that any pattern names; sets without one are left out.

    Parameters
    ----------
    patterns : shell patterns, ``set`` for all pairs of the sets of that name or ``set/pair``, such as
        ``"acdc_*"`` or ``"hippocampus/02*"``; none takes everything.

    Raises
    ------
    InputError
        When a pattern fits nothing.
    """
    if not patterns:
        return list(folders)
    chosen = []
    used: set[str] = set()
    for folder in folders:
        name, kept = folder.content.name, []
        for case in folder.content.pairs:
            fits = [p for p in patterns if fnmatchcase(f"{name}/{case.id}", p if "/" in p else f"{p}/*")]
            used.update(fits)
            if fits:
                kept.append(case)
        if kept:
            chosen.append(CaseFolder(folder.path, folder.content.model_copy(update={"pairs": kept})))
    if idle := [p for p in patterns if p not in used]:
        known = ", ".join(folder.content.name for folder in folders)
        raise InputError(f"no pair fits {', '.join(idle)}; expected set or set/pair, of the sets {known}")
    return chosen


def find_problems(folder: CaseFolder) -> list[str]:
    """Read every file of a case set and say what could not be registered or scored, a sentence per pair.

    Problems are: a file that is unreadable, an image that is constant or not finite or of another dimension than the
    set, a label map that is empty, lies on another grid than its image, has an id that the set does not name or
    none in common with its partner, landmarks that differ in number, a singular true affine, and images that share
    no part of space.
    """
    found = []
    for case in folder.content.pairs:
        try:
            _check_case(folder, case)
        except InputError as error:
            found.append(f"{folder.path / FILE}: pair {case.id!r}: {error}")
    return found


def _check_case(folder: CaseFolder, case: Case) -> None:
    images = {side: read_image(folder.path / getattr(case, side)) for side in ("fixed", "moving")}
    for image in images.values():
        if image.ndim != folder.content.ndim:
            raise GeometryError(
                f"{image.name} is {image.ndim}D but the set says ndim {folder.content.ndim}; correct it"
            )
    check_inputs(images["fixed"], images["moving"], init="centers")
    if case.fixed_labels is not None and case.moving_labels is not None:
        _check_label_maps(folder, [case.fixed_labels, case.moving_labels], list(images.values()))
    if case.fixed_points is not None and case.moving_points is not None:
        names = {"fixed": case.fixed_points, "moving": case.moving_points}
        points = {side: read_points(folder.path / name).points for side, name in names.items()}
        for side, other in (("fixed", "moving"), ("moving", "fixed")):
            check_points(points[side], images[side], name=names[side], partner=points[other])
    if case.true_affine is not None:
        Affine(np.array(case.true_affine))


def _check_label_maps(folder: CaseFolder, names: Sequence[str], images: Sequence[Image]) -> None:
    known = folder.content.labels
    present = []
    for name, image in zip(names, images, strict=True):
        labels = read_labels(folder.path / name)
        check_labels(labels, image)
        ids = set(torch.unique(labels.data).tolist()) - {0}
        if known is not None and (unnamed := sorted(ids - set(known))):
            raise InputError(f"{labels.name}: `labels` of the set does not name the ids {unnamed[:8]}; name them")
        present.append(ids)
    if not present[0] & present[1]:
        raise InputError(f"{names[0]} and {names[1]} share no label id; equal ids must mean equal structures")

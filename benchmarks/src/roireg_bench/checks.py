"""Whether case sets can be used: every file is read, and what is wrong becomes a sentence per pair."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from roireg.core.errors import GeometryError, InputError
from roireg.io import read_image
from roireg.pipeline.checks import check_inputs
from roireg_bench.cases import FILE, Case, CaseFolder, find_faults, open_set, set_places
from roireg_bench.scoring import read_truth

__all__ = ["CheckedSet", "check_folders", "find_problems"]


def find_problems(folder: CaseFolder) -> list[str]:
    """Read every file of a case set and say what could not be registered or scored, a sentence per pair.

    Problems are those of `find_faults`, and: a file that is unreadable, an image that is constant or not finite or of
    another dimension than the set, a label map that is empty, lies on another grid than its image, has an id that the
    set does not name or none in common with its partner, landmarks that differ in number, a singular true affine, and
    images that share no part of space.
    """
    faults = find_faults(folder)
    problems = []
    for i, case in enumerate(folder.content.pairs):
        if i in faults:
            problems.append(f"{folder.path / FILE}: {faults[i]}")
            continue
        try:
            _check_case(folder, case)
        except InputError as error:
            problems.append(f"{folder.path / FILE}: pair {case.id!r}: {error}")
    return problems


@dataclass(frozen=True)
class CheckedSet:
    """What a look at a case set found.

    Attributes
    ----------
    name : of the set, or of its folder where the file does not say it.
    pairs : how many it lists.
    problems : a sentence for every pair that could not be used, and for every key of the set that is wrong.
    """

    name: str
    pairs: int
    problems: Sequence[str]


def check_folders(root: str | Path) -> Iterator[CheckedSet]:
    """Look at the case set in a folder, or at the sets in its subfolders, one after the other; see `find_problems`.

    Raises
    ------
    InputError
        When there is none.
    """
    titles: set[str] = set()
    for place in set_places(Path(root)):
        case_set = open_set(place)
        problems = list(case_set.wrong)
        name = place.resolve().name
        if case_set.folder is not None:
            name = case_set.folder.content.name
            problems += find_problems(case_set.folder)
            if name in titles:
                problems.append(f"{place / FILE}: another case set is named {name!r} too; names must differ")
            titles.add(name)
        yield CheckedSet(name, case_set.count, problems)


def _check_case(folder: CaseFolder, case: Case) -> None:
    fixed, moving = (read_image(folder.path / name) for name in (case.fixed, case.moving))
    for image in (fixed, moving):
        if image.ndim != folder.content.ndim:
            raise GeometryError(
                f"{image.name} is {image.ndim}D but the set says ndim {folder.content.ndim}; correct it"
            )
    check_inputs(fixed, moving, init="centers")
    names = folder.content.labels
    for labels in read_truth(folder, case).labels or ():
        ids = set(torch.unique(labels.data).tolist()) - {0}
        if names is not None and (unnamed := sorted(ids - set(names))):
            raise InputError(f"{labels.name}: `labels` of the set does not name the ids {unnamed[:8]}; name them")

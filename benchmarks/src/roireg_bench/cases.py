"""Case sets: a folder of images, label maps and landmarks, and the ``pairs.json`` that says what belongs together.

A registration maps fixed points to moving points. Labels, landmarks and true transforms are for scoring alone.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator

from roireg.core.errors import InputError
from roireg.io import sha256_of
from roireg.io.mistakes import explained
from roireg_bench.protocol import Modality

__all__ = [
    "Case",
    "CaseFolder",
    "CaseSet",
    "choose_cases",
    "data_files",
    "find_faults",
    "find_folders",
    "OpenSet",
    "load_folder",
    "open_set",
    "set_places",
]

FILE = "pairs.json"
SCORED = ("fixed_labels", "moving_labels", "fixed_points", "moving_points")
FILES = ("fixed", "moving", *SCORED)

HEADER = 1 << 20
"""Bytes of an image file in which its header ends."""

PLAIN = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]+$"
"""Text of one line: titles and ids stand in tables, file names and log lines."""


def _plain(text: str) -> str:
    if not re.fullmatch(PLAIN, text):
        raise ValueError(f"{text!r} holds a line break or another control character")
    return text


Name = Annotated[str, Field(min_length=1)]
Title = Annotated[str, Field(min_length=1, json_schema_extra={"pattern": PLAIN}), AfterValidator(_plain)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Case(_Record):
    """One pair of images and what is known about it; paths are relative to the folder of the set, or absolute."""

    id: Title = Field(description="unique within the set")
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
    """The content of a ``pairs.json``; `CaseSet.model_json_schema()` is the schema of the format.

    What a schema cannot say (ids are unique, files are there) is what `find_faults` looks at.
    """

    name: Title
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
        """Return a hash of everything that decides images and scores of a case: contents and modality, not names."""
        files = {what: self.file(case, what) for what in FILES}
        digests = {what: None if file is None else _sum(file) for what, file in files.items()}
        text = json.dumps([digests, case.true_affine, self.modality], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _sum(file: Path) -> str:
    return "+".join([sha256_of(file), *(sha256_of(part) for part in data_files(file))])


def data_files(file: Path) -> list[Path]:
    """Return the other files of an image in several: what a .mhd or .nhdr refers to, the .img of a .hdr."""
    if pair := re.fullmatch(r"(.+)\.(?:hdr|img)(?:\.gz)?", file.name, re.IGNORECASE):
        parts = [file.with_name(f"{pair[1]}{ending}") for ending in (".hdr", ".img", ".hdr.gz", ".img.gz")]
        return [part for part in parts if part != file and part.is_file()]
    if file.suffix.lower() not in (".mhd", ".nhdr"):
        return []
    with file.open("rb") as stream:
        header = stream.read(HEADER).decode("latin-1")
    entry = re.search(r"^(?:ElementDataFile\s*=|data ?file:)(.*)", header, re.IGNORECASE | re.MULTILINE)
    if entry is None:
        return []
    # One name, a pattern such as "slice%03d.raw 1 20 1", or LIST and a name on every line that follows.
    listed = entry[1].strip().startswith("LIST")
    parts = []
    for name in header[entry.end() :].split("\n") if listed else [entry[1]]:
        place = file.parent / name.strip()
        if "%" in name:
            pattern = re.sub(r"%\d*d", "*", place.name.split()[0])
            parts += sorted(place.parent.glob(pattern))
        elif place.is_file():
            parts.append(place)
    return parts


def load_folder(path: str | Path) -> CaseFolder:
    """Read a ``pairs.json`` and make sure that every file it names is there.

    Parameters
    ----------
    path : the folder with the ``pairs.json``.

    Raises
    ------
    InputError
        When the file is missing, no JSON, not of this format, or has pairs with a fault, see `find_faults`; the
        message has one sentence for each.
    """
    return _all_sound([open_set(Path(path))])[0]


@dataclass(frozen=True)
class OpenSet:
    """What could be read of a set: `folder` holds the pairs that are of the format, None where the rest is not."""

    place: Path
    folder: CaseFolder | None
    count: int
    wrong: Sequence[str]


def open_set(place: Path) -> OpenSet:
    """Read the ``pairs.json`` of a folder as far as it can be read.

    Raises
    ------
    InputError
        When there is none.
    """
    file = place / FILE
    if not file.is_file():
        raise InputError(f"{place}: expected a case set, found no {FILE} in it; name the folder of a set")
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        return OpenSet(place, None, 0, [f"{file}: not readable as JSON ({error}); correct the file"])
    listed = content.get("pairs") if isinstance(content, dict) else None
    pairs = listed if isinstance(listed, list) else []
    try:
        return OpenSet(place, CaseFolder(place, CaseSet.model_validate(content)), len(pairs), [])
    except ValidationError as error:
        problems = error.errors()
    wrong: dict[tuple[int | str, ...], str] = {}
    for problem in problems:
        # One sentence for each pair, and for each key of the set.
        part = problem["loc"][: 2 if problem["loc"][:1] == ("pairs",) else 1]
        wrong.setdefault(part, f"{file}: {explained([problem])}; correct the file")
    folder = None
    sound = [pair for i, pair in enumerate(pairs) if ("pairs", i) not in wrong]
    if sound and all(len(part) == 2 for part in wrong):
        folder = CaseFolder(place, CaseSet.model_validate(content | {"pairs": sound}))
    return OpenSet(place, folder, len(pairs), list(wrong.values()))


def _all_sound(sets: Sequence[OpenSet]) -> list[CaseFolder]:
    wrong: list[str] = []
    for case_set in sets:
        wrong += case_set.wrong
        if case_set.folder is not None:
            wrong += [f"{case_set.place / FILE}: {fault}" for fault in find_faults(case_set.folder).values()]
    if wrong:
        raise InputError("\n".join(wrong))
    return [case_set.folder for case_set in sets if case_set.folder is not None]


def find_faults(folder: CaseFolder) -> dict[int, str]:
    """Return what is wrong with pairs at first sight, without reading an image: position in the set -> what.

    Faults are: an id that occurs twice, a true affine of another dimension than the set, a file that is missing, and
    one image that is both fixed and moving.
    """
    ids = Counter(case.id for case in folder.content.pairs)
    side = folder.content.ndim + 1
    faults = {}
    for i, case in enumerate(folder.content.pairs):
        files = {what: file for what in FILES if (file := folder.file(case, what)) is not None}
        missing = [f"{getattr(case, what)} as {what}" for what, file in files.items() if not file.exists()]
        if ids[case.id] > 1:
            faults[i] = f"the id {case.id!r} occurs twice; ids are unique within a set"
        elif case.true_affine is not None and [len(row) for row in case.true_affine] != [side] * side:
            faults[i] = f"pair {case.id!r}: the true affine of a {side - 1}D set is {side} x {side}; correct it"
        elif missing:
            one = len(missing) == 1
            faults[i] = (
                f"pair {case.id!r} names {', '.join(missing)}, which {'is' if one else 'are'} missing; "
                f"add {'it' if one else 'them'}"
            )
        elif files["fixed"].samefile(files["moving"]):
            faults[i] = f"pair {case.id!r} names {case.fixed} as fixed and as moving; name two images"
    return faults


def find_folders(root: str | Path, names: Collection[str] | None = None) -> list[CaseFolder]:
    """Return the case set in a folder, or the sets in its subfolders, sorted by folder name.

    Parameters
    ----------
    names : sets to take, by name of their folder; None takes all.

    Raises
    ------
    InputError
        When there is none, one that is asked for is missing, two sets have one name, or sets are malformed; then the
        message has a sentence for every pair that is.
    """
    folders = _all_sound([open_set(place) for place in set_places(Path(root), names)])
    titles = Counter(folder.content.name for folder in folders)
    if twice := sorted(title for title, count in titles.items() if count > 1):
        raise InputError(f"{root}: several case sets are named {', '.join(twice)}; names must differ")
    return folders


def set_places(root: Path, names: Collection[str] | None = None) -> list[Path]:
    """Return the folders of the sets."""
    if not root.is_dir():
        raise InputError(f"{root}: there is no such folder; name a case set or a folder of them")
    own = (root / FILE).is_file()
    places = [root] if own else sorted(p.parent for p in root.glob(f"*/{FILE}"))
    by_name = {place.resolve().name: place for place in places}
    if not by_name:
        raise InputError(f"{root}: expected case sets, found no {FILE} here or one level below; check the folder")
    if missing := sorted(set(names or ()) - set(by_name)):
        raise InputError(f"{root}: there is no case set {', '.join(missing)}; found {', '.join(by_name)}")
    return [place for name, place in by_name.items() if names is None or name in names]


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
    subsets = []
    used: set[str] = set()
    for folder in folders:
        name, cases = folder.content.name, []
        for case in folder.content.pairs:
            fits = [p for p in patterns if fnmatchcase(f"{name}/{case.id}", p if "/" in p else f"{p}/*")]
            used.update(fits)
            if fits:
                cases.append(case)
        if cases:
            subsets.append(CaseFolder(folder.path, folder.content.model_copy(update={"pairs": cases})))
    if idle := [p for p in patterns if p not in used]:
        names_of_sets = ", ".join(folder.content.name for folder in folders)
        raise InputError(f"no pair fits {', '.join(idle)}; expected set or set/pair, of the sets {names_of_sets}")
    return subsets

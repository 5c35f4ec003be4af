"""Experiments of the papers, each one command: ``roireg bench study NAME DATA``.

A study compares variants of one thing on the pairs of some case sets. Most are settings files in ``files/``, which
say what varies (see `settings.SettingsStudy`); a study that measures something other than a registration is a class
(see `study.Study`) and is listed in `CLASSES`. To add one, put a file there or a class here; nothing else is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

from roireg.core.errors import InputError
from roireg_bench.studies.embedding import EmbeddingStudy, NetworksStudy
from roireg_bench.studies.settings import SettingsStudy
from roireg_bench.studies.study import Column, Scene, Study
from roireg_bench.studies.work import StudyRow, run_study, study_page, write_study

__all__ = [
    "CLASSES",
    "Column",
    "Scene",
    "SettingsStudy",
    "Study",
    "StudyRow",
    "find_study",
    "run_study",
    "studies",
    "study_page",
    "write_study",
]

CLASSES: dict[str, Callable[[], Study]] = {study.name: study for study in (EmbeddingStudy, NetworksStudy)}
"""Name -> how to make a study that is no settings file."""


def studies() -> dict[str, Callable[[], Study]]:
    """Return all studies by name, in alphabetical order."""
    from_files = {}
    for file in files("roireg_bench.studies").joinpath("files").iterdir():
        if file.name.endswith(".yaml"):
            path = Path(str(file))
            from_files[path.stem] = lambda path=path: SettingsStudy.load(path)
    return dict(sorted({**from_files, **CLASSES}.items()))


def find_study(name: str) -> Study:
    """Return a study by its name, or that of a settings file of one's own.

    Raises
    ------
    InputError
        When there is none, or the file is not that of a study.
    """
    if name.endswith((".yaml", ".yml")):
        return SettingsStudy.load(Path(name))
    known = studies()
    if name not in known:
        raise InputError(f"there is no study {name!r}; use a settings file or one of {', '.join(known)}")
    return known[name]()

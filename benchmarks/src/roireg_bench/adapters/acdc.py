"""ACDC: one folder per patient with an Info.cfg that names the end-diastolic and the end-systolic frame."""

from __future__ import annotations

import re
from pathlib import Path

from roireg.core.errors import InputError
from roireg_bench.adapters.base import Found, FoundPair, read_text

__all__ = ["acdc"]

LABELS = {1: "RV cavity", 2: "LV myocardium", 3: "LV cavity"}


def acdc(source: Path) -> Found:
    """Read the ACDC challenge data: end-diastole is fixed, end-systole moving, patients with both label maps."""
    infos = sorted(source.rglob("Info.cfg"))
    if not infos:
        raise InputError(f"{source}: expected patient folders with an Info.cfg, found none; name the ACDC folder")
    pairs = []
    for info in infos:
        values = dict(re.findall(r"^\s*(\w+)\s*:\s*(\S+)", read_text(info), re.MULTILINE))
        if not {"ED", "ES"} <= set(values):
            raise InputError(f"{info}: expected the lines ED and ES, found {', '.join(values) or 'nothing'}")
        for phase in ("ED", "ES"):
            if not values[phase].isdecimal():
                raise InputError(f"{info}: expected a frame number for {phase}, found {values[phase]!r}; correct it")
        images = [_frame(info.parent, values[phase], "") for phase in ("ED", "ES")]
        labels = [_frame(info.parent, values[phase], "_gt") for phase in ("ED", "ES")]
        if all(file is not None for file in (*images, *labels)):
            fixed, moving = images
            assert fixed is not None and moving is not None
            name = f"{info.parent.name}_ED_ES"
            pairs.append(FoundPair(name, fixed, moving, fixed_labels=labels[0], moving_labels=labels[1]))
    return Found(
        name="acdc",
        ndim=3,
        task="intra-subject",
        fixed="MR-cine",
        moving="MR-cine",
        pairs=pairs,
        terms="ACDC data; any use cites O. Bernard et al., IEEE TMI 37(11):2514-2525, 2018",
        labels=LABELS,
    )


def _frame(folder: Path, number: str, ending: str) -> Path | None:
    """Return the file of a frame; numbers have two digits in the names, and the published files .nii or .nii.gz."""
    for kind in (".nii.gz", ".nii"):
        file = folder / f"{folder.name}_frame{int(number):02d}{ending}{kind}"
        if file.is_file():
            return file
    return None

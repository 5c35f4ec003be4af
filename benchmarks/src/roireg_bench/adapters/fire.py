"""FIRE: fundus photographs, and one text file of corresponding points per pair."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from roireg.core.errors import InputError
from roireg_bench.adapters.base import Found, FoundPair, as_points, read_text

__all__ = ["fire"]

KINDS = {"S": "large overlap", "P": "small overlap", "A": "anatomical changes"}


def fire(source: Path) -> Found:
    """Read the FIRE data set: ``Images`` and ``Ground Truth``; the first image of a pair is fixed.

    A line of a point file holds x and y in the first image, then in the second, pixels.
    """
    files = sorted(source.rglob("control_points_*.txt"))
    if not files:
        raise InputError(
            f"{source}: expected control_points_*.txt of FIRE, found none; name the folder of the data set"
        )
    images = {p.stem: p for p in source.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png")}
    pairs = []
    for file in files:
        match = re.fullmatch(r"control_points_([A-Z])(\d+)_(\d+)_(\d+)", file.stem)
        if match is None:
            raise InputError(f"{file}: expected a name such as control_points_A01_1_2.txt; rename or remove the file")
        kind, number, *sides = match.groups()
        names = [f"{kind}{number}_{side}" for side in sides]
        if missing := [name for name in names if name not in images]:
            raise InputError(f"{file}: there is no image {', '.join(missing)}; add it or remove the file")
        lines = [line.split() for line in read_text(file).splitlines() if line.strip()]
        if not lines:
            raise InputError(f"{file}: the file holds no points; copy it again or remove it")
        try:
            values = np.array(lines, dtype=np.float64)
        except ValueError as error:
            raise InputError(
                f"{file}: expected four numbers per line, found something else; check the file"
            ) from error
        if values.shape[1] != 4:
            raise InputError(f"{file}: expected four numbers per line, found {values.shape[1]}; check the file")
        pairs.append(
            FoundPair(
                id=f"{names[0]}_{names[1]}",
                fixed=images[names[0]],
                moving=images[names[1]],
                fixed_points=as_points(values[:, :2], file),
                moving_points=as_points(values[:, 2:], file),
                notes=KINDS.get(kind, ""),
            )
        )
    return Found(
        name="fire",
        ndim=2,
        task="intra-subject",
        fixed="fundus colour",
        moving="fundus colour",
        pairs=pairs,
        terms="FIRE; cite Hernandez-Matas et al., Journal for Modeling in Ophthalmology 1(4):16-28, 2017",
        spacing_known=False,
    )

"""The choice for a first look: a few pairs of several kinds, and methods that are fast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from roireg.core.errors import InputError
from roireg_bench.cases import CaseFolder

__all__ = ["QUICK_METHODS", "QUICK_PAIRS", "quick_cases"]

QUICK_PAIRS = {
    "acdc_intra": 1,
    "brain2d_oasis": 1,
    "hippocampus": 2,
    "histology_artificial": 1,
    "rigid_recovered": 2,
    "samreg_cardiac_slices": 2,
    "samreg_lung_slices": 1,
}
"""Set -> how many of its first pairs: 2D and 3D, labels and landmarks, one person and two, none of them large."""

QUICK_METHODS = ("default", "demons", "ants-syn-quick", "sift")


def quick_cases(folders: Sequence[CaseFolder]) -> list[CaseFolder]:
    """Return the quick choice out of case sets; sets of the choice that are not there are left out.

    Raises
    ------
    InputError
        When none of the sets is there.
    """
    cases = [
        replace(f, content=f.content.model_copy(update={"pairs": f.content.pairs[: QUICK_PAIRS[f.content.name]]}))
        for f in folders
        if f.content.name in QUICK_PAIRS
    ]
    if not cases:
        raise InputError(
            f"the quick run takes pairs of the sets {', '.join(QUICK_PAIRS)} and found none of them; choose with "
            "--filter and --limit instead"
        )
    return cases

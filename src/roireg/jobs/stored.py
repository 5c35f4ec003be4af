"""A result folder of an earlier run: what it says, and where its images are now."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from roireg.core.errors import InputError
from roireg.io import sha256_of

__all__ = ["stored_image"]


def stored_image(record: Mapping[str, Any], side: str, path: Path | None = None) -> Path:
    """Return where the image of a result is, and refuse another one.

    Parameters
    ----------
    record : the content of result.json. side : "fixed" or "moving".
    path : where the image is now; None looks where it was.

    Raises
    ------
    InputError
        When it is not there, or is not the image that the result was made from.
    """
    entry = record.get("provenance", {}).get("inputs", {}).get(side, {})
    place = path or (Path(entry["path"]) if "path" in entry else None)
    if place is None or not (place.exists() or "::" in str(place)):
        raise InputError(f"{place or side}: the {side} image of this result is not there; name it with --{side} FILE")
    digest = entry.get("sha256")
    if digest and sha256_of(place) != digest:
        raise InputError(
            f"{place}: this is not the {side} image the result was made from; name it with --{side} FILE"
        )
    return place

"""Options about networks and prompts that several commands share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from roireg.app.files import parse_numbers
from roireg.core.errors import InputError
from roireg.core.image import Image
from roireg.models import resolve
from roireg.pipeline import Config

__all__ = ["check_network", "check_side", "world_points"]


def check_network(model: str | None, profile: str | None, window: str | None, cache: Path | None) -> None:
    """Refuse a network that is not there before any image is read, and options of one where none is named.

    Raises
    ------
    InputError
        When a name is unknown, the weights are not on this disk or of another architecture, or no model is named.
    """
    if model is not None:
        Config().with_network(model, profile=profile or "balanced", window=window)
        resolve(model)
        return
    for option, value in (("--profile", profile), ("--window", window), ("--cache", cache)):
        if value is not None:
            raise InputError(f"{option} is for a network, found {value} without --model; name the network too")


def check_side(option: str, side: str) -> None:
    """Refuse a word that names no image."""
    if side not in ("fixed", "moving"):
        raise InputError(f"{option} is fixed or moving, found {side!r}")


def world_points(
    option: str, texts: Sequence[str], image: Image, unit: str | None, *, per_text: int = 1
) -> NDArray[np.float64]:
    """(N * per_text, d) world points of texts such as ``61,40,12``.

    Parameters
    ----------
    unit : "px" (voxel indices from 0, x first) or "mm" (world, LPS); None is px for raster images, else mm.
    per_text : how many points a text holds: 2 for the corners of a box.

    Raises
    ------
    InputError
        When a text has another number of numbers, or the unit is unknown.
    """
    if unit not in (None, "px", "mm"):
        raise InputError(f"--unit is px or mm, found {unit!r}")
    d = image.ndim
    places = np.array([parse_numbers(option, text, (per_text * d,)) for text in texts]).reshape(-1, d)
    return image.grid.world_from_index(places[:, ::-1]) if (unit or image.unit) == "px" else places

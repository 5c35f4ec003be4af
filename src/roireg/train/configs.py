"""Configurations of trainings: files, and those of the shipped weights, known by name."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from roireg.core.errors import InputError
from roireg.io.documents import read_yaml
from roireg.io.mistakes import explained

__all__ = ["SHIPPED", "read_config"]

SHIPPED = {path.stem: path for path in sorted((Path(__file__).parent / "configs").glob("*.yaml"))}
"""Configurations that come with the package, by name; `embedding-2d` and `embedding-3d` made the shipped weights."""

T = TypeVar("T", bound=BaseModel)


def read_config(name: str | Path, kind: type[T]) -> T:
    """Return a configuration by its name in `SHIPPED` or from a YAML file.

    Raises
    ------
    InputError
        When there is no such file, or it has settings that do not exist or values that do not fit.
    """
    path = SHIPPED.get(str(name), Path(name))
    content = read_yaml(path)
    try:
        return kind.model_validate({} if content is None else content)
    except ValidationError as error:
        raise InputError(f"{path}: {explained(error.errors())}; see docs/embedding.md for the settings") from error

"""The entries of a registration's result.json that a page is made of; others are left alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, FiniteFloat, ValidationError

from roireg.core.errors import InputError
from roireg.io.documents import read_json
from roireg.io.mistakes import explained

__all__ = ["StoredResult", "stored_result"]

RECORD = "result.json"


_NUMBER = r"[0-9]{1,9}"
_Numbers = Annotated[str, Field(pattern=rf"^{_NUMBER}(,{_NUMBER})?$")] | None
_Pages = Annotated[str, Field(pattern=rf"^({_NUMBER}|all)(,({_NUMBER}|all))?$")] | None
_Names = Annotated[str, Field(pattern=r"^[^,]+(,[^,]+)?$")] | None


class _Metric(BaseModel):
    value: FiniteFloat | None
    before: FiniteFloat | None
    label: str
    unit: str
    better: Literal["higher", "lower", ""]


class _Input(BaseModel):
    path: str = ""
    sha256: str | None = None


class _Arguments(BaseModel):
    frame: _Numbers = None
    level: _Numbers = None
    page: _Pages = None
    channel: _Names = None


class _Provenance(BaseModel):
    inputs: dict[str, _Input] = {}
    arguments: Annotated[_Arguments, Field(default_factory=_Arguments)]


class StoredResult(BaseModel):
    """A registration as `roireg register` stored it."""

    verdict: Literal["ok", "uncertain", "failed"]
    reasons: list[str] = []
    worse: list[str] = []
    metrics: dict[str, _Metric] = {}
    written: dict[str, str | None] = {}
    provenance: Annotated[_Provenance, Field(default_factory=_Provenance)]


def stored_result(folder: Path) -> dict[str, Any]:
    """Return what the result of a registration says.

    Raises
    ------
    InputError
        When the folder holds none, or one that was edited so that nothing can be made of it.
    """
    file = folder / RECORD
    if not file.is_file():
        raise InputError(
            f"{folder}: the folder holds no result.json; expected a result folder that `roireg register` wrote with "
            "its transform"
        )
    content = read_json(file, names=True)
    if not isinstance(content, dict) or "verdict" not in content:
        raise InputError(f"{file}: expected the result of a registration with a verdict; register again")
    try:
        StoredResult.model_validate(content, strict=True)
    except ValidationError as error:
        raise InputError(f"{file}: {explained(error.errors())}; correct it or register again") from error
    return content

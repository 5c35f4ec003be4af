"""The entries of a registration's result.json that a page is made of; others are left alone."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, FiniteFloat

__all__ = ["StoredResult"]


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
    provenance: Annotated[_Provenance, Field(default_factory=_Provenance)]

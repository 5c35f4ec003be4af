"""The entries of a registration's result.json that a page is made of; others are left alone."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, FiniteFloat

__all__ = ["StoredResult"]


_Choice = Annotated[str, Field(min_length=1)] | None


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
    frame: _Choice = None
    level: _Choice = None
    page: _Choice = None
    channel: _Choice = None


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

"""The JSON schema of ``pairs.json``, made from the models that read it."""

from __future__ import annotations

import json
from typing import Any

from roireg_bench.cases import CaseSet

__all__ = ["schema", "schema_text"]


def schema() -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of a case set."""
    document = CaseSet.model_json_schema()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **document,
        "title": "roireg case set",
        "description": "Pairs of images and what a registration of them is scored with (pairs.json).",
    }


def schema_text() -> str:
    """Return the schema as it is kept in ``docs/pairs.schema.json``."""
    return json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"

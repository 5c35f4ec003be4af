"""Names of networks and features in options: completed, and refused before anything heavy is loaded."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from roireg.core.errors import InputError
from roireg.core.registry import unknown
from roireg.core.words import FEATURES, MODELS

__all__ = ["FEATURE_NAME", "MODEL_NAME", "Known", "completing"]


@dataclass(frozen=True)
class Known:
    """Mark of a field that takes a name or a path; `hint` is said of names that are like none of `names`."""

    kind: str
    names: tuple[str, ...]
    hint: str

    def check(self, text: str) -> None:
        """Refuse an unknown name before torch is loaded; after that the registry says it, which others add to."""
        if "torch" in sys.modules or text in self.names or "=" in text or Path(text).exists():
            return
        if re.search(r"[/\\]|\.[A-Za-z]\w*$", text):
            raise InputError(f"{text}: no such model file or folder; check the path or see `roireg models list`")
        raise unknown(self.kind, text, self.names, self.hint)


MODEL_NAME = Known("model", MODELS, "see `roireg models list`")
FEATURE_NAME = Known(
    "feature extractor",
    (*FEATURES, *MODELS),
    f"use one of {', '.join(FEATURES)}, or a network with features (see `roireg models list`)",
)


def completing(words: tuple[str, ...]) -> Callable[[str], list[str]]:
    """Return what a shell asks to complete one of some words."""

    def complete(incomplete: str) -> list[str]:
        return [word for word in words if word.startswith(incomplete)]

    return complete

"""Tensor names of original checkpoints and of transformers: one table of rules, read in both directions."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from itertools import zip_longest

__all__ = ["Rules", "count", "number_layers", "original_names", "rename"]

Rules = tuple[tuple[str, str], ...]
"""How names begin: originally and in transformers, "#" for a number. The first that matches counts."""

LAYER = re.compile(r"^(.*)\.layers\.(\d{1,4})\.(weight|bias)$")
NAMED = re.compile(r"^(.*)\.(?:(proj_in)|(proj_out)|layers\.(\d{1,4}))\.(weight|bias)$")


def rename(name: str, rules: Rules) -> str:
    """Apply the first rule that matches."""
    for before, after in rules:
        if match := _beginning(before).match(name):
            parts = after.split("#")
            return "".join(map("".join, zip_longest(parts, match.groups(), fillvalue=""))) + name[match.end() :]
    return name


@cache
def _beginning(text: str) -> re.Pattern[str]:
    return re.compile(r"(\d+)".join(map(re.escape, text.split("#"))))


def number_layers(names: Iterable[str]) -> dict[str, str]:
    """Return names by original ones for the layers of perceptrons: numbered there, "proj_in", "proj_out" here."""
    names = list(names)
    last: dict[str, int] = {}
    for name in names:
        if match := LAYER.match(name):
            last[match[1]] = max(last.get(match[1], 0), int(match[2]))
    out = {}
    for name in names:
        out[name] = name
        if match := LAYER.match(name):
            owner, number, kind = match[1], int(match[2]), match[3]
            layer = {0: "proj_in", last[owner]: "proj_out"}.get(number, f"layers.{number - 1}")
            out[name] = f"{owner}.{layer}.{kind}"
    return out


def original_names(names: Iterable[str], rules: Rules) -> dict[str, str]:
    """Return the original names by those of transformers; without rules all keep theirs."""
    names = set(names)
    if not rules:
        return {name: name for name in names}
    back = tuple((after, before) for before, after in rules)
    out = {}
    for name in names:
        original = name
        if match := NAMED.match(name):
            owner, first, last, number, kind = match.groups()
            inner = sum(n.startswith(f"{owner}.layers.") and n.endswith(".weight") for n in names)
            original = f"{owner}.layers.{0 if first else inner + 1 if last else int(number) + 1}.{kind}"
        # Query, key and value are one matrix in DINO.
        out[name] = re.sub(r"\.attn\.[qkv]_proj\.", ".attn.qkv.", rename(original, back))
    return out


def count(names: Iterable[str], pattern: str) -> int:
    """Return how many numbers there are in the names that begin with a pattern; "#" stands for the number."""
    beginning = _beginning(pattern)
    return len({match[1] for name in names if (match := beginning.match(name))})

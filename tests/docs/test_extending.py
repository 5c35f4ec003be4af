"""The examples of docs/extending.md stay short; that they run is tested with the other pages."""

from __future__ import annotations

import re

import pytest

from docs.scripts import DOCS

BLOCKS = re.findall(r"^```python\n(.*?)^```$", (DOCS / "extending.md").read_text(encoding="utf-8"), re.M | re.S)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.splitlines()[0])
def test_an_extension_takes_at_most_25_lines(block: str) -> None:
    assert sum(bool(line.strip()) for line in block.splitlines()) <= 25

"""Rewrite the tables of docs/reference.md that follow from the code: ``python docs/make_tables.py``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

from roireg.evaluate import CATALOGUE
from roireg.fit import Stage
from roireg.pipeline import PRESETS

PAGE = Path(__file__).parent / "reference.md"


def main() -> None:
    """Write the page anew."""
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def with_tables(page: str) -> str:
    """Return the page with the text between its markers replaced by what the code says now."""
    for name, table in (("settings", settings_table()), ("metrics", metrics_table())):
        before, begin, rest = page.partition(f"<!-- {name}:begin -->\n")
        _, end, after = rest.partition(f"<!-- {name}:end -->")
        if not (begin and end):
            raise ValueError(f"{PAGE.name} has no markers {name}:begin and {name}:end")
        page = f"{before}{begin}\n{table}\n{end}{after}"
    return page


def settings_table() -> str:
    """Return every setting with its meaning and its value in every preset."""
    presets = {name: make() for name, make in PRESETS.items()}
    columns = [dict(_settings(config)) for config in presets.values()]
    rows = {key: meaning for column in columns for key, (_, meaning) in column.items()}
    lines = [f"| setting | {' | '.join(presets)} | meaning |", f"|---|{'---|' * len(presets)}---|"]
    for key, meaning in rows.items():
        values = " | ".join(f"`{json.dumps(column[key][0])}`" if key in column else "" for column in columns)
        lines.append(f"| `{key}` | {values} | {meaning} |")
    return "\n".join(lines) + "\n"


def metrics_table() -> str:
    """Return every metric with its unit and direction."""
    lines = ["| name | meaning | unit | better |", "|---|---|---|---|"]
    lines += [f"| `{name}` | {label} | {unit} | {better} |" for name, (label, unit, better) in CATALOGUE.items()]
    return "\n".join(lines) + "\n"


def _settings(section: BaseModel, path: str = "") -> Iterator[tuple[str, tuple[object, str]]]:
    """Yield (dotted name, (value, meaning)) of every leaf."""
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from _settings(value, f"{path}{name}.")
            continue
        if name == "stages":
            yield name, ([stage.stage for stage in value], field.description)
            for stage in value:
                yield from _settings(stage, f"{path}{name}.{stage.stage}.")
            continue
        if isinstance(section, Stage) and name == "stage":
            continue
        choices = getattr(field.annotation, "__args__", ())
        # The choices of a Literal say what is possible; other settings have a description.
        listed = ", ".join(c for c in choices if isinstance(c, str))
        meaning = "; ".join(text for text in (field.description, listed and f"one of {listed}") if text)
        yield f"{path}{name}", (value, meaning)


if __name__ == "__main__":
    main()

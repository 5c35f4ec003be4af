"""JSON and YAML that somebody else wrote: whatever is wrong with them is one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from roireg.core.errors import InputError
from roireg.core.words import SECTIONS
from roireg.io.streams import refuse_special

__all__ = ["parse_json", "parse_yaml", "read_json", "read_settings", "read_text", "read_yaml"]

DEEPEST = 100
"""Lists and mappings within each other; documents of this package have six."""

LARGEST = 256 << 20
"""Bytes; a document of more is none of this package."""


def read_json(path: Path, *, names: bool = False) -> Any:
    """Read a JSON file; see `parse_json`."""
    return parse_json(read_text(path), str(path), names=names)


def read_yaml(path: Path) -> Any:
    """Read a YAML file; see `parse_yaml`."""
    return parse_yaml(read_text(path), str(path))


def read_settings(path: Path) -> dict[str, Any]:
    """Return the sections of a settings file; what is in them, `roireg.pipeline.Config` checks.

    Raises
    ------
    InputError
        When the file is missing, not YAML, holds no sections or one that there is not, or names a program to run.
    """
    if not path.exists():
        raise InputError(f"{path}: there is no such configuration file; check the path")
    content = read_yaml(path)
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected sections such as `match:` with settings, found {type(content).__name__}")
    for name in content:
        if name not in SECTIONS:
            raise InputError(f"{path}: unknown setting {str(name)[:80]!r}; `roireg info --presets` lists all")
    classes = content.get("classes")
    if isinstance(classes, dict) and classes.get("command") is not None:
        raise InputError(
            f"{path}: a settings file runs no programs; leave classes.command out and give --segmenter-command"
        )
    return content


def read_text(path: Path, name: str | None = None) -> str:
    """Return the text of a file, which messages call `name` instead of its path.

    Raises
    ------
    InputError
        When it cannot be read, is not UTF-8 or far too large for a document.
    """
    name = name or str(path)
    refuse_special(path)
    try:
        if path.stat().st_size > LARGEST:
            raise InputError(f"{name}: the file is larger than {LARGEST >> 20} MiB; check that it is the right one")
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: the file is not UTF-8 text; save it as UTF-8") from error
    except OSError as error:
        raise InputError(f"{name}: the file cannot be read ({error.strerror}); check its path") from error


def parse_json(text: str, name: str, *, names: bool = False) -> Any:
    """Return the content of a JSON text.

    Parameters
    ----------
    names : whether it holds names of files, in which Python keeps bytes that are not UTF-8 as half characters.

    Raises
    ------
    InputError
        When it is not valid JSON, nested too deeply, or has numbers or characters that nothing can hold.
    """
    try:
        content = json.loads(text)
        if "\\u" in text:
            json.dumps(content, ensure_ascii=False).encode(errors="surrogateescape" if names else "strict")
    except json.JSONDecodeError as error:
        raise InputError(
            f"{name}: line {error.lineno}, column {error.colno} is not valid JSON ({error.msg}); correct it there"
        ) from error
    except RecursionError as error:
        raise InputError(_too_deep(name)) from error
    except UnicodeEncodeError as error:
        raise InputError(f"{name}: the text has half a character (a lone surrogate); correct it") from error
    except ValueError as error:  # integers of thousands of digits
        raise InputError(f"{name}: a number has too many digits to be read; correct it") from error
    return content


def parse_yaml(text: str, name: str) -> Any:
    """Return the content of a YAML text without aliases, which can stand for more than fits a memory.

    Raises
    ------
    InputError
        When it is not valid YAML, nested too deeply, or has aliases or values that nothing can hold.
    """
    try:
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                raise InputError(f"{name}: there is an alias (*{event.anchor}); write its value out")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                raise InputError(_too_deep(name))
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}" if mark is not None else "the text"
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise InputError(f"{name}: {where} is not valid YAML ({problem}); correct it") from error
    except (ValueError, OverflowError, RecursionError) as error:  # dates, integers and tags that mean nothing
        raise InputError(f"{name}: a value cannot be read ({_short(error)}); correct it") from error


def _too_deep(name: str) -> str:
    return f"{name}: lists and mappings are nested too deeply, more than {DEEPEST} within each other; correct it"


def _short(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]

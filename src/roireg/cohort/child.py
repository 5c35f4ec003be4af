"""The process that tasks run in: reads a line of JSON, calls, writes a line of JSON; see `roireg.cohort.process`."""

from __future__ import annotations

import importlib
import json
import os
import queue
import sys
import threading
import traceback
import warnings
from typing import Any, BinaryIO

from roireg.core.errors import HeaderWarning, RoiregError

__all__ = ["echo", "main"]


def echo(**values: Any) -> dict[str, Any]:
    """Return what it is called with: a task that does nothing, to measure what tasks cost beside their work."""
    return values


def main() -> None:
    """Take tasks until there are no more."""
    answers = os.fdopen(os.dup(1), "wb")
    # Whatever a library prints goes where errors go, not among the answers.
    os.dup2(2, 1)
    lines: queue.Queue[bytes] = queue.Queue()
    threading.Thread(target=_listen, args=(sys.stdin.buffer, lines), daemon=True).start()
    while True:
        task = json.loads(lines.get())
        answers.write(json.dumps(_answer(task["function"], task["arguments"])).encode() + b"\n")
        answers.flush()


def _listen(source: BinaryIO, lines: queue.Queue[bytes]) -> None:
    for line in source:
        lines.put(line)
    # Whoever asked is gone, also when that is noticed in the middle of a task.
    os._exit(0)


def _answer(function: str, arguments: dict[str, Any]) -> dict[str, Any]:
    module, _, name = function.partition(":")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", HeaderWarning)
            value = getattr(importlib.import_module(module), name)(**arguments)
        headers = [" ".join(str(w.message).split()) for w in caught if issubclass(w.category, HeaderWarning)]
        if headers and isinstance(value, dict):
            value = {**value, "warnings": headers}
        return {"kind": "done", "value": value}
    except RoiregError as error:
        return {"kind": "refused", "cause": _line(str(error))}
    except MemoryError:
        return _FULL
    except OSError as error:
        return {
            "kind": "refused",
            "cause": _line(f"{error.filename or 'the file system'}: {error.strerror or error}"),
        }
    except Exception as error:
        # torch has a class of its own for a full GPU, and a plain RuntimeError for a full main memory.
        if type(error).__name__ == "OutOfMemoryError" or "DefaultCPUAllocator" in str(error):
            return _FULL
        return {
            "kind": "broken",
            "cause": _line(f"{type(error).__name__}: {error}"),
            "trace": traceback.format_exc()[-8000:],
        }


_FULL = {"kind": "memory", "cause": "the memory of its machine is full; run fewer at once with --jobs"}


def _line(text: str) -> str:
    return " ".join(text.split())[:1000]


if __name__ == "__main__":
    main()

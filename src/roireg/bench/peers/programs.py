"""Peers that are programs: where they are, and how they are run."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from roireg.bench.peers.base import Peer
from roireg.bench.protocol import Unavailable
from roireg.core.errors import InputError

__all__ = ["ProgramPeer", "run_program"]


@dataclass(frozen=True)
class ProgramPeer(Peer):
    """A peer that is a set of programs on the PATH, or in a folder that an environment variable names.

    The class says `programs` (their names) and `variable` (of the environment). The folder is looked up when the
    method is made, since its process may have another environment, and wins over the PATH.
    """

    folder: str | None = None
    programs: ClassVar[tuple[str, ...]]
    variable: ClassVar[str]
    modules: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if self.folder is None:
            object.__setattr__(self, "folder", os.environ.get(self.variable, ""))

    @property
    def settings(self) -> Mapping[str, Any]:
        """As of any peer, without the folder: `version` says which programs they are."""
        return {k: v for k, v in super().settings.items() if k != "folder"}

    def require(self) -> None:
        """Make sure that all programs are there.

        Raises
        ------
        Unavailable
            When a program is missing.
        """
        self.found()

    def found(self) -> Mapping[str, str]:
        """Return the path of each program.

        Raises
        ------
        Unavailable
            When a program is missing.
        """
        paths = {name: shutil.which(name, path=self.folder or None) for name in self.programs}
        missing = [name for name, path in paths.items() if path is None]
        if missing:
            where = f"in {self.folder}" if self.folder else "on the PATH"
            raise Unavailable(
                f"not installed: found no {', '.join(missing)} {where}; build {self.package} and let {self.variable} "
                "name the folder of its programs"
            )
        return {name: str(path) for name, path in paths.items()}


def run_program(command: Sequence[str | Path], *, made: Path) -> None:
    """Run a program and make sure that it made a file.

    Raises
    ------
    InputError
        When it ends with an error or without the file; the message has its last line.
    """
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, errors="replace", check=False
    )
    if done.returncode or not made.is_file():
        lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        last = f": {lines[-1]}" if lines else ""
        raise InputError(f"{Path(command[0]).name} failed (exit code {done.returncode}){last}")

"""Peers that are programs: where they are, and how they are run."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from roireg.core.errors import InputError
from roireg.io import sha256_of
from roireg_bench.peers.base import Peer
from roireg_bench.protocol import Unavailable

__all__ = ["ProgramPeer", "run_program"]


@dataclass(frozen=True)
class ProgramPeer(Peer):
    """A peer that is a set of programs on the PATH, or in a folder that an environment variable names.

    The class says `programs` (their names) and `variable` (of the environment). The folder wins over the PATH. The
    variable is read when the method is made, since the process of a run may have another environment.
    """

    folder: str | None = None
    programs: ClassVar[tuple[str, ...]]
    variable: ClassVar[str]
    modules: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        named = os.environ.get(self.variable, "") if self.folder is None else self.folder
        object.__setattr__(self, "folder", str(Path(named).expanduser().absolute()) if named else "")

    @property
    def settings(self) -> Mapping[str, Any]:
        """As of any peer, without the folder: `version` says which programs they are."""
        return {k: v for k, v in super().settings.items() if k != "folder"}

    @property
    def version(self) -> str:
        """Name of the package and, since programs need not tell their version, a digest of them."""
        try:
            programs = self.paths()
        except Unavailable:
            return f"{self.package}, not installed"
        total = hashlib.sha256("".join(sha256_of(path) for path in programs.values()).encode())
        return " ".join(filter(None, (self.package, self.release(programs), total.hexdigest()[:8])))

    def release(self, programs: Mapping[str, str]) -> str:
        """Return the version that the programs tell of themselves, empty where they do not."""
        return ""

    def require(self) -> None:
        """Make sure that all programs are there.

        Raises
        ------
        Unavailable
            When a program is missing.
        """
        self.paths()

    def paths(self) -> Mapping[str, str]:
        """Return the path of each program.

        Raises
        ------
        Unavailable
            When a program is missing.
        """
        places = {name: shutil.which(name, path=self.folder or None) for name in self.programs}
        paths = {name: path for name, path in places.items() if path}
        if missing := ", ".join(name for name in self.programs if name not in paths):
            where = f"in {self.folder}" if self.folder else "on the PATH"
            raise Unavailable(
                f"not installed: there is no {missing} {where}; let {self.variable} name the folder of the "
                f"programs of {self.package}"
            )
        return paths


def run_program(command: Sequence[str | Path], *, output: Path) -> None:
    """Run a program and make sure that it made a file.

    Raises
    ------
    InputError
        When it ends with an error or without the file; the message has its last line.
    """
    process = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, errors="replace", check=False
    )
    if process.returncode or not output.is_file():
        lines = [line.strip() for line in (process.stderr or process.stdout).splitlines() if line.strip()]
        last = f": {lines[-1]}" if lines else ""
        raise InputError(f"{Path(command[0]).name} failed (exit code {process.returncode}){last}")

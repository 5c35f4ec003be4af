"""Peers that are programs: where they are, and how they are run."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from roireg.bench.peers.base import Peer
from roireg.bench.peers.building import build_programs
from roireg.bench.protocol import Unavailable
from roireg.core.errors import InputError
from roireg.io import sha256_of

__all__ = ["ProgramPeer", "run_program"]

SEARCH = threading.Lock()
"""Held while programs are looked for, which may build them; several runs may ask at once."""


@dataclass(frozen=True)
class ProgramPeer(Peer):
    """A peer that is a set of programs on the PATH, or in a folder that an environment variable names.

    The class says `programs` (their names), `variable` (of the environment) and `recipe`, the file that a folder of
    sources has; its programs are built, see `building`. The folder wins over the PATH. The variable is read when the
    method is made, since the process of a run may have another environment.
    """

    folder: str | None = None
    programs: ClassVar[tuple[str, ...]]
    variable: ClassVar[str]
    recipe: ClassVar[str]
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
            programs = self.found()
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
            When a program is missing and cannot be built.
        """
        self.found()

    def found(self) -> Mapping[str, str]:
        """Return the path of each program; the first call builds them where the folder holds their sources.

        Raises
        ------
        Unavailable
            When a program is missing and cannot be built.
        """
        with SEARCH:
            found = self._found
        if isinstance(found, str):
            raise Unavailable(found)
        return found

    @cached_property
    def _found(self) -> Mapping[str, str] | str:
        """The programs or why there are none; goes along to other processes, so that no failing build is repeated."""
        places = {name: shutil.which(name, path=self.folder or None) for name in self.programs}
        paths = {name: path for name, path in places.items() if path}
        if len(paths) == len(self.programs):
            return paths
        if self.folder and Path(self.folder, self.recipe).is_file():
            try:
                built = build_programs(self.package, Path(self.folder), self.recipe, self.programs)
            except Unavailable as error:
                return str(error)
            return {name: str(built / name) for name in self.programs}
        missing = ", ".join(name for name in self.programs if name not in paths)
        where = f"in {self.folder}, nor a {self.recipe} to build them" if self.folder else "on the PATH"
        return (
            f"not installed: found no {missing} {where}; let {self.variable} name the folder of the programs or of "
            f"the sources of {self.package}"
        )


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

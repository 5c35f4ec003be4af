"""Programs built from sources: once, in a cache folder of the user, and never in the source folder."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from roireg.bench.protocol import Unavailable

__all__ = ["build_programs", "built_folder", "programs_cache"]

TOOLS = {"CMakeLists.txt": "cmake", "Makefile": "make"}
"""What a source folder is recognised by -> the tool that builds it."""

ERROR = re.compile(r"error:|CMake Error|cannot find|undefined reference", re.IGNORECASE)
WRAPPER = re.compile(r"g?make(\[\d+\])?: \*\*\* \[")
"""How make says that a command failed which has said why itself."""


def programs_cache() -> Path:
    """Return the folder of the programs that were built: ``roireg/programs`` in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "roireg" / "programs"


def built_folder(package: str, sources: Path) -> Path:
    """Return where the programs of these sources are, or will be, in the cache.

    The name holds a digest of the folder's resolved path and of the names, sizes and times of change of its files.
    """
    root = sources.resolve()
    digest = hashlib.sha256(str(root).encode())
    for folder, names, files in os.walk(root):
        names[:] = sorted(name for name in names if name != ".git")
        for file in sorted(files):
            path = Path(folder, file)
            found = path.lstat()
            digest.update(f"\0{path.relative_to(root).as_posix()}\0{found.st_size}\0{found.st_mtime_ns}".encode())
    return programs_cache() / f"{package.lower()}-{digest.hexdigest()[:16]}"


def build_programs(package: str, sources: Path, recipe: str, programs: Sequence[str]) -> Path:
    """Return the folder of the built programs; they are built where the cache does not have them.

    Parameters
    ----------
    sources : folder that holds the file `recipe`; it is only read.
    recipe : "CMakeLists.txt" (a release build of the targets `programs`) or "Makefile" (its default target).
    programs : file names that the build makes.

    Raises
    ------
    Unavailable
        When the tool is missing, the build fails or does not make a program; the message has the compiler's reason.
    """
    target = built_folder(package, sources)
    if target.is_dir():
        return target
    tool = shutil.which(TOOLS[recipe])
    if tool is None:
        raise Unavailable(
            f"not built: {package} in {sources} needs {TOOLS[recipe]}, which is not on the PATH; install it"
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="building-", dir=target.parent) as name:
            _build(package, sources, Path(name), tool, recipe, programs)
            _move(Path(name, "programs"), target)
    except OSError as error:
        raise Unavailable(f"not built: {package} from {sources}: {error}") from error
    return target


def _build(package: str, sources: Path, folder: Path, tool: str, recipe: str, programs: Sequence[str]) -> None:
    copy, build, done = folder / "sources", folder / "build", folder / "programs"
    shutil.copytree(sources, copy, ignore=shutil.ignore_patterns(".git"), ignore_dangling_symlinks=True)
    jobs = str(os.cpu_count() or 1)
    if recipe == "Makefile":
        build = copy
        commands = [[tool, "-j", jobs]]
    else:
        commands = [
            # CMake 4 refuses sources that were written for 3.4 or earlier unless it is told this.
            [
                tool,
                *("-S", str(copy), "-B", str(build)),
                *("-DCMAKE_BUILD_TYPE=Release", "-DCMAKE_POLICY_VERSION_MINIMUM=3.5"),
            ],
            [tool, "--build", str(build), "--config", "Release", "--parallel", jobs, "--target", *programs],
        ]
    # A make that this runs under would have this one print directories, and share its jobs.
    outer = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")
    environment = {name: value for name, value in os.environ.items() if name not in outer} | {"LC_ALL": "C"}
    for command in commands:
        ended = subprocess.run(
            command,
            cwd=copy,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
        if ended.returncode:
            raise Unavailable(f"not built: {package} from {sources}: {_cause(ended.stdout.replace(f'{copy}/', ''))}")
    done.mkdir()
    for program in programs:
        made = [file for file in sorted(build.rglob(program)) if file.is_file() and os.access(file, os.X_OK)]
        if not made:
            raise Unavailable(f"not built: {package} from {sources}: the build made no {program}")
        shutil.copy2(made[0], done / program)


def _move(folder: Path, target: Path) -> None:
    try:
        folder.rename(target)
    except OSError:
        # Another process may have been faster.
        if not target.is_dir():
            raise


def _cause(output: str) -> str:
    """Return the line of a failed build that says why, else its last one."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    lines = [line for line in lines if not WRAPPER.match(line)] or lines or ["it says nothing"]
    index = next((i for i, line in enumerate(lines) if ERROR.search(line)), len(lines) - 1)
    # CMake says what is wrong in the line below.
    return " ".join(lines[index : index + 1 + lines[index].endswith(":")])

"""The transforms in an HDF5 file (itkHDF5TransformIO); run as a script it prints them, in a process of its own.

The HDF5 library can crash or hang over a damaged file, so files from elsewhere are read in a child process. Nothing
but h5py and numpy is imported here: the child starts in a quarter of a second.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import h5py  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray

__all__ = ["Contents", "DamagedError", "read_contents", "write_contents"]

Contents = list[tuple[str, NDArray[Any], NDArray[Any]]]
"""(kind, parameters, fixed parameters) of every transform."""

GZIP_RATIO = 1100
"""No deflated data hold more than about 1032 times their size."""


# With the slip of versions of ITK before 4.8.
_NAMES = (
    ("TransformParameters", "TranformParameters"),
    ("TransformFixedParameters", "TranformFixedParameters"),
)


class DamagedError(Exception):
    """The file is not what ITK writes; the message completes "FILE: "."""


def read_contents(path: Path) -> Contents:
    """Read the transforms in the order they are numbered in.

    Raises
    ------
    DamagedError
        When the file is damaged or holds no transforms.
    """
    try:
        with h5py.File(path, "r") as file:
            group = file.get("TransformGroup")
            if not isinstance(group, h5py.Group):
                raise DamagedError("the HDF5 file has no group 'TransformGroup'; expected transforms of ITK")
            numbers = sorted(int(key) for key in group if key.isdigit())
            return [_record(group[str(number)]) for number in numbers]
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError, MemoryError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise DamagedError(f"the HDF5 file is damaged ({reason}); copy or write it again") from error


def _record(group: Any) -> tuple[str, NDArray[Any], NDArray[Any]]:
    if not isinstance(group, h5py.Group) or not isinstance(group.get("TransformType"), h5py.Dataset):
        raise DamagedError("a transform of the HDF5 file has no TransformType; write the file again")
    if group["TransformType"].size != 1:
        raise DamagedError("a transform of the HDF5 file has not one TransformType; write the file again")
    kind = np.ravel(group["TransformType"][()])[0]
    text = kind.decode("utf-8", "replace") if isinstance(kind, bytes) else str(kind)
    values, fixed = (_values(group.get(name, group.get(old))) for name, old in _NAMES)
    return text, values, fixed


def _values(dataset: Any) -> NDArray[Any]:
    if dataset is None:
        return np.zeros(0)
    if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind not in "fiu" or dataset.ndim > 1:
        raise DamagedError("the parameters of a transform are not a row of numbers; write the file again")
    if dataset.nbytes > GZIP_RATIO * dataset.id.get_storage_size() + 65536:
        raise DamagedError(
            f"its header claims {dataset.size} parameters, more than the file can hold; copy or write it again"
        )
    return np.asarray(np.ravel(dataset[()]))


def write_contents(target: Path | BinaryIO, contents: Contents, ndim: int) -> None:
    """Write ITK's layout: one group per transform, the composite's own first.

    ITK's writer stores fields as uncompressed float64 with the time of day in the file; this one stores what is
    there (float32) compressed and gives the same bytes for the same transform.
    """
    with h5py.File(target, "w", track_order=False) as file:
        for key, value in (("ITKVersion", "5.4.0"), ("HDFVersion", "HDF5"), ("OSName", "any"), ("OSVersion", "any")):
            _text(file, key, value)
        root = file.create_group("TransformGroup")
        _text(root.create_group("0"), "TransformType", f"CompositeTransform_double_{ndim}_{ndim}")
        for number, (kind, values, fixed) in enumerate(contents, start=1):
            group = root.create_group(str(number))
            _text(group, "TransformType", kind)
            group.create_dataset("TransformFixedParameters", data=fixed, track_times=False)
            small = values.size < 4096
            group.create_dataset(
                "TransformParameters",
                data=values,
                track_times=False,
                chunks=None if small else (min(values.size, 1 << 18),),
                compression=None if small else "gzip",
                compression_opts=None if small else 1,
                shuffle=not small,
            )


def _text(group: h5py.Group, key: str, value: str) -> None:
    group.create_dataset(
        key, data=np.array([value], dtype=object), dtype=h5py.string_dtype("ascii"), track_times=False
    )


def _main(arguments: Sequence[str]) -> int:
    """Print the kinds as a line of JSON, then the arrays in numpy's format; on failure print the reason."""
    path, memory = arguments
    try:
        import resource
    except ImportError:  # Windows has no such limits
        pass
    else:
        resource.setrlimit(resource.RLIMIT_AS, (int(memory), int(memory)))
    try:
        contents = read_contents(Path(path))
    except DamagedError as error:
        sys.stderr.write(str(error))
        return 1
    stream = sys.stdout.buffer
    stream.write(json.dumps([kind for kind, _, _ in contents]).encode() + b"\n")
    for _, values, fixed in contents:
        for array in (values, fixed):
            np.lib.format.write_array(stream, array, allow_pickle=False)
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))

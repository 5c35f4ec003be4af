"""Checkpoint files: tensors by name, and how they met a network."""

from __future__ import annotations

import importlib
import logging
import pickle
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from roireg.core.errors import InputError, OptionalDependencyError
from roireg.models.base import LoadReport

__all__ = [
    "UNREADABLE",
    "Shapes",
    "explain_failure",
    "fill",
    "read_tensors",
    "require_complete",
    "shapes_of",
    "sizes_told",
]

log = logging.getLogger(__name__)

Shapes = Mapping[str, tuple[int, ...]]

WRAPPERS = ("model", "state_dict", "model_state_dict", "network_weights")
"""Names under which training programs keep the weights beside optimiser and epoch."""

UNREADABLE = (
    ArithmeticError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
)
"""What the readers of other libraries raise for a damaged file."""

LISTED = 5
"""How many tensor names a message quotes."""


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint (.pth, .pt, .bin, .safetensors) by name, on the CPU.

    The weights may lie under "model", "state_dict" and the like; a "module." that data-parallel training put before
    every name is removed. Code in the file is never run.

    Raises
    ------
    InputError
        When the file is missing, truncated, or holds something else than named tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint file; check the path")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    zipped = zipfile.is_zipfile(path)
    if not zipped and path.stat().st_size > 4 and _starts_as_zip(path):
        raise InputError(f"{path}: is truncated or damaged; compare its size and SHA-256 and fetch it again")
    try:
        # Mapped, not read: looking at the shapes of a large file costs nothing.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except UNREADABLE as error:
        raise explain_failure(path, error) from error
    return _named_tensors(content, path)


def _starts_as_zip(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(4) == b"PK\x03\x04"


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        load_file = importlib.import_module("safetensors.torch").load_file
    except ModuleNotFoundError as error:
        raise OptionalDependencyError(
            f'{path}: reading this needs the package safetensors; run pip install "roireg[models]"'
        ) from error
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, importlib.import_module("safetensors").SafetensorError) as error:
        raise explain_failure(path, error) from error
    return tensors


def _named_tensors(content: object, path: Path) -> dict[str, Tensor]:
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not any(isinstance(v, Tensor) for v in content.values()):
        found = f"the entries {_some(map(str, content))}" if isinstance(content, Mapping) else type(content).__name__
        raise InputError(
            f"{path}: is not a checkpoint: expected tensors by name, found {found}; check that this is the file "
            "with the weights"
        )
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
    return tensors


def explain_failure(path: Path, error: Exception) -> InputError:
    """Return the error to raise for a file that does not read: truncated, unsafe or something else."""
    if isinstance(error, OSError) and error.strerror is not None:
        return InputError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions")
    text = str(error)
    if "Weights only load failed" in text or isinstance(error, pickle.UnpicklingError):
        return InputError(
            f"{path}: is no plain checkpoint: it is damaged or holds code beside tensors, which is never run; fetch "
            "it again or save its state_dict alone"
        )
    words = ("central directory", "PytorchStreamReader", "incomplete", "truncated", "unexpected EOF", "deserializing")
    if isinstance(error, EOFError) or any(word in text for word in words):
        return InputError(f"{path}: is truncated or damaged; compare its size and SHA-256 and fetch it again")
    reason = text.strip().splitlines()[0] if text.strip() else type(error).__name__
    return InputError(f"{path}: cannot be read as a model ({reason}); fetch it again")


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor."""
    return {name: tuple(value.shape) for name, value in tensors.items()}


@contextmanager
def sizes_told(source: Path, name: str) -> Iterator[None]:
    """Turn the failure to read a network's sizes off its tensors into an error.

    Raises
    ------
    InputError
        When a tensor that tells a size is missing or has another number of axes.
    """
    try:
        yield
    except KeyError as error:
        raise InputError(
            f"{source}: lacks the tensor {error.args[0]} that {name} has; it is incomplete or another model"
        ) from error
    except (IndexError, ValueError, ZeroDivisionError) as error:
        raise InputError(
            f"{source}: the tensors have other shapes than those of {name}; it is another model"
        ) from error


def fill(network: nn.Module, tensors: Mapping[str, Tensor], *, source: Path, name: str) -> LoadReport:
    """Give a network its weights as float32, in place; also one that was built on the meta device.

    Raises
    ------
    InputError
        When tensors are missing or have another shape than those of the network.
    """
    wanted = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    report = LoadReport(
        missing=tuple(sorted(set(wanted) - set(tensors))),
        unexpected=tuple(sorted(set(tensors) - set(wanted))),
        mismatched=tuple(
            (key, tuple(tensors[key].shape), shape)
            for key, shape in sorted(wanted.items())
            if key in tensors and tuple(tensors[key].shape) != shape
        ),
    )
    require_complete(report, source=source, name=name)
    # Copied: the tensors may be a window onto the file.
    own = {key: _copied(tensors[key]) for key in wanted}
    network.load_state_dict(own, assign=True)
    return report


def _copied(value: Tensor) -> Tensor:
    return value.to(torch.float32 if value.is_floating_point() else value.dtype, copy=True)


def require_complete(report: LoadReport, *, source: Path, name: str) -> None:
    """Raise when the network did not get all its weights; log what the file has beyond them.

    Raises
    ------
    InputError
        When tensors are missing or mismatched; quotes the first few.
    """
    if report.mismatched:
        key, there, here = report.mismatched[0]
        raise InputError(
            f"{source}: does not fit {name}: {len(report.mismatched)} tensor(s) have another shape, first {key} with "
            f"{_by(there)} instead of {_by(here)}; check that this file is the model asked for"
        )
    if report.missing:
        raise InputError(
            f"{source}: does not fit {name}: {len(report.missing)} tensor(s) are missing ({_some(report.missing)}); "
            "check that this file is the model asked for and complete"
        )
    if report.unexpected:
        log.warning(
            "%s: %d tensor(s) are not part of %s and were ignored (%s)",
            source,
            len(report.unexpected),
            name,
            _some(report.unexpected),
        )


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) if shape else "a single value"

"""Checkpoint files: tensors by name, and how they met a network."""

from __future__ import annotations

import importlib
import logging
import pickle
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from roireg.core.errors import InputError, OptionalDependencyError
from roireg.models.base import LoadReport
from roireg.models.renaming import Rules, original_names
from roireg.models.tensorflow import TENSORFLOW, read_layers
from roireg.models.torchscript import is_script, read_script

__all__ = [
    "UNREADABLE",
    "Shapes",
    "compare",
    "copied",
    "explain_failure",
    "fill",
    "read_tensors",
    "require_complete",
    "shapes_of",
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

EXPANSION = 16
"""How many times the size of its file a checkpoint may take in memory: tensors may share their values."""

LISTED = 5
"""How many tensor names a message quotes."""


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint (.pth, .pt, .ts, .bin, .safetensors) by name, on the CPU.

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
    if path.name == TENSORFLOW and path.with_suffix(".json").is_file():
        return read_layers(path)
    zipped = _require_whole(path)
    if zipped and is_script(path):
        return _read_script(path)
    try:
        # Mapped, not read: looking at the shapes of a large file costs nothing.
        with torch.serialization.safe_globals(HARMLESS):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except UNREADABLE as error:
        raise explain_failure(path, error) from error
    tensors = _named_tensors(content, path)
    _require_real(tensors, path)
    return tensors


def _read_script(path: Path) -> dict[str, Tensor]:
    try:
        tensors = read_script(path)
    except (*UNREADABLE, AttributeError, StopIteration, zipfile.BadZipFile) as error:
        raise explain_failure(path, error) from error
    if not tensors:
        raise InputError(f"{path}: is a TorchScript archive without weights; check that this is the file asked for")
    _require_real(tensors, path)
    return tensors


class _Discarded:
    """Stands for an optimiser or a number that was saved beside the weights; keeps nothing of it."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def _emptied() -> Callable[..., dict[object, object]]:
    return lambda *_: {}


def _in_place_of(module: str, name: str, stand_in: Any) -> Any:
    stand_in.__module__, stand_in.__name__, stand_in.__qualname__ = module, name, name
    return stand_in


HARMLESS = [
    dict,
    _in_place_of("torch.optim.adam", "Adam", type("Adam", (_Discarded,), {})),
    _in_place_of("collections", "defaultdict", _emptied()),
    *(_in_place_of(f"numpy.{core}.multiarray", "scalar", _emptied()) for core in ("core", "_core")),
    _in_place_of("numpy", "dtype", type("dtype", (_Discarded,), {})),
    *(
        _in_place_of("numpy.dtypes", f"{kind}DType", type(f"{kind}DType", (_Discarded,), {}))
        for kind in ("Float32", "Float64", "Int64", "Bool", "Str")
    ),
]
"""What may lie beside the weights, and what is read instead: SAM-Med2D is published with its whole optimiser, nnU-Net
with losses as numbers of numpy."""


def _require_whole(path: Path) -> bool:
    """Return whether a checkpoint is a zip archive, as torch has written them since 1.6.

    Raises
    ------
    InputError
        When it cannot be opened, begins as one and has lost its end, or would unpack to more than its own size:
        torch does not compress its archives.
    """
    try:
        with path.open("rb") as stream:
            begins = stream.read(4) == b"PK\x03\x04"
        zipped = zipfile.is_zipfile(path)
        unpacked = 0
        if zipped:
            with zipfile.ZipFile(path) as archive:
                # TorchScript packs its source code; `read_script` looks at every part itself.
                parts = [p for p in archive.infolist() if "/code/" not in p.filename]
                unpacked = sum(part.file_size for part in parts)
        packed = unpacked > path.stat().st_size
    except (OSError, zipfile.BadZipFile) as error:
        raise explain_failure(path, error) from error
    if packed:
        raise InputError(f"{path}: is a compressed archive and no checkpoint as torch writes it; unpack it first")
    if begins and not zipped:
        raise InputError(f"{path}: is truncated or damaged; fetch it again")
    return zipped


def _require_real(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Refuse tensors that pretend to have far more values than the file can hold.

    Raises
    ------
    InputError
        When they would take more memory than 16 times the size of the file.
    """
    size = sum(value.numel() * value.element_size() for value in tensors.values())
    held = path.stat().st_size
    if size > EXPANSION * held + 2**20:
        raise InputError(f"{path}: {held} bytes claim to hold {size} bytes of weights; fetch it again")


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
        kind = f"the entries {_some(map(str, content))}" if isinstance(content, Mapping) else type(content).__name__
        raise InputError(
            f"{path}: is not a checkpoint: expected tensors by name, found {kind}; check that this is the file "
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
        return InputError(f"{path}: is truncated or damaged; fetch it again")
    reason = text.strip().splitlines()[0] if text.strip() else type(error).__name__
    return InputError(f"{path}: cannot be read as a model ({reason}); fetch it again")


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor."""
    return {name: tuple(value.shape) for name, value in tensors.items()}


def fill(
    network: nn.Module, tensors: Mapping[str, Tensor], *, source: Path, name: str, rules: Rules = ()
) -> LoadReport:
    """Give a network its weights as float32, in place; also one that was built on the meta device.

    Parameters
    ----------
    rules : by which the tensors were renamed, so that messages and report name them as the file does.

    Raises
    ------
    InputError
        When tensors are missing or have another shape than those of the network.
    """
    report = compare(network, tensors, rules)
    require_complete(report, source=source, name=name)
    # Copied: the tensors may be a window onto the file.
    own = {key: copied(tensors[key]) for key in network.state_dict()}
    network.load_state_dict(own, assign=True)
    return report


def compare(network: nn.Module, tensors: Mapping[str, Tensor], rules: Rules = ()) -> LoadReport:
    """Return how tensors meet those of a network; for `rules` see `fill`."""
    ours, theirs = shapes_of(network.state_dict()), shapes_of(tensors)
    if ours == theirs:
        return LoadReport()
    names = original_names([*ours, *theirs], rules)
    return LoadReport(
        missing=tuple(sorted({names[key] for key in ours.keys() - theirs.keys()})),
        unexpected=tuple(sorted({names[key] for key in theirs.keys() - ours.keys()})),
        mismatched=tuple(
            sorted((names[k], theirs[k], ours[k]) for k in ours.keys() & theirs.keys() if theirs[k] != ours[k])
        ),
    )


def copied(value: Tensor) -> Tensor:
    """Return a tensor of its own, floating-point numbers as float32."""
    return value.to(torch.float32 if value.is_floating_point() else value.dtype, copy=True)


def require_complete(report: LoadReport, *, source: Path, name: str) -> None:
    """Raise when the network did not get all its weights; log what the file has beyond them.

    Raises
    ------
    InputError
        When tensors are missing or mismatched; counts these and the unexpected ones and quotes the first few.
    """
    faults = []
    if report.missing:
        faults.append(f"{len(report.missing)} tensor(s) are missing ({_some(report.missing)})")
    if report.mismatched:
        key, there, here = report.mismatched[0]
        faults.append(
            f"{len(report.mismatched)} tensor(s) have another shape, first {key} with {_by(there)} instead of "
            f"{_by(here)}"
        )
    beyond = f"{len(report.unexpected)} tensor(s) do not belong to it ({_some(report.unexpected)})"
    if faults:
        told = ", ".join([*faults, beyond] if report.unexpected else faults)
        raise InputError(
            f"{source}: does not fit {name}: {told}; check that this file is the model asked for and complete"
        )
    if report.unexpected:
        log.warning("%s: %s and were ignored; it is %s", source, beyond, name)


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) if shape else "a single value"

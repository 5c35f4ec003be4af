"""The door to the `transformers` library: imported when first needed, its faults explained, its chatter silenced."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from roireg.core.errors import InputError, OptionalDependencyError
from roireg.models.base import LoadReport
from roireg.models.checkpoint import UNREADABLE, explain_failure, require_complete, require_whole

__all__ = ["build_empty", "from_folder", "model_type_of", "transformers_class"]


def transformers_class(name: str) -> Any:
    """Return a class of `transformers` by name.

    Raises
    ------
    OptionalDependencyError
        When the library is missing or too old, or a torchvision that does not fit torch keeps it from loading.
    """
    try:
        return getattr(importlib.import_module("transformers"), name)
    except (ImportError, AttributeError, RuntimeError) as error:
        chain = " ".join(str(e) for e in _causes(error))
        if "torchvision" in chain:
            raise OptionalDependencyError(
                "the installed torchvision does not fit the installed torch and keeps transformers from loading; "
                "remove it with `pip uninstall torchvision` (roireg does not need it) or install the build that fits"
            ) from error
        if isinstance(error, ModuleNotFoundError):
            raise OptionalDependencyError(
                'this model needs the package transformers, which is not installed; run pip install "roireg[models]"'
            ) from error
        raise OptionalDependencyError(
            f'the installed transformers has no usable {name} ({error}); run pip install --upgrade "roireg[models]"'
        ) from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def model_type_of(folder: Path) -> str:
    """Return the "model_type" of a Hugging Face folder.

    Raises
    ------
    InputError
        When the folder has no readable config.json that names one.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise InputError(
            f"{folder}: no config.json in this folder, so it is no model in the Hugging Face format; "
            "name such a folder or a checkpoint file (.pth, .pt, .safetensors)"
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error}); fetch the model again") from error
    kind = config.get("model_type") if isinstance(config, dict) else None
    if not isinstance(kind, str):
        raise InputError(f'{path}: does not say which model this is (no "model_type"); fetch the model again')
    return kind


def from_folder(class_name: str, folder: Path, *, name: str) -> tuple[Any, LoadReport]:
    """Load a network from a Hugging Face folder in float32 on the CPU.

    Raises
    ------
    InputError
        When a file is missing, damaged or holds other tensors than the configuration asks for.
    """
    network_class = transformers_class(class_name)
    for file in folder.glob("*.bin"):
        require_whole(file)
    with _quiet():
        try:
            network, info = network_class.from_pretrained(
                folder,
                dtype=torch.float32,
                local_files_only=True,
                weights_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
        except UNREADABLE as error:
            raise explain_failure(folder, error) from error
        except Exception as error:
            # safetensors and huggingface_hub's configuration checks raise classes of their own.
            if type(error).__module__.split(".")[0] not in ("safetensors_rust", "safetensors", "huggingface_hub"):
                raise
            raise explain_failure(folder, error) from error
    report = LoadReport(
        missing=tuple(sorted(info["missing_keys"])),
        unexpected=tuple(sorted(info["unexpected_keys"])),
        mismatched=tuple(sorted((key, tuple(a), tuple(b)) for key, a, b in info["mismatched_keys"])),
    )
    require_complete(report, source=folder, name=name)
    return network, report


def build_empty(model: str, config: str, settings: Mapping[str, Any]) -> Any:
    """Build a network of transformers without memory for its weights, which `fill` brings."""
    with torch.device("meta"):
        return transformers_class(model)(transformers_class(config)(**settings))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from logging and drawing bars: what matters is in the load report."""
    log = importlib.import_module("transformers.utils.logging")
    verbosity, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity(log.CRITICAL)
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if bars:
            log.enable_progress_bar()

"""The door to the `transformers` library: imported when first needed, its faults explained, its chatter silenced.

Of a folder in the Hugging Face format nothing but numbers and tensors is used: settings that the architecture does
not have are dropped, so that no key can name code, a hub repository or an implementation.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from roireg.core.errors import InputError, OptionalDependencyError
from roireg.io.weights import weight_files
from roireg.models.base import LoadReport, Signs
from roireg.models.checkpoint import UNREADABLE, copied, explain_failure, read_tensors, require_complete

__all__ = ["HubFormat", "part_of", "read_config", "transformers_class"]

ATTENTION = "sdpa"
"""Implementation of the attention: torch's own, whatever a folder asks for."""

LARGEST = 65_536
"""Largest number that a setting may be: beyond it is damage, which would fill the memory."""


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


def read_config(folder: Path) -> dict[str, Any]:
    """Return config.json of a Hugging Face folder, which names its "model_type".

    Raises
    ------
    InputError
        When the folder has no readable config.json that names one.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise InputError(
            f"{folder}: no config.json in this folder, so it is no model in the Hugging Face format; "
            "name such a folder, one of nnU-Net, a MONAI bundle, or a checkpoint file (.pth, .pt, .safetensors)"
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, RecursionError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error}); fetch the model again") from error
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise InputError(f'{path}: does not say which model this is (no "model_type"); fetch the model again')
    return config


def part_of(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a part of a configuration; empty where it has none."""
    part = config.get(name)
    return part if isinstance(part, dict) else {}


@dataclass(frozen=True)
class HubFormat:
    """How an architecture is stored in the Hugging Face format.

    Attributes
    ----------
    network, config : names of its classes in `transformers`.
    types : what "model_type" of config.json may be.
    recognise : config.json -> what it tells.
    """

    network: str
    config: str
    types: tuple[str, ...]
    recognise: Callable[[Mapping[str, Any]], Signs]

    def build(self, settings: Mapping[str, Any]) -> Any:
        """Return a network with random weights; settings as its configuration takes them."""
        return transformers_class(self.network)(transformers_class(self.config)(**settings))

    def settings(self, folder: Path) -> dict[str, Any]:
        """Return those settings of config.json that the architecture has.

        Raises
        ------
        InputError
            When one is of another kind than the architecture has, or absurdly large.
        """
        generic = transformers_class("PreTrainedConfig")().to_dict()
        usual = transformers_class(self.config)().to_dict()
        return _of_architecture(
            read_config(folder), usual, generic.keys(), f"{folder}: cannot be read as a model (", ""
        )

    def read(self, folder: Path, *, name: str) -> tuple[Any, LoadReport]:
        """Load a network from a folder in float32 on the CPU.

        Raises
        ------
        InputError
            When a file is missing, damaged or holds other tensors than the configuration asks for.
        """
        files = weight_files(folder)
        whole = [file for file in files if file.stem in ("model", "pytorch_model")]
        tensors = {key: copied(value) for file in whole or files for key, value in read_tensors(file).items()}
        try:
            settings = self.settings(folder)
            _require_blocks(settings, len(tensors))
            with torch.device("meta"):
                size = sum(value.numel() for value in self.build(settings).state_dict().values())
            held = sum(value.numel() for value in tensors.values())
            if size > 2 * held + 2**20:
                raise ValueError(f"config.json describes {size} numbers, the weights are {held}")
            with _quiet():
                network, info = transformers_class(self.network).from_pretrained(
                    None,
                    config=transformers_class(self.config)(**settings),
                    state_dict=tensors,
                    attn_implementation=ATTENTION,
                    dtype=torch.float32,
                    output_loading_info=True,
                    ignore_mismatched_sizes=True,
                )
        except UNREADABLE as error:
            raise explain_failure(folder, error) from error
        except Exception as error:
            # The configuration checks of huggingface_hub raise classes of their own.
            if type(error).__module__.split(".")[0] != "huggingface_hub":
                raise
            raise explain_failure(folder, error) from error
        report = LoadReport(
            missing=tuple(sorted(info["missing_keys"])),
            unexpected=tuple(sorted(info["unexpected_keys"])),
            mismatched=tuple(sorted((key, tuple(a), tuple(b)) for key, a, b in info["mismatched_keys"])),
        )
        require_complete(report, source=folder, name=name)
        return network, report


def _of_architecture(
    config: Mapping[str, Any], usual: Mapping[str, Any], generic: Any, source: str, owner: str
) -> dict[str, Any]:
    """Return the settings that are among the usual ones of an architecture and of the same kind."""
    out: dict[str, Any] = {}
    for key, default in usual.items():
        if key not in config or key in generic or key.startswith("_"):
            continue
        value = config[key]
        if isinstance(default, dict) and isinstance(value, dict):
            out[key] = _of_architecture(value, default, generic, source, f"{owner}{key}.")
            continue
        numbers = isinstance(value, int | float) and isinstance(default, int | float | None)
        same = value is None or numbers or (default is not None and isinstance(value, type(default)))
        plain = value if isinstance(value, list) else [value]
        if not same or any(isinstance(v, dict) or (isinstance(v, int) and abs(v) > LARGEST) for v in _flat(plain)):
            raise InputError(
                f"{source}config.json has {owner}{key} {str(value)[:40]!r} where others have {str(default)[:40]}); "
                "fetch it again"
            )
        out[key] = value
    if owner and "model_type" in usual:
        # A part is of its own kind only.
        out["model_type"] = usual["model_type"]
    return out


def _flat(values: list[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list):
            yield from _flat(value)
        else:
            yield value


def _require_blocks(settings: Mapping[str, Any], count: int) -> None:
    """Refuse more blocks or layers than there are tensors, before a network of so many is built."""
    for key, value in settings.items():
        if isinstance(value, dict):
            _require_blocks(value, count)
        elif value is None or not any(word in key for word in ("layers", "blocks", "depth")):
            continue
        elif sum(_flat(value if isinstance(value, list) else [value])) > max(count, 200):
            raise ValueError(f"config.json has {key} {value}, the weights are {count} tensors")


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

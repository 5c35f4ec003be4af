"""Every model by name, and the one function that loads any of them.

A family is a module of this package with `CARDS` and `load`; it is imported when one of its models is looked at.
"""

from __future__ import annotations

import difflib
import importlib
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from roireg.core.errors import InputError
from roireg.io.weights import SUFFIXES, find_weights, weight_files, weights_digest
from roireg.models.base import DenseEncoder, ModelCard, PromptableModel
from roireg.models.detect import Detected, detect
from roireg.models.precision import Precision
from roireg.models.preprocess import Preprocessing

__all__ = ["available_models", "find_card", "load_encoder", "load_model", "resolve"]


FAMILIES: dict[str, str] = {
    "sam": "sam",
    "sam-hq": "sam_hq",
    "sam2": "sam2",
    "sam-med2d": "sam_med2d",
    "mobile-sam": "mobile_sam",
    "sam-med3d": "sam_med3d",
    "vista3d": "vista3d",
    "nninteractive": "nninteractive",
    "dinov2": "dino",
    "dinov3": "dino",
}
"""Module of this package that has the cards and the loader of a family."""

SERVED = frozenset({"nninteractive"})
"""Families whose networks run elsewhere: their module has `connect` instead of `load`."""


def available_models() -> tuple[ModelCard, ...]:
    """Return the cards of all models, family by family."""
    cards: list[ModelCard] = []
    for module in dict.fromkeys(FAMILIES.values()):
        cards.extend(importlib.import_module(f"{__package__}.{module}").CARDS)
    return tuple(cards)


def find_card(name: str) -> ModelCard:
    """Return the card of a model.

    Raises
    ------
    InputError
        When the name is unknown; suggests the nearest names.
    """
    cards = {card.name: card for card in available_models()}
    if name in cards:
        return cards[name]
    near = difflib.get_close_matches(name.lower(), cards, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "see `roireg models list`"
    raise InputError(f"model {name!r} is unknown; {hint}")


def load_model(
    name: str | Path,
    *,
    device: torch.device | str = "cpu",
    input_size: int | None = None,
    dtype: Precision = None,
) -> PromptableModel:
    """Load a promptable model.

    Parameters
    ----------
    name : registry name ("sam-vit-base"), path of a checkpoint file or Hugging Face folder, or "NAME=PATH" for a
        path whose model cannot be told from its tensors ("medsam=mine.pth").
    device : where the weights go.
    input_size : side of what the network sees in pixels; smaller is faster and coarser. As trained if None.
    dtype : number format of encoder and decoder: None or "float32", "bfloat16", or "auto", which is bfloat16 where
        the device computes in it. Prompts, embeddings and masks are float32 always.

    Raises
    ------
    InputError
        When the name is unknown, the weights are not on this disk, do not fit, or the model answers no prompts.
    """
    model = _load(name, device=device, input_size=input_size, precision=dtype)
    if not isinstance(model, PromptableModel):
        raise InputError(
            f"{model.card.name} gives features and answers no prompts; choose a model with prompts "
            "(see `roireg models list`) or the embedded segmenter hierarchy"
        )
    return model


def load_encoder(
    name: str | Path,
    *,
    device: torch.device | str = "cpu",
    input_size: int | None = None,
    dtype: Precision = None,
) -> DenseEncoder:
    """Load a model for its dense features; see `load_model` for the parameters.

    Raises
    ------
    InputError
        As `load_model`, and when the model gives no dense features.
    """
    model = _load(name, device=device, input_size=input_size, precision=dtype)
    if not isinstance(model, DenseEncoder):
        raise InputError(f"{model.card.name} gives no dense features; see `roireg models list` for others")
    return model


def resolve(name: str | Path) -> tuple[ModelCard, Path | None]:
    """Return the card that describes a model, and where its weights are; reads tensor shapes at most.

    The place is None for a model that runs on a server.

    Raises
    ------
    InputError
        When nothing is known by the name, the weights are not on this disk, or they are of another architecture.
    """
    card, path, _ = _identified(name)
    return card, path


def _identified(name: str | Path) -> tuple[ModelCard, Path | None, tuple[str, ...]]:
    """Return what `resolve` does, and what was assumed because the tensors do not tell it."""
    asked, where = _parts(name)
    if asked is not None and asked.family in SERVED:
        return asked, None, ()
    if where is None:
        assert asked is not None  # one of the two is always there
        path = find_weights(asked.name, hub_id=asked.hub_id, files=asked.files)
        if path is None:
            raise InputError(
                f"the weights of {asked.name} are not on this disk; get them with "
                f"`roireg models fetch {asked.name}`, or use the segmenter hierarchy, which needs none"
            )
    else:
        path = Path(where)
        if not path.exists():
            raise InputError(f"{path}: no such model file or folder; check the path or see `roireg models list`")
    path = _file_within(path)
    found = detect(path)
    named = asked or _named(found, path)
    if named is None:
        like = _alike(found)
        card = _renamed(like, found, path)
        remarks: list[str] = []
    else:
        like = named
        card, remarks = _measured(named, found, path)
    others = {_tag(c): c.name for c in reversed(available_models()) if _may_be(c, found) and _tag(c) != _tag(like)}
    if asked is None and others:
        why = "as nothing tells the model" if named is None else "by the name of the file or folder"
        ways = " or ".join(f"{other}={path}" for other in others.values())
        remarks = [*remarks, f"images are prepared as for {like.name}, {why}; if it is another, say {ways}"]
    return card, path, tuple(remarks)


def _named(found: Detected, path: Path) -> ModelCard | None:
    """Return the card of the family that a path has the name of: its own, that of its file or of its repository."""
    name = path.name if path.is_file() else path.resolve().name
    for card in available_models():
        repository = (card.hub_id or "").rpartition("/")[2]
        snapshot = card.hub_id is not None and f"models--{card.hub_id.replace('/', '--')}" in path.parts
        names = [Path(file).name for file in card.files] if path.is_file() else [card.name, repository]
        if card.family == found.family and (snapshot or name in names):
            return card
    return None


def _measured(card: ModelCard, found: Detected, path: Path) -> tuple[ModelCard, list[str]]:
    """Return a card as far as it holds for what was found, and what to remark where that is of no published size.

    Raises
    ------
    InputError
        When it is another architecture or of another published size.
    """
    size = SIZES[card.name]
    if found.family != card.family or found.size not in ("", size):
        raise InputError(
            f"{path}: holds {found.words}, which is not {card.name}; check that this is the file of {card.name}"
        )
    if found.size == size:
        return card, []
    remark = f"holds {found.words}, where {card.name} is {size}: the licence of these weights is not known"
    return replace(card, weights_licence=UNKNOWN), [remark]


def _may_be(card: ModelCard, found: Detected) -> bool:
    return card.family == found.family and found.size in ("", SIZES[card.name])


def _alike(found: Detected) -> ModelCard:
    """Return the first card of what was found; of its family where its size is none of the published ones."""
    family = [card for card in available_models() if card.family == found.family]
    return next((card for card in family if _may_be(card, found)), family[0])


def _renamed(card: ModelCard, found: Detected, path: Path) -> ModelCard:
    """Return the card of weights that are known by their path alone."""
    return replace(
        card,
        name=path.stem if path.is_file() else path.resolve().name,
        hub_id=None,
        files=(path.name,) if path.is_file() else (),
        weights_licence=UNKNOWN,
        input_size=found.input_size or card.input_size,
        notes=f"{found.words}, from {path}",
        sha256="",
    )


def _tag(card: ModelCard) -> str:
    """Return what is done to images, but for sizes; networks for volumes of one family do not differ."""
    return card.preprocessing.tag if isinstance(card.preprocessing, Preprocessing) else ""


def _file_within(path: Path) -> Path:
    """Return the one weight file of a folder that is not in the Hugging Face format, else the path itself."""
    if not path.is_dir() or (path / "config.json").is_file():
        return path
    files = weight_files(path)
    return files[0] if len(files) == 1 else path


def _load(name: str | Path, *, device: torch.device | str, input_size: int | None, precision: Precision) -> Any:
    card, path, remarks = _identified(name)
    module = importlib.import_module(f"{__package__}.{FAMILIES[card.family]}")
    if path is None:
        address = str(name).partition("=")[2]
        return module.connect(address) if address else module.connect()
    model = module.load(
        card,
        path,
        device=_device(device),
        digest=weights_digest(path),
        input_size=input_size,
        precision=precision,
    )
    model.report = replace(model.report, remarks=remarks)
    if card.weights_licence == UNKNOWN:
        count = sum(parameter.numel() for parameter in model.network.parameters())
        model.card = replace(card, parameters=round(count / 1e6, 3))
    return model


def _device(device: torch.device | str) -> torch.device:
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"device {device!r} is unknown; use cpu, cuda, cuda:N or mps") from error
    here = {
        "cuda": torch.cuda.is_available() and (place.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not here.get(place.type, True):
        raise InputError(f"device {place} is not available on this machine; use cpu")
    return place


def _parts(name: str | Path) -> tuple[ModelCard | None, str | None]:
    """Split NAME, PATH or NAME=PATH; a registered name wins over a file of the same name."""
    text = str(name)
    if isinstance(name, Path):
        return None, text
    if not Path(text).exists() and (match := re.fullmatch(r"([a-z0-9.+-]+)=(.+)", text)):
        return find_card(match[1]), match[2]
    looks_like_path = "/" in text or "\\" in text or Path(text).suffix in SUFFIXES
    if looks_like_path or (Path(text).exists() and text not in {card.name for card in available_models()}):
        return None, text
    return find_card(text), None


UNKNOWN = "unknown"
"""Licence of weights that came from a path."""

SIZES: dict[str, str] = {
    "sam-vit-base": "ViT-B",
    "sam-vit-large": "ViT-L",
    "sam-vit-huge": "ViT-H",
    "medsam": "ViT-B",
    "sam-hq-vit-base": "ViT-B",
    "sam-hq-vit-large": "ViT-L",
    "sam-hq-vit-huge": "ViT-H",
    "sam2.1-tiny": "tiny",
    "sam2.1-small": "small",
    "sam2.1-base-plus": "base-plus",
    "sam2.1-large": "large",
    "medsam2": "tiny",
    "slimsam-50": "ViT-B pruned by half",
    "slimsam-77": "ViT-B pruned by 77 %",
    "sam-med2d": "ViT-B",
    "mobile-sam": "TinyViT-5M",
    "sam-med3d": "ViT-B",
    "sam-med3d-turbo": "ViT-B",
    "vista3d": "of 48 channels",
    "dinov2-small": "small",
    "dinov2-base": "base",
    "dinov2-large": "large",
    "dinov3-small": "small",
    "dinov3-base": "base",
}
"""Which size of its architecture a model has, in the words of `detect`."""

"""Every model by name, and the one function that loads any of them."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack, overload

import torch

from roireg.core.errors import InputError
from roireg.core.registry import unknown
from roireg.io.weights import SUFFIXES, find_weights, weight_files
from roireg.models import (
    alike,
    anatomical,
    bundle,
    dino,
    first_layers,
    meshnet,
    mobile_sam,
    nninteractive,
    nnunet,
    obelisk,
    sam,
    sam2,
    sam_hq,
    sam_med2d,
    sam_med3d,
    vista3d,
    wnet,
)
from roireg.models.base import DenseEncoder, LoadReport, ModelCard, PromptableModel, Signs
from roireg.models.checkpoint import read_tensors, shapes_of
from roireg.models.classes import ClassModel
from roireg.models.family import Family
from roireg.models.hugging import read_config
from roireg.models.network import Network
from roireg.models.precision import Precision, choose_precision
from roireg.models.preprocess import Preprocessing
from roireg.models.profiles import profile_named

__all__ = [
    "add_family",
    "available_models",
    "detect",
    "family_of",
    "find_card",
    "is_model_name",
    "load",
    "resolve",
    "untrained",
]

FAMILIES: list[Family] = [
    anatomical.FAMILY,
    sam.FAMILY,
    sam_hq.FAMILY,
    sam2.FAMILY,
    sam_med2d.FAMILY,
    mobile_sam.FAMILY,
    sam_med3d.FAMILY,
    vista3d.FAMILY,
    nninteractive.FAMILY,
    *dino.FAMILIES,
    alike.FAMILY,
    meshnet.FAMILY,
    obelisk.FAMILY,
    wnet.FAMILY,
    bundle.FAMILY,
    nnunet.FAMILY,
    first_layers.FAMILY,
]
"""All architectures, in the order in which models are listed."""


def add_family(family: Family) -> None:
    """Make the models of a family known for the rest of this process.

    Raises
    ------
    InputError
        When a family or model of the same name is there already.
    """
    names = {f.name for f in FAMILIES} | {card.name for card in available_models()}
    taken = names & ({family.name} | {card.name for card in family.cards})
    if taken:
        raise InputError(f"there is a model or family named {', '.join(sorted(taken))} already; choose another name")
    FAMILIES.append(family)


def available_models() -> tuple[ModelCard, ...]:
    """Return the cards of all models, family by family."""
    return tuple(card for family in FAMILIES for card in family.cards)


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
    raise unknown("model", name, cards, "see `roireg models list`")


def is_model_name(name: str) -> bool:
    """Whether a text is what `load` takes: the name of a model, a path, or both."""
    known = {card.name for card in available_models()}
    return name in known or name.partition("=")[0] in known or _is_path(name)


def family_of(card: ModelCard) -> Family:
    """Return the architecture of a model."""
    return next(family for family in FAMILIES if family.name == card.family)


class Loading(TypedDict, total=False):
    """How a network is loaded; see `load`."""

    device: torch.device | str
    input_size: int | None
    dtype: Precision
    profile: str | None


@overload
def load(name: str | Path, needs: Literal["prompts"] = ..., **how: Unpack[Loading]) -> PromptableModel: ...
@overload
def load(name: str | Path, needs: Literal["features"], **how: Unpack[Loading]) -> DenseEncoder: ...
@overload
def load(name: str | Path, needs: Literal["classes"], **how: Unpack[Loading]) -> ClassModel: ...
def load(
    name: str | Path,
    needs: Literal["prompts", "features", "classes"] = "prompts",
    *,
    device: torch.device | str = "cpu",
    input_size: int | None = None,
    dtype: Precision = None,
    profile: str | None = None,
) -> PromptableModel | DenseEncoder | ClassModel:
    """Load a network with its weights.

    Parameters
    ----------
    name : registry name ("sam-vit-base"), path of a checkpoint file or Hugging Face folder, or "NAME=PATH" for a
        path whose model cannot be told from its tensors ("medsam=mine.pth"); "nninteractive=http://HOST:PORT" for a
        server, see `roireg.models.remote.allow_remote`.
    needs : what it is loaded for: to answer prompts, for its dense features, or for the classes of voxels.
    device : where the weights go.
    input_size : side of what the network sees in pixels; smaller is faster and coarser. As trained if None.
    dtype : number format of encoder and decoder: None or "float32", "bfloat16", or "auto", which is bfloat16 where
        the device computes in it. Prompts, embeddings and masks are float32 always.
    profile : fast, balanced or full, see `roireg.models.profiles`: input size and number format that are not given.

    Raises
    ------
    InputError
        When the name is unknown, the weights are not on this disk, do not fit, or the model has not what is needed.
    """
    source = _locate(name)
    card, family = source.card, source.family
    if source.path is None:
        assert family.connect is not None
        return _suited(family.connect(*source.address), needs)
    if profile is not None:
        input_size, dtype = profile_named(profile).setting(card, input_size, dtype)
    place = _device(device)
    precision = choose_precision(dtype, place)
    digest = family.digest(source.path)
    # Whatever device the caller has made the usual one.
    with torch.device("cpu"):
        network, report = family.read(source.path, card)
    if card.weights_licence == UNKNOWN:
        count = sum(parameter.numel() for parameter in network.parameters())
        card = replace(card, parameters=round(count / 1e6, 3))
    report = replace(report, remarks=source.remarks)
    return _suited(_assembled(family, card, network, report, digest, input_size, place, precision), needs)


def untrained(
    family: str,
    settings: dict[str, Any] | None = None,
    *,
    device: torch.device | str = "cpu",
    input_size: int | None = None,
) -> Any:
    """Build a network with random weights, to be trained: its module is `network`, its `trained` is False.

    It predicts nothing: once trained, save the `state_dict` of the module and `load` that file.

    Parameters
    ----------
    family : name of an architecture, such as "sam" or "dinov2".
    settings : sizes, as `Family.build` takes them; those of the first published size if None.
    device, input_size : see `load`.

    Raises
    ------
    InputError
        When there is no such family, it runs on a server, or the size or device is unsuitable.
    """
    here = {f.name: f for f in FAMILIES if f.connect is None}
    if family not in here:
        raise InputError(f"there is no family {family!r} to be trained; use one of {', '.join(here)}")
    network, card = here[family].untrained(settings)
    return _assembled(here[family], card, network, None, "random", input_size, _device(device), torch.float32)


def _assembled(
    family: Family,
    card: ModelCard,
    network: Any,
    report: LoadReport | None,
    digest: str,
    input_size: int | None,
    device: torch.device,
    dtype: torch.dtype,
) -> Network:
    """Give a module its input size, device and number format, and make it a network value."""
    network, size = family.resize(network, input_size, card)
    model = family.model(card, network.to(device), size, key=card.key(digest, size, dtype), report=report)
    model.set_precision(dtype)
    return model


def _suited(model: Any, needs: str) -> Any:
    if needs == "prompts" and not isinstance(model, PromptableModel):
        raise InputError(
            f"{model.card.name} answers no prompts; choose a model with prompts "
            "(see `roireg models list`) or the embedded segmenter hierarchy"
        )
    if needs == "features" and not isinstance(model, DenseEncoder):
        raise InputError(f"{model.card.name} gives no dense features; see `roireg models list` for others")
    if needs == "classes" and not isinstance(model, ClassModel):
        raise InputError(
            f"{model.card.name} names no classes; choose a segmenter of classes such as meshnet-30 (see "
            "`roireg models list`), or give it as the network of regions with --model"
        )
    return model


def resolve(name: str | Path) -> tuple[ModelCard, Path | None]:
    """Return the card that describes a model, and where its weights are; reads tensor shapes at most.

    The place is None for a model that runs on a server.

    Raises
    ------
    InputError
        When nothing is known by the name, the weights are not on this disk, or they are of another architecture.
    """
    source = _locate(name)
    return source.card, source.path


# -- what a name means ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """Where a model comes from.

    Attributes
    ----------
    family, card : what it is.
    path : of its weights; None for a server.
    address : of the server, where the name tells it.
    remarks : what was assumed because the tensors do not tell it.
    """

    family: Family
    card: ModelCard
    path: Path | None = None
    address: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


def _locate(name: str | Path) -> Source:
    named, place = _parts(name)
    family = None if named is None else family_of(named)
    if named is not None and family is not None and family.connect is not None:
        return Source(family, named, address=() if place is None else (place,))
    if place is None:
        assert named is not None  # one of the two is always there
        path = find_weights(named.name, hub_id=named.hub_id, files=named.files)
        if path is None:
            raise InputError(
                f"the weights of {named.name} are not on this disk; get them with "
                f"`roireg models fetch {named.name}`, or use the segmenter hierarchy, which needs none"
            )
    else:
        path = Path(place)
        if not path.exists():
            raise InputError(f"{path}: no such model file or folder; check the path or see `roireg models list`")
    path = _file_within(path)
    family, signs = detect(path)
    words = f"{family.title} {signs.size or 'of no published size'}"
    alike = [card for card in family.cards if signs.size in ("", card.size)] or list(family.cards[:1])
    remarks: list[str] = []
    like = named or _by_path(family, path, signs)
    if like is None:
        like, why = alike[0], "as nothing tells the model"
        card = _of_path(like, signs, path, f"{words}, from {path}")
    else:
        why = "by the name of the file or folder"
        card, remarks = _measured(like, family, signs, path, words)
    others = {_tag(c): c.name for c in reversed(alike) if _tag(c) != _tag(like)}
    if named is None and others:
        ways = " or ".join(f"{other}={path}" for other in others.values())
        remarks.append(f"images are prepared as for {like.name}, {why}; if it is another, say {ways}")
    return Source(family, card, path, remarks=tuple(remarks))


def _parts(name: str | Path) -> tuple[ModelCard | None, str | None]:
    """Split NAME, PATH or NAME=PATH; a registered name wins over a file of the same name."""
    text = str(name)
    if isinstance(name, Path):
        return None, text
    if not Path(text).exists() and (match := re.fullmatch(r"([a-z0-9.+-]+)=(.+)", text)):
        return find_card(match[1]), match[2]
    if _is_path(text) or (Path(text).exists() and text not in {card.name for card in available_models()}):
        return None, text
    return find_card(text), None


def _is_path(text: str) -> bool:
    return "/" in text or "\\" in text or Path(text).suffix in SUFFIXES


def _file_within(path: Path) -> Path:
    """Return the one weight file of a folder that is not in the Hugging Face format, else the path itself."""
    if not path.is_dir() or (path / "config.json").is_file() or _of_folder(path) is not None:
        return path
    files = weight_files(path)
    return files[0] if len(files) == 1 else path


def _of_folder(path: Path) -> Family | None:
    """Return the architecture or format that a folder of its own kind is of."""
    return next((f for f in FAMILIES if f.folder is not None and f.folder.recognise(path)), None)


def detect(path: Path) -> tuple[Family, Signs]:
    """Say which network a checkpoint file or a folder holds, and of which size.

    Raises
    ------
    InputError
        When it cannot be read or is of no known architecture.
    """
    if path.is_dir() and (published := _of_folder(path)) is not None:
        return published, Signs()
    if path.is_dir():
        config = read_config(path)
        formats = {kind: family for family in FAMILIES if family.hub for kind in family.hub.types}
        kind = config["model_type"]
        if kind not in formats:
            raise InputError(
                f"{path}: holds a model of type {kind!r}; this program reads {', '.join(formats)} (see "
                "`roireg models list`)"
            )
        family = formats[kind]
        assert family.hub is not None
        try:
            return family, family.hub.recognise(config)
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise InputError(
                f"{path}: cannot be read as a model (config.json has sizes that are no numbers: {error}); fetch it "
                "again"
            ) from error
    shapes = shapes_of(read_tensors(path))
    for family in FAMILIES:
        try:
            signs = family.recognise(shapes)
        except (IndexError, TypeError):
            # A tensor of the right name with too few axes is not of this family.
            continue
        if signs is not None:
            return family, signs
    titles = ", ".join(family.title for family in FAMILIES if family.connect is None)
    raise InputError(
        f"{path}: the tensors are of no architecture known here ({titles}); for a model in the Hugging Face format "
        "name its folder, with config.json"
    )


def _name_of(file: str) -> str:
    return Path(file).name


def _by_path(family: Family, path: Path, signs: Signs) -> ModelCard | None:
    """Return the card that a path has the name of: its own, that of its file or of its repository.

    The name of a file that several models have tells nothing, but for the model of the same size.
    """
    name = path.name if path.is_file() else path.resolve().name
    shared = sum(name in map(_name_of, card.files) for card in family.cards) > 1
    for card in family.cards:
        if shared and card.size != signs.size:
            continue
        repository = (card.hub_id or "").rpartition("/")[2]
        snapshot = card.hub_id is not None and f"models--{card.hub_id.replace('/', '--')}" in path.parts
        names = [_name_of(file) for file in card.files] if path.is_file() else [card.name, repository]
        if snapshot or name in names:
            return card
    return None


def _measured(card: ModelCard, family: Family, signs: Signs, path: Path, words: str) -> tuple[ModelCard, list[str]]:
    """Return a card as far as it holds for what a path holds, and what to remark where that is of no published size.

    Raises
    ------
    InputError
        When it is another architecture or of another published size.
    """
    if family.name != card.family or signs.size not in ("", card.size):
        raise InputError(
            f"{path}: holds {words}, which is not {card.name}; check that this is the file of {card.name}"
        )
    if signs.size == card.size:
        return card, []
    remark = f"holds {words}, where {card.name} is {card.size}: the licence of these weights is not known"
    return replace(card, weights_licence=UNKNOWN), [remark]


def _of_path(card: ModelCard, signs: Signs, path: Path, notes: str) -> ModelCard:
    """Return the card of weights that are known by their path alone."""
    return replace(
        card,
        name=path.stem if path.is_file() else path.resolve().name,
        hub_id=None,
        files=(path.name,) if path.is_file() else (),
        weights_licence=UNKNOWN,
        input_size=signs.input_size or card.input_size,
        notes=notes,
        sha256="",
    )


def _tag(card: ModelCard) -> str:
    """Return what is done to images, but for sizes; networks for volumes of one family do not differ."""
    return card.preprocessing.tag if isinstance(card.preprocessing, Preprocessing) else ""


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


UNKNOWN = "unknown"
"""Licence of weights that came from a path."""

"""Networks and their checkpoints: what exists, where the weights are, how they load, what they compute."""

from roireg.models.base import (
    DenseEncoder,
    Embedding,
    KeyPointModel,
    KeyPoints,
    LoadReport,
    MaskLogits,
    ModelCard,
    PromptableModel,
    Signs,
)
from roireg.models.classes import ClassModel, ClassNetwork
from roireg.models.family import Family
from roireg.models.network import Network
from roireg.models.preprocess import CT_WINDOWS, Preprocessing, Window, to_raster
from roireg.models.promptable import RasterNetwork
from roireg.models.registry import add_family, available_models, find_card, load, resolve, untrained
from roireg.models.remote import allow_remote

__all__ = [
    "CT_WINDOWS",
    "ClassModel",
    "ClassNetwork",
    "DenseEncoder",
    "Embedding",
    "Family",
    "KeyPointModel",
    "KeyPoints",
    "LoadReport",
    "MaskLogits",
    "ModelCard",
    "Network",
    "Preprocessing",
    "PromptableModel",
    "RasterNetwork",
    "Signs",
    "Window",
    "add_family",
    "allow_remote",
    "available_models",
    "find_card",
    "load",
    "resolve",
    "to_raster",
    "untrained",
]

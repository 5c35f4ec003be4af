"""Networks and their checkpoints: what exists, where the weights are, how they load, what they compute."""

from roireg.models.base import DenseEncoder, Embedding, LoadReport, MaskLogits, ModelCard, PromptableModel
from roireg.models.preprocess import CT_WINDOWS, Window, to_raster
from roireg.models.registry import available_models, find_card, load_encoder, load_model, resolve

__all__ = [
    "CT_WINDOWS",
    "DenseEncoder",
    "Embedding",
    "LoadReport",
    "MaskLogits",
    "ModelCard",
    "PromptableModel",
    "Window",
    "available_models",
    "find_card",
    "load_encoder",
    "load_model",
    "resolve",
    "to_raster",
]

"""How much time a network may take: input size, precision and points in three named settings.

Segmenters and features load their networks by profile, so that both see the same input and share embeddings.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from roireg.core.errors import InputError
from roireg.models.base import DenseEncoder, PromptableModel
from roireg.models.precision import Precision
from roireg.models.registry import load_encoder, load_model, resolve

__all__ = ["PROFILES", "Profile", "load_encoder_for_profile", "load_for_profile", "profile_named"]


@dataclass(frozen=True)
class Profile:
    """A setting.

    Attributes
    ----------
    points : points per side of everything mode.
    crop_layers : of everything mode, see `roireg.segment.everything.EverythingOptions`.
    input_size : side in pixels of what the network sees, at most the model's own; None keeps that.
    dtype : number format of the encoder; "auto" is bfloat16 where the device computes in it.
    volume_points : about how many points a network for volumes is asked; the rest is for 2D networks.
    """

    points: int
    crop_layers: int
    input_size: int | None
    dtype: Precision
    volume_points: int = 216


PROFILES = {
    "fast": Profile(points=16, crop_layers=0, input_size=512, dtype="auto", volume_points=64),
    "balanced": Profile(points=24, crop_layers=0, input_size=512, dtype="auto"),
    "full": Profile(points=32, crop_layers=0, input_size=None, dtype="float32", volume_points=512),
}
"""By name; "full" is what the authors publish."""


def profile_named(name: str) -> Profile:
    """Return a profile by name.

    Raises
    ------
    InputError
        When there is none of this name.
    """
    if name not in PROFILES:
        raise InputError(f"profile {name!r} is unknown; use one of {', '.join(PROFILES)}")
    return PROFILES[name]


def load_for_profile(
    model: str | Path, *, profile: str = "balanced", input_size: int | None = None, device: str = "cpu"
) -> PromptableModel:
    """Load a promptable network with the input size and number format of a profile.

    Parameters
    ----------
    model : name or path, see `roireg.models.registry.load_model`.
    input_size : side of what the network sees, instead of the profile's.

    Raises
    ------
    InputError
        When profile or model is unknown, the weights are not on this disk, or the size does not suit the network.
    """
    size, dtype = _setting(model, profile, input_size)
    return load_model(model, device=device, input_size=size, dtype=dtype)


def load_encoder_for_profile(
    model: str | Path, *, profile: str = "balanced", input_size: int | None = None, device: str = "cpu"
) -> DenseEncoder:
    """Load a network for its features; see `load_for_profile`."""
    size, dtype = _setting(model, profile, input_size)
    return load_encoder(model, device=device, input_size=size, dtype=dtype)


def _setting(model: str | Path, profile: str, input_size: int | None) -> tuple[int | None, Precision]:
    wanted = profile_named(profile)
    card, _ = resolve(model)
    if card.ndim == 3:
        # Networks for volumes have one input size and number format.
        return input_size, None
    if input_size is None and wanted.input_size is not None and wanted.input_size < card.input_size:
        input_size = wanted.input_size
    return input_size, wanted.dtype

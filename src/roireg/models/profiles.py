"""How much time a network may take: input size, precision and points in three named settings.

Segmenters and features load their networks by profile, so that both see the same input and share embeddings.
"""

from __future__ import annotations

from dataclasses import dataclass

from roireg.core.errors import InputError
from roireg.models.base import ModelCard
from roireg.models.precision import Precision

__all__ = ["PROFILES", "Profile", "profile_named"]


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

    def setting(self, card: ModelCard, input_size: int | None, dtype: Precision) -> tuple[int | None, Precision]:
        """Return input size and number format of a model; what is given already stays.

        Nothing is shown larger than the model was trained for; networks for volumes have one size and format.
        """
        if card.ndim == 3:
            return input_size, dtype
        if input_size is None and self.input_size is not None and self.input_size < card.input_size:
            input_size = self.input_size
        return input_size, self.dtype if dtype is None else dtype


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

"""Register two images by corresponding regions of interest.

>>> import roireg
>>> result = roireg.register("fixed.nii.gz", "moving.nii.gz")  # doctest: +SKIP
>>> result.save("out")  # doctest: +SKIP
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from roireg.core.image import Image
    from roireg.core.rois import Prompt
    from roireg.io import read_image as read
    from roireg.io import to_nibabel, to_sitk
    from roireg.jobs.applying import apply
    from roireg.pipeline import (
        Config,
        PromptSession,
        Registration,
        SavedRegistration,
        find_pairs,
        load,
        preset,
        prompt,
        prompt_session,
        register,
    )
    from roireg.serve.notebook import view

__all__ = [
    "Config",
    "Image",
    "Prompt",
    "PromptSession",
    "Registration",
    "SavedRegistration",
    "__version__",
    "apply",
    "find_pairs",
    "load",
    "preset",
    "prompt",
    "prompt_session",
    "read",
    "register",
    "to_nibabel",
    "to_sitk",
    "view",
]

__version__ = "0.1.0"

# Threads that wait by spinning make a run five times slower as soon as another program wants the same cores. The
# runtime of OpenMP reads this when torch is loaded, which nothing here does before it is needed.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_PLACES = {
    "Config": ("roireg.pipeline", "Config"),
    "Image": ("roireg.core.image", "Image"),
    "Prompt": ("roireg.core.rois", "Prompt"),
    "PromptSession": ("roireg.pipeline", "PromptSession"),
    "Registration": ("roireg.pipeline", "Registration"),
    "SavedRegistration": ("roireg.pipeline", "SavedRegistration"),
    "apply": ("roireg.jobs.applying", "apply"),
    "find_pairs": ("roireg.pipeline", "find_pairs"),
    "load": ("roireg.pipeline", "load"),
    "preset": ("roireg.pipeline", "preset"),
    "prompt": ("roireg.pipeline", "prompt"),
    "prompt_session": ("roireg.pipeline", "prompt_session"),
    "read": ("roireg.io", "read_image"),
    "register": ("roireg.pipeline", "register"),
    "to_nibabel": ("roireg.io", "to_nibabel"),
    "to_sitk": ("roireg.io", "to_sitk"),
    "view": ("roireg.serve.notebook", "view"),
}


def __getattr__(name: str) -> Any:
    """Import what is asked for: torch takes a second to load, which `roireg --help` should not wait for."""
    if name not in _PLACES:
        raise AttributeError(f"module 'roireg' has no attribute {name!r}")
    module, attribute = _PLACES[name]
    value = getattr(import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})

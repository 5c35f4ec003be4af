"""Register two images by corresponding regions of interest.

>>> import roireg
>>> result = roireg.register(roireg.read("fixed.nii.gz"), roireg.read("moving.nii.gz"))  # doctest: +SKIP
>>> result.save("out")  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from roireg.core.rois import Prompt
    from roireg.io import read_image as read
    from roireg.pipeline import Config, PromptSession, Registration, preset, prompt, prompt_session, register

__all__ = [
    "Config",
    "Prompt",
    "PromptSession",
    "Registration",
    "__version__",
    "preset",
    "prompt",
    "prompt_session",
    "read",
    "register",
]

__version__ = "0.1.0"

_PLACES = {
    "Config": ("roireg.pipeline", "Config"),
    "Prompt": ("roireg.core.rois", "Prompt"),
    "PromptSession": ("roireg.pipeline", "PromptSession"),
    "Registration": ("roireg.pipeline", "Registration"),
    "preset": ("roireg.pipeline", "preset"),
    "prompt": ("roireg.pipeline", "prompt"),
    "prompt_session": ("roireg.pipeline", "prompt_session"),
    "read": ("roireg.io", "read_image"),
    "register": ("roireg.pipeline", "register"),
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

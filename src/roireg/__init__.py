"""Register two images by corresponding regions of interest.

>>> import roireg
>>> result = roireg.register("fixed.nii.gz", "moving.nii.gz")  # doctest: +SKIP
>>> result.save("out")  # doctest: +SKIP
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from roireg.core.later import later
from roireg.core.spoken import in_python

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

__getattr__, __dir__ = later(
    __name__,
    {
        "Config": "roireg.pipeline",
        "Image": "roireg.core.image",
        "Prompt": "roireg.core.rois",
        "PromptSession": "roireg.pipeline",
        "Registration": "roireg.pipeline",
        "SavedRegistration": "roireg.pipeline",
        "apply": "roireg.jobs.applying",
        "find_pairs": "roireg.pipeline",
        "load": "roireg.pipeline",
        "preset": "roireg.pipeline",
        "prompt": "roireg.pipeline",
        "prompt_session": "roireg.pipeline",
        "read": "roireg.io:read_image",
        "register": "roireg.pipeline",
        "to_nibabel": "roireg.io",
        "to_sitk": "roireg.io",
        "view": "roireg.serve.notebook",
    },
    in_python,
)

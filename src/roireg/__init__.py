"""Register two images by corresponding regions of interest.

>>> import roireg
>>> result = roireg.register(roireg.read("fixed.nii.gz"), roireg.read("moving.nii.gz"))  # doctest: +SKIP
>>> result.save("out")  # doctest: +SKIP
"""

__version__ = "0.1.0"

from roireg.io import read_image as read
from roireg.pipeline import Config, Registration, preset, register

__all__ = ["Config", "Registration", "__version__", "preset", "read", "register"]

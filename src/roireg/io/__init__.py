"""Files to values and back; the only place where foreign conventions are converted.

What reads images is loaded when it is asked for, so that texts can be checked before torch is.
"""

from typing import TYPE_CHECKING

from roireg.core.errors import HeaderWarning
from roireg.core.files import atomic_path, new_folder
from roireg.core.later import later

if TYPE_CHECKING:
    from roireg.io.convert import (
        ImageLike,
        LabelsLike,
        TransformLike,
        as_image,
        as_labels,
        as_transform,
        to_nibabel,
        to_sitk,
    )
    from roireg.io.dicom import DicomSeries, list_series
    from roireg.io.hashing import sha256_of
    from roireg.io.images import check_image, read_image, read_labels, write_image, write_labels
    from roireg.io.pairs import read_pairs, write_pairs
    from roireg.io.points import PointSet, pair_points, read_points, write_points
    from roireg.io.transforms import AntsFiles, from_itk, read_transform, to_itk, write_ants, write_transform

__all__ = [
    "to_sitk",
    "to_nibabel",
    "as_transform",
    "as_labels",
    "as_image",
    "TransformLike",
    "LabelsLike",
    "ImageLike",
    "AntsFiles",
    "DicomSeries",
    "HeaderWarning",
    "PointSet",
    "atomic_path",
    "check_image",
    "from_itk",
    "list_series",
    "new_folder",
    "pair_points",
    "read_image",
    "read_labels",
    "read_pairs",
    "read_points",
    "read_transform",
    "sha256_of",
    "to_itk",
    "write_ants",
    "write_image",
    "write_labels",
    "write_pairs",
    "write_points",
    "write_transform",
]

_NAMES = {
    "convert": (
        "ImageLike",
        "LabelsLike",
        "TransformLike",
        "as_image",
        "as_labels",
        "as_transform",
        "to_nibabel",
        "to_sitk",
    ),
    "dicom": ("DicomSeries", "list_series"),
    "hashing": ("sha256_of",),
    "images": ("check_image", "read_image", "read_labels", "write_image", "write_labels"),
    "pairs": ("read_pairs", "write_pairs"),
    "points": ("PointSet", "pair_points", "read_points", "write_points"),
    "transforms": ("AntsFiles", "from_itk", "read_transform", "to_itk", "write_ants", "write_transform"),
}

__getattr__, __dir__ = later(
    __name__, {name: f"roireg.io.{module}" for module, names in _NAMES.items() for name in names}
)

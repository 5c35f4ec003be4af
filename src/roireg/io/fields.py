"""Displacement fields in image files: of ITK, ANTs, greedy and elastix (LPS mm), NiftyReg and SPM (RAS mm)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from roireg.core.bspline import BSpline
from roireg.core.errors import InputError
from roireg.core.transforms import Transform, VelocityField
from roireg.io._itk import extension, itk_reason, plain_name, quiet
from roireg.io.headers import check_data, companions
from roireg.io.itk_transforms import field_from_image, field_from_vectors
from roireg.io.nifti import is_nifti, nifti_header, read_nifti
from roireg.io.streams import MOST_DEFLATED, first_bytes

__all__ = ["FIELD", "read_field"]

FIELD = (".nii", ".nii.gz", ".mha", ".nrrd", ".mhd", ".nhdr")

_FSL = {
    2006: "a field of FNIRT",
    2007: "spline coefficients of FNIRT",
    2008: "DCT coefficients of FNIRT",
    2009: "spline coefficients of FNIRT",
    2016: "coefficients of topup",
    2017: "coefficients of topup",
    2018: "a field of topup",
}
# What NiftyReg calls NREG_TRANS_TYPE and keeps in the first parameter of the intent.
_POSITIONS, _DISPLACEMENTS, _SPLINE, _POSITION_VELOCITY, _DISPLACEMENT_VELOCITY = range(5)
_NIFTYREG_OTHER = {5: "a spline of velocities", 6: "a linear spline"}
_VECTORS = 1007


def read_field(path: Path) -> Transform:
    """Read a displacement field image; NIfTI files say by their intent what else they are.

    NiftyReg's deformation and displacement fields, velocities (as `VelocityField`) and cubic splines (as `BSpline`),
    and SPM's deformations (``y_*.nii``) are converted from RAS.

    Raises
    ------
    InputError
        When the file is damaged, an image, or a field of another kind.
    GeometryError
        When the geometry is unusable or values are not finite.
    """
    name = str(path)
    if is_nifti(path):
        return _from_nifti(path)
    with plain_name(path, beside=companions(path)) as plain, quiet():
        try:
            check_data(path)
            _check_size(path, plain)
            image = sitk.ReadImage(plain)
        except RuntimeError as error:
            raise InputError(
                f"{name}: the displacement field cannot be read ({itk_reason(error)}); expected vectors"
            ) from error
    return field_from_image(image, name)


def _check_size(path: Path, plain: str) -> None:
    """Refuse a header that claims more than the file can hold, before room is made for it."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(plain)
    reader.ReadImageInformation()
    claimed = 1
    for n in (*reader.GetSize(), reader.GetNumberOfComponents()):
        claimed *= int(n)
    held = path.stat().st_size
    if extension(path) in (".mhd", ".nhdr"):
        held = sum(f.stat().st_size for f in path.parent.iterdir() if f.is_file())
    if claimed > MOST_DEFLATED * held:
        raise InputError(
            f"{path}: its header claims {claimed} values, more than the file can hold; copy or write it again"
        )


# -- NIfTI by intent ------------------------------------------------------------------------------


def _from_nifti(path: Path) -> Transform:
    name = str(path)
    intent, title, parameter, extended = _intent(path)
    if intent in _FSL:
        raise InputError(
            f"{path}: this is {_FSL[intent]}, which has a meaning only with FSL's own images; convert it, "
            "for example with convertwarp and wb_command -convert-warpfield -from-fnirt ... -to-itk"
        )
    niftyreg = intent == _VECTORS and title == b"NREG_TRANS"
    if niftyreg:
        _check_niftyreg(path, parameter, extended)
    size = [int(n) for n in nifti_header(path)["dim"]][1:]
    if int(nifti_header(path)["dim"][0]) == 4 and size[3] in (2, 3):
        raise InputError(
            f"{path}: a 4D image of {size[3]} volumes does not say what its vectors mean, displacements or positions "
            "(MRtrix, FSL, DIPY), expected a 5D one; write the field as ITK does, for example with warpconvert or "
            "wb_command -convert-warpfield ... -to-itk"
        )
    stored = read_nifti(path, field=True)
    positions = intent == _VECTORS and title == b"Mapping"
    if not (niftyreg or positions):
        return field_from_vectors(stored.array, stored.grid, name)
    grid = stored.grid
    if len(stored.array) != grid.ndim:
        return field_from_vectors(stored.array, grid, name)  # refuses them
    vectors = stored.array.astype(np.float64)
    vectors[:2] *= -1  # RAS to LPS
    if positions or parameter in (_POSITIONS, _SPLINE, _POSITION_VELOCITY):
        vectors -= np.moveaxis(grid.points().reshape(*grid.shape, grid.ndim), -1, 0)
    field = field_from_vectors(vectors, grid, name)
    if positions or parameter in (_POSITIONS, _DISPLACEMENTS):
        return field
    return BSpline(grid, field.displacement) if parameter == _SPLINE else VelocityField(grid, field.displacement)


def _intent(path: Path) -> tuple[int, bytes, float, bool]:
    """Return intent code, its name and first parameter, and whether the header is followed by extensions."""
    header = nifti_header(path)
    name = bytes(header["intent_name"]).rstrip(b"\0")
    after = first_bytes(path, header.sizeof_hdr + 1)[header.sizeof_hdr :]
    return int(header["intent_code"]), name, float(header["intent_p1"]), after not in (b"", b"\0")


def _check_niftyreg(path: Path, parameter: float, extended: bool) -> None:
    advice = "convert it with reg_transform -ref FIXED -def IN OUT"
    if parameter not in range(_DISPLACEMENT_VELOCITY + 1):
        what = _NIFTYREG_OTHER.get(int(parameter) if np.isfinite(parameter) else -1, "of an unknown kind")
        raise InputError(f"{path}: this transform of NiftyReg is {what}, which is not read; {advice}")
    if extended:
        raise InputError(f"{path}: this transform of NiftyReg keeps affine maps beside its field; {advice}")

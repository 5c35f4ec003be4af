"""Settings of the global search."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["SearchOptions"]


class SearchOptions(BaseModel):
    """Settings of the global search."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    full: bool = Field(False, description="3D: try every rotation, not only those within `largest_turn`")
    largest_turn: float = Field(45.0, gt=0, le=180, description="3D without `full`: largest rotation in degrees")
    turn_step: float | None = Field(
        None, gt=0, le=45, description="degrees between neighbouring rotations; None: 10 in 2D, 15 in 3D"
    )
    max_scale: float | None = Field(
        None, ge=1, le=4, description="largest ratio of scales tried; None: 2 where pixels have no size, 1 in mm"
    )
    min_overlap: float = Field(
        0.2, gt=0, le=1, description="least overlap, as a fraction of the smaller field of view"
    )
    cells: int | None = Field(
        None, ge=16, description="cells along the longest axis of the exhaustive search; None: 128 in 2D, 24 in 3D"
    )
    polish: int = Field(24, ge=1, description="peaks that are refined and judged at double resolution")
    keep: int = Field(6, ge=1, description="largest number of candidates returned")
    distinct: float = Field(
        0.06,
        gt=0,
        description="least mean distance between two candidates over the fixed image, as a fraction of its diagonal",
    )
    auto_mask: bool = Field(True, description="leave out padding, frames, apertures and air, see `field_of_view`")

"""The stages that presets are made of: from region pairs and images to transforms."""

from roireg.fit.coarse import Coarse
from roireg.fit.convex import Convex
from roireg.fit.deform import Deform
from roireg.fit.instance import Instance
from roireg.fit.published import Published
from roireg.fit.refinement import Refine
from roireg.fit.region_affine import RegionAffine
from roireg.fit.stable_points import StablePoints
from roireg.fit.stage import Candidate, Problem, Stage, StageField, Trace, stage_named
from roireg.fit.start import Search
from roireg.fit.velocity import Velocity, fit_velocity

__all__ = [
    "Candidate",
    "Coarse",
    "Convex",
    "Deform",
    "Instance",
    "Problem",
    "Published",
    "Refine",
    "RegionAffine",
    "Search",
    "StablePoints",
    "Stage",
    "StageField",
    "Trace",
    "Velocity",
    "fit_velocity",
    "stage_named",
]

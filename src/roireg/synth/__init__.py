"""Phantoms with organ-like shapes and a known deformation, for the demo, tests and studies."""

from roireg.synth.anatomy import LABEL_NAMES, Anatomy, draw_anatomy
from roireg.synth.deform import GaussianBumps, draw_affine, draw_bumps
from roireg.synth.phantoms import SyntheticPair, as_raster, make_pair, trunk_grid

__all__ = [
    "LABEL_NAMES",
    "Anatomy",
    "GaussianBumps",
    "SyntheticPair",
    "as_raster",
    "draw_affine",
    "draw_anatomy",
    "draw_bumps",
    "make_pair",
    "trunk_grid",
]

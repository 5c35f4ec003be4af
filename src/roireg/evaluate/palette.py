"""The colours of every picture: few, told apart by colour-blind people, and with one meaning each.

The named colours are those of Okabe and Ito (Color Universal Design, 2008).
"""

from __future__ import annotations

import colorsys

from matplotlib.colors import to_hex, to_rgb

__all__ = [
    "BLUE",
    "FIXED",
    "FIXED_LINE",
    "FOLDED",
    "GREEN",
    "GRID",
    "MOVING",
    "MOVING_LINE",
    "NEUTRAL",
    "SKY",
    "VERMILION",
    "dashes",
    "distinct_colours",
]

FIXED, MOVING = "#ff8000", "#0080ff"
"""Tints of the fixed and of the moving image. Their sum is white: where both images agree, a fusion is gray."""

FIXED_LINE, MOVING_LINE = "#ffa340", "#5cb3ff"
"""Lines and points of the two images, light enough to be seen on dark tissue."""

VERMILION, BLUE, SKY, GREEN = "#d55e00", "#0072b2", "#56b4e9", "#009e73"
NEUTRAL = "#7f8c97"
FOLDED = "#ffe600"
GRID = "#ffc233"

# Without black, and ordered so that neighbours differ in lightness.
_BASE = (SKY, "#e69f00", "#cc79a7", GREEN, "#f0e442", VERMILION, BLUE)


def distinct_colours(count: int) -> list[str]:
    """Return hex colours that colour-blind people can tell apart for the first seven; lighter tints follow."""
    colours = []
    for i in range(count):
        hue, lightness, saturation = colorsys.rgb_to_hls(*to_rgb(_BASE[i % len(_BASE)]))
        turn = i // len(_BASE) % 3
        lightness = (lightness, 0.5 + lightness / 2.2, lightness * 0.72)[turn]
        colours.append(to_hex(colorsys.hls_to_rgb(hue, min(lightness, 0.93), saturation)))
    return colours


def dashes(rank: int) -> tuple[float, ...]:
    """Return lengths on and off, in line widths, of the line of a colour: none for the first seven."""
    return ((), (5.0, 2.0), (1.5, 1.5))[rank // len(_BASE) % 3]

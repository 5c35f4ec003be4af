"""A trunk in world space: body wall, ribs, spine, lungs, heart, abdominal organs and vessels.

Coordinates are LPS mm with the middle of the trunk at the origin: x to the left, y to the back, z to the
head. Everything is a function of the point, so an image of it needs no interpolation, whatever its grid.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from roireg.core.seeds import generator
from roireg.synth.shapes import Ellipsoid, Tree, Waves, grow_tree

__all__ = ["LABEL_NAMES", "Anatomy", "draw_anatomy"]

LABEL_NAMES: dict[int, str] = {
    1: "right lung",
    2: "left lung",
    3: "heart wall",
    4: "left ventricle",
    5: "right ventricle",
    6: "liver",
    7: "spleen",
    8: "stomach",
    9: "right kidney",
    10: "left kidney",
    11: "spine",
    12: "aorta",
}
"""Value in the label maps -> name of the organ; 0 is everything else."""

FAR_MM = 30.0
"""Distances beyond this need not be known."""

_VALUES = {name: value for value, name in LABEL_NAMES.items()}

# Tissue: intensity in a CT-like image, in an MR-like image, and the strength of its texture (0..255 scale).
_TISSUES: dict[str, tuple[float, float, float]] = {
    "skin": (130, 60, 3),
    "fat": (62, 205, 5),
    "muscle": (118, 72, 6),
    "visceral fat": (70, 185, 9),
    "mediastinum": (88, 140, 7),
    "bone": (235, 30, 5),
    "marrow": (178, 150, 12),
    "disc": (128, 95, 6),
    "spinal canal": (108, 235, 3),
    "lung": (24, 20, 4),
    "lung vessel": (112, 70, 4),
    "air": (2, 2, 0),
    "heart wall": (128, 92, 5),
    "blood": (172, 188, 5),
    "liver": (142, 88, 7),
    "liver vessel": (166, 150, 4),
    "spleen": (152, 128, 6),
    "stomach": (104, 52, 10),
    "stomach wall": (126, 90, 4),
    "kidney cortex": (190, 112, 6),
    "kidney medulla": (158, 150, 6),
    "bowel": (110, 118, 14),
}

# name: centre, radii (mm), turn about z (degrees), power, what it moves with from person to person.
_SHAPES: dict[str, tuple[tuple[float, float, float], tuple[float, float, float], float, float, str]] = {
    "body": ((0, 0, 0), (166, 116, 700), 0, 2.5, "body"),
    "cavity": ((0, -6, 0), (132, 84, 600), 0, 2.4, "body"),
    "lung r": ((-70, 2, 66), (58, 78, 112), 4, 2.5, "chest"),
    "lung l": ((72, 4, 66), (54, 78, 112), -4, 2.5, "chest"),
    "mediastinum": ((2, -2, 70), (24, 74, 130), 0, 2.2, "chest"),
    "heart": ((22, -26, 40), (56, 42, 50), 28, 2.1, "heart"),
    "left ventricle": ((41, -14, 36), (25, 19, 30), 30, 2.0, "heart"),
    "right ventricle": ((6, -43, 36), (31, 12, 28), 22, 2.0, "heart"),
    "atrium": ((-4, -4, 58), (22, 13, 20), 20, 2.0, "heart"),
    "ascending aorta": ((-6, -16, 130), (15, 15, 62), 0, 3.0, "heart"),
    "superior cava": ((-28, -10, 130), (9, 10, 62), 0, 3.0, "heart"),
    "trachea": ((-1, 14, 150), (9, 8, 66), 0, 3.0, "chest"),
    "aorta": ((16, 41, 0), (11.5, 11.5, 700), 0, 2.0, "spine"),
    "inferior cava": ((-17, 30, -90), (13, 9, 110), 0, 3.0, "spine"),
    "liver": ((-54, -8, -42), (84, 78, 64), -12, 2.3, "abdomen"),
    "left dome": ((66, -2, -56), (74, 84, 58), 0, 2.2, "abdomen"),
    "stomach": ((56, -38, -36), (38, 27, 36), -25, 2.0, "abdomen"),
    "spleen": ((96, 34, -36), (22, 40, 36), 28, 2.0, "abdomen"),
    "kidney r": ((-60, 46, -74), (25, 19, 46), 35, 2.0, "abdomen"),
    "kidney l": ((60, 46, -66), (25, 19, 46), -35, 2.0, "abdomen"),
    "pancreas": ((12, -2, -62), (44, 11, 13), -16, 2.2, "abdomen"),
    "vertebra": ((0, 60, 0), (21, 17, 700), 0, 2.3, "spine"),
    "arch": ((0, 83, 0), (17, 13, 700), 0, 2.0, "spine"),
    "transverse": ((0, 80, 0), (38, 5.5, 700), 0, 2.6, "spine"),
    "spinous": ((0, 97, 0), (4.5, 10, 700), 0, 2.2, "spine"),
    "canal": ((0, 81, 0), (9, 8, 700), 0, 2.0, "spine"),
}


class _Canvas:
    """Values and labels of a set of points, painted over from back to front."""

    def __init__(self, points: Tensor, softness_mm: float, column: int, grain: Waves) -> None:
        self.points, self.softness, self.column, self.grain = points, softness_mm, column, grain
        self.values = torch.zeros_like(points[:, 0])
        self.labels = torch.zeros(len(points), dtype=torch.uint8)

    def fill(self, distance: Tensor, tissue: str, label: str | None = None) -> None:
        """Paint where `distance` is negative, fading over the softness; a label where more than half is covered."""
        cover = (0.5 - distance / (2 * self.softness)).clamp(0, 1)
        where = torch.nonzero(cover > 0)[:, 0]
        intensity, strength = _TISSUES[tissue][self.column], _TISSUES[tissue][2]
        shift = 37.0 * list(_TISSUES).index(tissue)
        paint = intensity + strength * self.grain(self.points[where], shift)
        self.values[where] += cover[where] * (paint - self.values[where])
        if label is not None:
            self.labels[distance < 0] = _VALUES[label]

    def fill_part(self, distance: Tensor, shape: Callable[[Tensor], Tensor], tissue: str) -> None:
        """Paint `shape` inside the region of negative `distance`, evaluating it there only."""
        inside = torch.nonzero(distance < 0)[:, 0]
        part = torch.full_like(distance, np.inf)
        part[inside] = shape(self.points[inside])
        self.fill(torch.maximum(part, distance), tissue)


@dataclass(frozen=True, eq=False)
class Anatomy:
    """One person: every shape placed, nothing random left.

    Attributes
    ----------
    shapes : the organs' ellipsoids by name.
    outline : what makes their outlines irregular.
    grain : the texture of tissues.
    vessels : trees of both lungs and the liver.
    rib_phase : where the ribs lie along the body, radians.
    """

    shapes: dict[str, Ellipsoid]
    outline: Waves
    grain: Waves
    vessels: dict[str, Tree]
    rib_phase: float

    def paint(self, points: Tensor, *, softness_mm: float, other: bool = False) -> tuple[Tensor, Tensor]:
        """Evaluate the anatomy.

        Parameters
        ----------
        points : (N, 3) float64 anatomical points, mm.
        softness_mm : half the width of the ramp at organ borders, in place of the partial volume effect.
        other : take the MR-like instead of the CT-like intensities.

        Returns
        -------
        (N,) float32 intensities, 0..255 before noise, and (N,) uint8 labels (:data:`LABEL_NAMES`).
        """
        # Single precision is 3e-5 mm here, and renders three times as fast.
        points = points.float()
        canvas = _Canvas(points, softness_mm, 1 if other else 0, self.grain)
        distance = self._distances(points)
        self._paint_wall(canvas, distance)
        self._paint_abdomen(canvas, distance)
        self._paint_chest(canvas, distance)
        self._paint_spine(canvas, distance)
        return canvas.values.clamp(0, 255), canvas.labels

    def _distances(self, points: Tensor) -> dict[str, Tensor]:
        distances = {}
        for k, (name, shape) in enumerate(self.shapes.items()):
            # Far from a shape only "far" is of interest; most points are far from most shapes.
            near = shape.near(points, FAR_MM)
            # Small parts get small dents, and the wall keeps its layers apart.
            dent = 1.8 if name in ("body", "cavity") else min(3.0, 0.1 * float(shape.radii.min()))
            distances[name] = torch.full_like(points[:, 0], FAR_MM)
            distances[name][near] = shape(points[near]) + dent * self.outline(points[near], 53.0 * k)
        cavity = distances["cavity"]
        for name in ("lung r", "lung l", "liver", "left dome", "stomach", "spleen", "kidney r", "kidney l"):
            distances[name] = torch.maximum(distances[name], cavity + 3)
        # The liver and the left dome press into the lungs, the heart rests on both and dents the lungs.
        below = torch.minimum(distances["liver"], distances["left dome"]) - 3
        distances["heart"] = torch.maximum(distances["heart"], -below)
        middle = torch.minimum(torch.minimum(distances["mediastinum"], distances["heart"] - 4), below)
        middle = torch.minimum(middle, torch.minimum(distances["vertebra"] - 4, distances["aorta"] - 3))
        for name in ("lung r", "lung l"):
            distances[name] = torch.maximum(distances[name], -middle)
        for name in ("left ventricle", "right ventricle"):
            distances[name] = torch.maximum(distances[name], distances["heart"] + 4)
        distances["atrium"] = torch.maximum(distances["atrium"], distances["heart"] + 2)
        neighbours = torch.minimum(
            torch.minimum(distances["kidney r"], distances["stomach"]), distances["vertebra"] - 6
        )
        distances["liver"] = torch.maximum(distances["liver"], -(neighbours - 2.5))
        distances["spleen"] = torch.maximum(
            distances["spleen"], -(torch.minimum(distances["stomach"], distances["kidney l"]) - 2.5)
        )
        return distances

    def _paint_wall(self, canvas: _Canvas, distance: dict[str, Tensor]) -> None:
        body, cavity = distance["body"], distance["cavity"]
        canvas.fill(body, "skin")
        canvas.fill(body + 2.5, "fat")
        canvas.fill(torch.maximum(body + 11, cavity - 24), "muscle")
        # Ribs slope down toward the front, so an axial slice cuts several of them.
        x, y, z = canvas.points.unbind(1)
        rows = 2 * np.pi * (z + 0.5 * y) / 27 + self.rib_phase
        slope = 27 / (2 * np.pi)
        gap = slope * (torch.arccos(torch.cos(rows).clamp(-1, 1)) - 0.62)
        rib = torch.maximum((cavity - 8).abs() - 3.6, gap)
        # None below the last rib, none in front of the sternum or behind the spine.
        rib = torch.maximum(rib, torch.maximum(-70 - z, 20 - x.abs()))
        canvas.fill(rib, "bone")
        canvas.fill(rib + 2.2, "marrow")
        canvas.fill(cavity, "visceral fat")
        sternum = torch.maximum((cavity - 9).abs() - 5, torch.maximum(x.abs() - 17, torch.maximum(-z, y)))
        canvas.fill(sternum, "bone")
        canvas.fill(sternum + 2.5, "marrow")

    def _paint_abdomen(self, canvas: _Canvas, distance: dict[str, Tensor]) -> None:
        points = canvas.points
        loops = (10 * (0.35 - self.outline(points * 2.2, 11.0))).clamp(min=-8)
        room = torch.maximum(distance["cavity"] + 8, torch.maximum(points[:, 2] + 30, points[:, 1] - 18))
        canvas.fill(torch.maximum(loops, room), "bowel")
        canvas.fill(distance["pancreas"], "muscle")
        canvas.fill(distance["liver"], "liver", "liver")
        canvas.fill_part(distance["liver"] + 3, self.vessels["liver"], "liver vessel")
        canvas.fill(distance["stomach"], "stomach wall", "stomach")
        canvas.fill(distance["stomach"] + 3.5, "stomach")
        canvas.fill(distance["spleen"], "spleen", "spleen")
        for side, sign in (("r", -1.0), ("l", 1.0)):
            name = "right kidney" if side == "r" else "left kidney"
            kidney = distance[f"kidney {side}"]
            canvas.fill(kidney, "kidney cortex", name)
            canvas.fill(kidney + 6, "kidney medulla")
            # The sinus opens toward the spine.
            shape = self.shapes[f"kidney {side}"]
            sinus = Ellipsoid(shape.center - np.array([sign * 11, 6, 0]), shape.radii * 0.42, shape.turn_deg)
            canvas.fill_part(kidney, sinus, "visceral fat")

    def _paint_chest(self, canvas: _Canvas, distance: dict[str, Tensor]) -> None:
        below = torch.minimum(distance["liver"], distance["left dome"]) - 3
        chest = torch.maximum(torch.maximum(distance["mediastinum"], distance["cavity"]), -below)
        canvas.fill(chest, "mediastinum")
        for side, name in (("r", "right lung"), ("l", "left lung")):
            canvas.fill(distance[f"lung {side}"], "lung", name)
            canvas.fill_part(distance[f"lung {side}"] + 1, self.vessels[name], "lung vessel")
        canvas.fill(distance["heart"], "heart wall", "heart wall")
        canvas.fill(distance["left ventricle"], "blood", "left ventricle")
        canvas.fill(distance["right ventricle"], "blood", "right ventricle")
        canvas.fill(distance["atrium"], "blood")
        for name in ("ascending aorta", "superior cava"):
            canvas.fill(torch.maximum(distance[name], -distance["heart"]), "blood")
        canvas.fill(distance["trachea"], "air")

    def _paint_spine(self, canvas: _Canvas, distance: dict[str, Tensor]) -> None:
        canvas.fill(distance["inferior cava"], "blood")
        canvas.fill(distance["aorta"], "blood", "aorta")
        z = canvas.points[:, 2]
        row = torch.remainder(z + 9 * self.rib_phase, 31.0)
        between = torch.minimum(row, 31 - row)  # distance from the middle of a disc
        bone = torch.maximum(distance["vertebra"], 4 - between)
        behind = torch.minimum(torch.minimum(distance["arch"], distance["spinous"]), distance["transverse"])
        behind = torch.maximum(behind, 5 - between)
        canvas.fill(distance["vertebra"], "disc", "spine")
        for part in (behind, bone):
            canvas.fill(part, "bone", "spine")
            canvas.fill(part + 2.5, "marrow")
        canvas.fill(distance["canal"] - 2, "bone", "spine")
        canvas.fill(distance["canal"], "spinal canal", "spine")


def draw_anatomy(seed: int, *, variation: float = 1.0) -> Anatomy:
    """Draw a person: places, sizes and outlines of organs, vessel trees and texture.

    Parameters
    ----------
    seed : equal seeds give equal people.
    variation : how far people differ from the average one; 0 leaves outlines, vessels and texture alone.
    """
    rng = generator(seed, stream="anatomy")
    moves = {group: rng.normal(scale=4.0 * variation, size=3) for group in ("chest", "heart", "abdomen")}
    moves["spine"] = rng.normal(scale=1.5 * variation, size=3)
    moves["body"] = np.zeros(3)
    girth = 1 + 0.04 * variation * rng.normal()
    shapes = {}
    for name, (center, radii, turn, power, group) in _SHAPES.items():
        own = rng.normal(scale=0.25, size=3) * np.minimum(5.0, 0.06 * np.array(radii)) * variation
        size = girth * (1 + 0.04 * variation * rng.uniform(-1, 1, size=3))
        place = girth * (np.array(center) + moves[group]) + own
        shapes[name] = Ellipsoid(place, size * np.array(radii), turn + 3 * variation * rng.normal(), power)
    trees = {
        "right lung": ([-22, 4, 62], [-80, 0, 66], 32, 5.6, 7),
        "left lung": ([24, 6, 62], [80, 0, 66], 32, 5.6, 7),
        "liver": ([-24, 4, -30], [-80, -10, -34], 26, 5.0, 6),
    }
    return Anatomy(
        shapes=shapes,
        outline=Waves.draw(rng, 16, 45.0, 120.0),
        grain=Waves.draw(rng, 28, 6.0, 30.0),
        vessels={
            name: grow_tree(rng, np.array(root, float), np.array(to, float), length_mm=length, radius_mm=r, levels=n)
            for name, (root, to, length, r, n) in trees.items()
        },
        rib_phase=float(rng.uniform(0, 2 * np.pi)),
    )

"""Fit the probability that a registration is right: results, generated misregistrations, a logistic model.

Every pair is registered by the default, and again, with the deformation alone, from generated wrong positions: turned
and shifted by little, more, and much. What a wrong start leads to looks like what a misled registration ends with.
The evidence of all results (`roireg.pipeline.trust.evidence`) and their true errors make the model; its figures are
those of sets that were left out of the fit.
"""

from __future__ import annotations

import csv
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.optimize import minimize

from roireg.core.errors import InputError
from roireg.core.grid import Grid
from roireg.core.pair import Pair
from roireg.core.transforms import Affine, Transform
from roireg.core.warp import halved
from roireg.evaluate import Truth, score
from roireg.evaluate.palette import BLUE, NEUTRAL, VERMILION
from roireg.fit import Problem, Velocity
from roireg.fit.search import GlobalSearch, SearchOptions
from roireg.io import atomic_path, read_image
from roireg.pipeline import register
from roireg.pipeline.trust import Calibration, evidence
from roireg_bench.cases import Case, CaseFolder
from roireg_bench.scoring import read_truth

__all__ = [
    "EVIDENCE",
    "WITHIN",
    "Judged",
    "area_under_roc",
    "fit",
    "judged_pair",
    "left_out",
    "plot",
    "read",
    "sound",
    "write",
]

Array = NDArray[np.float64]

WITHIN = 0.02
"""Mean error up to which a result counts as right, in diagonals of what the fixed image shows."""

UNSOUND = {
    "remote_sensing/sar_*": "their true maps send the middle of one image far from that of the other and keep its "
    "scale, though the images differ in size; those of all other pairs of the set do neither"
}
"""Pairs whose truth belongs to other images: they can neither confirm nor contradict a result."""

EVIDENCE = ("rival", "correlation", "structure", "contrast", "shared", "stretch", "bend")

STARTS = {"small": (6.0, 0.04), "medium": (15.0, 0.10), "large": (40.0, 0.22), "turned": (90.0, 0.05)}
"""Generated wrong positions: degrees, and shift in mean lengths of the fixed image."""

RIDGE = 0.02
"""Weight of the squared weights in the fit: few sets say little about a weight."""


@dataclass(frozen=True)
class Judged:
    """One result: where it is from, its true error, and the evidence.

    Attributes
    ----------
    start : "default", or one of `STARTS`.
    error : mean error in diagonals; of label maps the mean distance of their surfaces.
    worse : whether it agrees less with the truth than doing nothing.
    """

    set: str
    pair: str
    unlike: bool
    start: str
    error: float
    worse: bool
    evidence: dict[str, float]

    @property
    def right(self) -> bool:
        """Whether it should be believed."""
        return self.error <= WITHIN and not self.worse


def sound(cases: Sequence[tuple[CaseFolder, Case]], say: Callable[[str], None]) -> list[tuple[CaseFolder, Case]]:
    """Return the pairs without those of `UNSOUND`, and say which were left out and why."""
    kept = list(cases)
    for pattern, why in UNSOUND.items():
        fitting = [c for c in kept if fnmatchcase(f"{c[0].content.name}/{c[1].id}", pattern)]
        kept = [c for c in kept if c not in fitting]
        if fitting:
            say(f"left out: {len(fitting)} pairs of {pattern}, {why}")
    return kept


def judged_pair(folder: CaseFolder, case: Case, starts: Sequence[str] = tuple(STARTS)) -> Iterator[Judged]:
    """Register a pair, from generated wrong positions as well, and measure evidence and error."""
    fixed, moving = (read_image(folder.path / name) for name in (case.fixed, case.moving))
    truth = read_truth(folder, case)
    result = register(fixed, moving)
    pair = Pair(halved(fixed).gray(), halved(moving).gray(), None, None)
    search = GlobalSearch(pair, SearchOptions())
    low, high = search.boxes[0]
    diagonal = float(np.linalg.norm(high - low))
    unlike = folder.modality == "multi"

    def entry(start: str, transform: Transform, affine: Affine, error: float, worse: bool) -> Judged:
        values = evidence(search, transform, affine)
        return Judged(folder.content.name, case.id, unlike, start, error, worse, values)

    error, worse = true_error(result.transform, truth, diagonal)
    yield entry("default", result.transform, result.affine, error, worse)
    if error > WITHIN or worse:
        return
    axes = np.meshgrid(*[np.linspace(a, b, 12) for a, b in zip(low, high, strict=True)], indexing="ij")
    points = np.stack(axes, axis=-1).reshape(-1, fixed.ndim)
    rng = np.random.default_rng(zlib.crc32(f"{folder.content.name}/{case.id}".encode()))
    for name in starts:
        affine = Affine(result.affine.matrix @ displaced(fixed.grid, *STARTS[name], rng))
        transform = Velocity(checked=False, region_weight=0, levels=3)(Problem(pair), affine)
        apart = np.linalg.norm(transform.map_points(points) - result.transform.map_points(points), axis=1).mean()
        # Where it was led back to, it is as right as the default.
        yield entry(name, transform, affine, error + float(apart) / diagonal, False)


def displaced(grid: Grid, degrees: float, shift: float, rng: np.random.Generator) -> Array:
    """Matrix of a turn about the centre of a grid, to a random side, and a shift in a random direction."""
    d, angle = grid.ndim, np.radians(degrees) * rng.choice([-1, 1])
    plane = np.array([0, 1]) if d == 2 else rng.permutation(3)[:2]
    matrix = np.eye(d + 1)
    matrix[np.ix_(plane, plane)] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    direction = rng.normal(size=d)
    length = float(np.mean(np.abs(grid.affine[:d, :d]) @ np.array(grid.shape)))
    offset = shift * length * direction / np.linalg.norm(direction)
    matrix[:d, d] = grid.center - matrix[:d, :d] @ grid.center + offset
    return matrix


def true_error(transform: Transform, truth: Truth, diagonal: float) -> tuple[float, bool]:
    """Mean error in diagonals, and whether the result is worse than doing nothing.

    Raises
    ------
    InputError
        When a pair has neither a true transform, nor landmarks, nor label maps.
    """
    after, before = score(transform, truth), truth.baseline
    for name, sign in (("displacement_error_mean", -1), ("landmark_error_mean", -1), ("dice_mean", 1)):
        if name not in after.metrics:
            continue
        value, unmoved = after.metrics[name].value, before.metrics[name].value
        # A hundredth of a diagonal or of overlap is no harm.
        slack = 0.01 if sign > 0 else 0.01 * diagonal
        worse = sign * value < sign * unmoved - slack
        if sign < 0:
            return value / diagonal, worse
        assert after.labels is not None
        distances = list(after.labels.assd.values())
        # Structures of a few pixels vanish under any map; a quarter of all does not.
        if len(after.labels.lost) > 0.25 * (len(distances) + len(after.labels.lost)):
            return 1.0, worse
        return float(np.mean(distances)) / diagonal, worse
    raise InputError("a pair without true transform, landmarks and label maps cannot calibrate anything")


def fit(rows: Sequence[Judged]) -> Calibration:
    """Fit the logistic model; every set counts as much as its root of the number of results."""
    x = np.array([[r.evidence[name] for name in EVIDENCE] for r in rows])
    y = np.array([r.right for r in rows], dtype=float)
    if len(set(y.tolist())) < 2:
        raise InputError("a calibration needs right and wrong results; take more pairs")
    counts = {name: sum(r.set == name for r in rows) for name in {r.set for r in rows}}
    importance = np.array([counts[r.set] ** -0.5 for r in rows])
    importance /= importance.sum()
    centre, scale = x.mean(0), np.maximum(x.std(0), 1e-6)
    z = (x - centre) / scale

    def loss(parameters: Array) -> tuple[float, Array]:
        logits = z @ parameters[:-1] + parameters[-1]
        p = 1 / (1 + np.exp(-logits))
        value = importance @ (np.logaddexp(0, logits) - y * logits) + RIDGE * parameters[:-1] @ parameters[:-1]
        slope = importance * (p - y)
        return float(value), np.r_[z.T @ slope + 2 * RIDGE * parameters[:-1], slope.sum()]

    best = minimize(loss, np.zeros(len(EVIDENCE) + 1), jac=True, method="L-BFGS-B").x
    return Calibration(
        names=EVIDENCE,
        centre=tuple(round(float(v), 5) for v in centre),
        scale=tuple(round(float(v), 5) for v in scale),
        weights=tuple(round(float(v), 5) for v in best[:-1]),
        bias=round(float(best[-1]), 5),
        within=WITHIN,
        made_from={},
    )


def left_out(rows: Sequence[Judged]) -> Array:
    """Probability of every result under the model of all other sets."""
    models = {name: fit([r for r in rows if r.set != name]) for name in {r.set for r in rows}}
    return np.array([models[r.set].probability(r.evidence) for r in rows])


def area_under_roc(right: NDArray[np.bool_], probability: Array) -> float:
    """Chance that a right result has a higher probability than a wrong one; ties count half; nan without both."""
    good, bad = probability[right], probability[~right]
    if not len(good) or not len(bad):
        return float("nan")
    difference = good[:, None] - bad[None]
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())


def plot(rows: Sequence[Judged], probability: Array) -> Figure:
    """Return the reliability diagram and the ROC of left-out sets, for like and unlike modalities."""
    figure = Figure(figsize=(8.2, 3.9), dpi=150, layout="constrained")
    left, right = figure.subplots(1, 2)
    truth, unlike = np.array([r.right for r in rows]), np.array([r.unlike for r in rows])
    edges = np.array([0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0001])
    left.plot([0, 1], [0, 1], color=NEUTRAL, lw=1)
    bins = np.digitize(probability, edges) - 1
    for k in range(len(edges) - 1):
        inside = bins == k
        if inside.any():
            share, n = truth[inside].mean(), int(inside.sum())
            spread = float(np.sqrt(max(share * (1 - share), 0.25 / n) / n))
            left.errorbar(probability[inside].mean(), share, spread, fmt="o", color=VERMILION, capsize=2)
            left.annotate(
                f"{n}", (probability[inside].mean(), share), (5, -10), textcoords="offset points", fontsize=8
            )
    left.set(xlabel="probability said", ylabel="share that is right", xlim=(0, 1), ylim=(-0.03, 1.03))
    for name, part, colour in (("like modalities", ~unlike, BLUE), ("unlike modalities", unlike, VERMILION)):
        if not part.any():
            continue
        order = np.argsort(-probability[part], kind="stable")
        hits = truth[part][order]
        found = np.r_[0, np.cumsum(hits) / max(hits.sum(), 1)]
        false = np.r_[0, np.cumsum(~hits) / max((~hits).sum(), 1)]
        area = area_under_roc(truth[part], probability[part])
        right.plot(false, found, color=colour, label=f"{name}: area {area:.3f}")
    right.plot([0, 1], [0, 1], color=NEUTRAL, lw=1)
    right.set(xlabel="wrong results believed", ylabel="right results believed")
    right.legend(loc="lower right", frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def write(path: Path, rows: Sequence[Judged]) -> None:
    """Write results as CSV, all or nothing."""
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["set", "pair", "unlike", "start", "error", "worse", *EVIDENCE])
        for r in rows:
            numbers = [f"{r.evidence[name]:.5f}" for name in EVIDENCE]
            table.writerow([r.set, r.pair, int(r.unlike), r.start, f"{r.error:.5f}", int(r.worse), *numbers])


def read(path: Path) -> list[Judged]:
    """Read what `write` wrote."""
    with path.open(newline="", encoding="utf-8") as file:
        return [
            Judged(
                set=line["set"],
                pair=line["pair"],
                unlike=line["unlike"] == "1",
                start=line["start"],
                error=float(line["error"]),
                worse=line["worse"] == "1",
                evidence={name: float(line[name]) for name in EVIDENCE},
            )
            for line in csv.DictReader(file)
        ]


def save(model: Calibration, path: Path) -> None:
    """Write a model as the JSON that the package ships."""
    content = {name: getattr(model, name) for name in Calibration.__dataclass_fields__}
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def calibrate(
    cases: Sequence[tuple[CaseFolder, Case]], out: Path, say: Callable[[str], None]
) -> tuple[Calibration, dict[str, float]]:
    """Judge all pairs that are not yet in ``results.csv`` of a folder, fit, and write model and figures there."""
    table = out / "results.csv"
    rows = read(table) if table.is_file() else []
    done = {(r.set, r.pair) for r in rows}
    for folder, case in sound(cases, say):
        if (folder.content.name, case.id) in done:
            continue
        new = list(judged_pair(folder, case))
        rows += new
        write(table, rows)
        say(f"{folder.content.name} {case.id}: {len(new)} results, error of the default {new[0].error:.3f}")
    return conclude(rows, out)


def conclude(rows: Sequence[Judged], out: Path) -> tuple[Calibration, dict[str, float]]:
    """Fit a model to results, write ``calibration.json`` and ``calibration.png``, and return it with its figures."""
    probability = left_out(rows)
    right, unlike = np.array([r.right for r in rows]), np.array([r.unlike for r in rows])
    default = np.array([r.start == "default" for r in rows])
    figures = {"results": float(len(rows)), "right": float(right.sum()), "roc": area_under_roc(right, probability)}
    for name, part in (("like", ~unlike), ("unlike", unlike), ("default", default)):
        figures[f"roc_{name}"] = area_under_roc(right[part], probability[part])
    figures["brier"] = float(((probability - right) ** 2).mean())
    sets = sorted({r.set for r in rows})
    made_from = {"sets": sets, "figures of sets left out": {k: round(v, 4) for k, v in figures.items()}}
    fitted = fit(rows)
    model = Calibration(**{**vars(fitted), "made_from": made_from})
    save(model, out / "calibration.json")
    with atomic_path(out / "calibration.png") as temporary:
        plot(rows, probability).savefig(temporary, format="png")
    return model, figures

"""Figures of a benchmark as PNG files in memory; drawn with matplotlib, nothing global touched."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from io import BytesIO

import numpy as np
import PIL.Image
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from roireg.evaluate.palette import BLUE, NEUTRAL, VERMILION
from roireg.evaluate.plots import rendered
from roireg_bench.statistics import SCORE_LABELS, Board, is_ours

__all__ = ["OURS", "PEER", "accuracy_against_time", "box_plot", "pair_scatter"]

OURS, PEER, BEFORE = VERMILION, BLUE, NEUTRAL
"""Vermilion and blue of Okabe and Ito, told apart by colour-blind people; ours also differs in marker and weight."""

INK, FAINT = "#17202a", "#cfd6dd"
DPI = 150
LABEL = 8.5
FEWEST_FOR_BOX = 4


def box_plot(board: Board) -> bytes:
    """Draw the scores of all methods on one set, best mean on top: a box and every pair as a dot.

    Boxes span the quartiles, whiskers reach to the last pair within 1.5 box lengths, the line is the median and the
    diamond the mean. With fewer than four pairs there are dots alone.
    """
    names = sorted(board.values, key=lambda m: -board.sign * board.mean(m))
    groups = [("before", list(board.before.values()))] + [(m, list(board.values[m].values())) for m in names]
    figure = Figure(figsize=(5.6, 0.85 + 0.26 * len(groups)), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    for place, (name, values) in enumerate(groups):
        colour = _colour(name)
        if len(values) >= FEWEST_FOR_BOX:
            _box(axes, values, place, colour)
        axes.plot(
            values,
            place + _jitter(len(values)),
            "o",
            ms=2.6,
            mew=0,
            color=colour,
            alpha=0.75,
            clip_on=False,
            zorder=3,
        )
        axes.plot([np.mean(values)], [place], "D", ms=4.6, mfc="white", mec=colour, mew=1.2, clip_on=False, zorder=4)
    axes.set_ylim(len(groups) - 0.4, -0.6)
    _method_labels(axes, [name for name, _ in groups])
    everything = np.concatenate([np.asarray(values) for _, values in groups])
    _score_axis(axes, "x", board, everything)
    axes.set_xlabel(_score_title(board.metric, board.unit, board.sign), fontsize=LABEL)
    axes.grid(axis="x", color=FAINT, lw=0.6)
    _plain(axes)
    return _png(figure)


def pair_scatter(board: Board, ours: str, peer: str) -> bytes:
    """Draw every pair with the peer's score across and ours upwards; on the line both are equal."""
    pairs = board.shared(ours, peer)
    across = np.array([board.values[peer][p] for p in pairs])
    upwards = np.array([board.values[ours][p] for p in pairs])
    figure = Figure(figsize=(3.7, 3.7), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    values = np.concatenate([across, upwards])
    _score_axis(axes, "both", board, values)
    low, high = axes.get_xlim()
    axes.plot([low, high], [low, high], "-", color=BEFORE, lw=1)
    side = (high, low) if board.sign > 0 else (low, high)
    axes.fill_between([low, high], [low, high], side[0], color=OURS, alpha=0.07, lw=0)
    better = board.sign * (upwards - across) > 0
    for mask, colour, marker in ((better, OURS, "o"), (~better, PEER, "s")):
        axes.plot(across[mask], upwards[mask], marker, ms=5, mew=0.6, mec="white", color=colour, clip_on=False)
    count = f"{ours} better: {int(better.sum())} of {len(pairs)}"
    axes.set_title(count, fontsize=LABEL, color=OURS, fontweight="bold", loc="left")
    title = _score_title(board.metric, board.unit, None)
    axes.set_xlabel(f"{title}: {peer} (best peer)", fontsize=LABEL)
    axes.set_ylabel(f"{title}: {ours}", fontsize=LABEL)
    axes.set_aspect("equal")
    if axes.get_xscale() == "linear":
        axes.locator_params(nbins=6)
    axes.grid(color=FAINT, lw=0.5)
    _plain(axes)
    return _png(figure)


def accuracy_against_time(
    boards: Sequence[Board], seconds: Mapping[str, float], *, title: str
) -> tuple[bytes | None, list[str]]:
    """Draw one point per method: mean seconds of a pair on a log axis, accuracy over all boards upwards.

    Parameters
    ----------
    boards : of one score; every set weighs the same. Dice is averaged, of errors the geometric mean of the share that
        is left of the error before.
    seconds : method -> mean seconds of a registration.

    Returns
    -------
    The figure, None when no method was run on every board, and the methods left out for that.
    """
    everyone = list(dict.fromkeys(m for board in boards for m in board.values))
    shown = [m for m in everyone if m in seconds and all(set(b.values.get(m, ())) == set(b.before) for b in boards)]
    left_out = [m for m in everyone if m not in shown]
    if not shown:
        return None, left_out
    overlap = boards[0].metric == "dice_mean"
    heights = {m: _accuracy(boards, m, overlap) for m in shown}
    figure = Figure(figsize=(7.2, 4.4), dpi=DPI)
    axes = figure.add_axes((0.1, 0.13, 0.66, 0.77))
    start = float(np.mean([np.mean(list(b.before.values())) for b in boards])) if overlap else 1.0
    axes.set_xscale("log")
    times = np.array([seconds[m] for m in shown])
    axes.set_xlim(times.min() / 1.6, times.max() * 1.6)
    _time_ticks(axes)
    _accuracy_axis(axes, np.array(list(heights.values())), overlap)
    bottom, top = sorted(axes.get_ylim())
    inside = bottom <= start <= top
    if inside:
        axes.axhline(start, color=BEFORE, lw=1, ls=(0, (4, 3)))
    else:
        # The state before is often so far off that showing it would press all methods together.
        side = "below" if (start < bottom) == overlap else "above"
        axes.text(0.01, 0.015, f"before: {start:.3g}, {side} this range", transform=axes.transAxes, fontsize=LABEL)
    for method in shown:
        ours = is_ours(method)
        axes.plot(
            seconds[method],
            heights[method],
            "*" if ours else "o",
            ms=13 if ours else 7,
            mec="white",
            mew=0.8,
            color=_colour(method),
            zorder=3,
        )
    _side_labels(axes, [(m, seconds[m], heights[m]) for m in shown], start if inside else None)
    axes.set_xlabel("mean seconds of a registration (log) – faster is left", fontsize=LABEL)
    label = "mean Dice over sets" if overlap else f"{SCORE_LABELS[boards[0].metric]}, share of that before"
    axes.set_ylabel(f"{label} – better is up", fontsize=LABEL)
    axes.set_title(title, fontsize=LABEL + 1.5, loc="left", color=INK)
    axes.grid(color=FAINT, lw=0.6)
    _plain(axes)
    return _png(figure), left_out


def _accuracy(boards: Sequence[Board], method: str, overlap: bool) -> float:
    if overlap:
        return float(np.mean([board.mean(method) for board in boards]))
    shares = []
    for board in boards:
        start = float(np.mean(list(board.before.values())))
        shares.append(max(board.mean(method), 1e-3) / max(start, 1e-3))
    return math.exp(float(np.mean(np.log(shares))))


# -- parts -----------------------------------------------------------------------------------------


def _box(axes: Axes, values: Sequence[float], place: float, colour: str) -> None:
    line = {"color": colour, "linewidth": 1.1}
    axes.boxplot(
        [list(values)],
        positions=[place],
        orientation="horizontal",
        widths=0.62,
        showfliers=False,
        patch_artist=True,
        manage_ticks=False,
        boxprops={"facecolor": colour, "alpha": 0.22, "edgecolor": colour, "linewidth": 1.1},
        whiskerprops=line,
        capprops=line,
        medianprops={"color": colour, "linewidth": 2},
    )


def _jitter(count: int) -> np.ndarray:
    """Spread dots of one line a little, the same way every time."""
    return 0.2 * np.sin(2.4 * np.arange(count)) if count > 1 else np.zeros(1)


def _method_labels(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names, fontsize=LABEL)
    for text, name in zip(axes.get_yticklabels(), names, strict=True):
        text.set_color(_colour(name) if name == "before" or is_ours(name) else INK)
        text.set_fontweight("bold" if is_ours(name) else "normal")


def _score_axis(axes: Axes, which: str, board: Board, values: np.ndarray) -> None:
    """Set scale, limits and ticks: errors that differ by over a factor of 20 are shown on a log scale."""
    positive = values[values > 0]
    log = board.metric != "dice_mean" and len(positive) == len(values) and positive.max() > 20 * positive.min()
    low, high = float(values.min()), float(values.max())
    if log:
        low, high = low / 1.25, high * 1.25
    else:
        margin = 0.05 * max(high - low, 1e-3)
        low, high = low - margin, high + margin
    for axis in ("x", "y") if which == "both" else (which,):
        getattr(axes, f"set_{axis}lim")(low, high)
        if log:
            getattr(axes, f"set_{axis}scale")("log")
            _log_ticks(getattr(axes, f"{axis}axis"), low, high)


def _log_ticks(axis: object, low: float, high: float) -> None:
    ratio = high / low
    few = (1.0, 2.0, 3.0, 5.0, 7.0) if ratio > 3 else tuple(np.arange(10, 100, 5 if ratio > 1.8 else 2) / 10)
    steps = (1.0,) if ratio > 500 else (1.0, 3.0) if ratio > 50 else (1.0, 2.0, 5.0) if ratio > 10 else few
    axis.set_major_locator(LogLocator(10, subs=steps))  # type: ignore[attr-defined]
    axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))  # type: ignore[attr-defined]
    axis.set_minor_formatter(NullFormatter())  # type: ignore[attr-defined]


def _time_ticks(axes: Axes) -> None:
    low, high = axes.get_xlim()
    _log_ticks(axes.xaxis, low, high)


def _accuracy_axis(axes: Axes, values: np.ndarray, overlap: bool) -> None:
    if overlap:
        margin = 0.12 * max(float(np.ptp(values)), 0.02)
        axes.set_ylim(values.min() - margin, values.max() + margin)
        return
    low, high = values.min() / 1.12, values.max() * 1.12
    axes.set_yscale("log")
    axes.set_ylim(high, low)
    _log_ticks(axes.yaxis, low, high)


def _side_labels(axes: Axes, points: Sequence[tuple[str, float, float]], start: float | None) -> None:
    """Write names in a column at the right, in the order of the heights and never over each other, lines to them."""
    down = axes.get_ylim()[0] > axes.get_ylim()[1]
    entries = list(points) + ([] if start is None else [("before", axes.get_xlim()[1], start)])
    entries.sort(key=lambda e: -e[2] if down else e[2])
    share = [float(axes.transLimits.transform(axes.transScale.transform((x, y)))[1]) for _, x, y in entries]
    least = min(0.052, 1.1 / max(1, len(entries)))
    spread = np.array(share)
    for i in range(1, len(spread)):
        spread[i] = max(spread[i], spread[i - 1] + least)
    # What was pushed over the top comes down again, pushing what is below.
    spread[-1] = min(spread[-1], 1.02)
    for i in range(len(spread) - 2, -1, -1):
        spread[i] = min(spread[i], spread[i + 1] - least)
    for (name, x, y), height in zip(entries, spread, strict=True):
        ours = is_ours(name)
        axes.annotate(
            name,
            (x, y),
            xytext=(1.035, height),
            textcoords="axes fraction",
            fontsize=LABEL,
            va="center",
            color=_colour(name) if ours or name == "before" else INK,
            fontweight="bold" if ours else "normal",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": _colour(name), "lw": 0.6, "alpha": 0.55, "shrinkB": 3},
        )


def _score_title(metric: str, unit: str, sign: int | None) -> str:
    text = SCORE_LABELS[metric] + (f" ({unit})" if unit else "")
    return text if sign is None else f"{text} – better is {'right' if sign > 0 else 'left'}"


def _colour(name: str) -> str:
    return BEFORE if name == "before" else OURS if is_ours(name) else PEER


def _plain(axes: Axes) -> None:
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=LABEL, length=2.5, color=FAINT)
    for name, spine in axes.spines.items():
        spine.set_visible(name in ("left", "bottom"))
        spine.set_color(FAINT)


def _png(figure: Figure) -> bytes:
    buffer = BytesIO()
    PIL.Image.fromarray(rendered(figure)).save(buffer, "PNG", dpi=(DPI, DPI))
    return buffer.getvalue()

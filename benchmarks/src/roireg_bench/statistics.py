"""What rows say together: means, paired differences with intervals, ranks; and when one may say "better"."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from roireg.pipeline import PRESETS
from roireg_bench.results import Row

__all__ = [
    "ACCURACY",
    "DICE_DROP",
    "SCORE_LABELS",
    "Board",
    "Comparison",
    "Overall",
    "Spread",
    "Standing",
    "boards",
    "bootstrap_interval",
    "compare",
    "dsc30",
    "got_worse",
    "is_ours",
    "main_method",
    "overall",
    "remaining_error",
    "standings",
    "tre30",
]

Array = NDArray[np.float64]

ACCURACY = {"dice_mean": 1, "landmark_error_mean": -1, "displacement_error_mean": -1}
"""Scores that say how accurate a result is -> 1 where more is better, -1 where less is."""

SCORE_LABELS = {
    "dice_mean": "Dice",
    "landmark_error_mean": "landmark error",
    "displacement_error_mean": "field error",
}
"""What tables and figures call them."""

DICE_DROP = 0.02
"""A pair got worse when its Dice fell by more than this, or its mean landmark error grew at all."""

LEAST_PAIRS = 6
"""With fewer pairs no two-sided signed-rank test can reach 5 %, and a bootstrap of them is too sure of itself."""

RESAMPLES = 5000

Place = tuple[str, str]


# -- single pairs ----------------------------------------------------------------------------------


def got_worse(row: Row) -> bool:
    """Tell whether a pair is worse off than before: Dice down by more than `DICE_DROP`, or landmark error up."""
    overlap, distance = row.change("dice_mean"), row.change("landmark_error_mean")
    # Scores are stored to six digits.
    return (overlap is not None and overlap < -DICE_DROP) or (
        distance is not None and distance > 1e-5 * max(1.0, row.before["landmark_error_mean"])
    )


def remaining_error(row: Row) -> float:
    """Return the share of the initial error that is left, the larger one where several scores were taken.

    For Dice that is (1 - after) / (1 - before), for distances after / before; above 1 is worse than before. It puts
    pairs of different sets in one order. NaN without a score.
    """
    shares = []
    for metric, sign in ACCURACY.items():
        if metric in row.before and metric in row.outcome:
            before, after = ((1 - s[metric] if sign > 0 else s[metric]) for s in (row.before, row.outcome))
            # Where nothing was wrong before, any error is a loss of the whole.
            shares.append(after / max(before, 1e-6))
    return max(shares, default=math.nan)


def is_ours(method: str) -> bool:
    """Tell whether a method is a preset of this package."""
    return method in PRESETS


def main_method(rows: Sequence[Row]) -> str | None:
    """Return the method that the others are compared with: the first preset among the rows, else None."""
    present = {row.method for row in rows}
    return next((name for name in PRESETS if name in present), None)


# -- one set ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation (n - 1) of `count` values; NaN where there are too few."""

    mean: float
    sd: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarise the values that are finite."""
        finite = np.array([v for v in values if np.isfinite(v)], dtype=np.float64)
        if not len(finite):
            return cls(math.nan, math.nan, 0)
        return cls(float(finite.mean()), float(finite.std(ddof=1)) if len(finite) > 1 else math.nan, len(finite))


def dsc30(rows: Sequence[Row]) -> float | None:
    """Return the 30th percentile of the pairs' mean Dice: the bound of the worst 30 %, None without labels.

    The robustness score of the Learn2Reg challenge (Hering et al., IEEE TMI 42(3), 2023), over the pairs of a set.
    """
    values = [row.outcome["dice_mean"] for row in rows if "dice_mean" in row.outcome]
    return float(np.percentile(values, 30)) if values else None


def tre30(rows: Sequence[Row]) -> float | None:
    """Return the 70th percentile of the pairs' mean landmark error: the bound of the worst 30 %; see `dsc30`."""
    values = [row.outcome["landmark_error_mean"] for row in rows if "landmark_error_mean" in row.outcome]
    return float(np.percentile(values, 70)) if values else None


@dataclass(frozen=True)
class Board:
    """One score on one set, for all methods.

    Attributes
    ----------
    set, metric : which; `metric` is one of `ACCURACY`.
    unit : of the metric, empty for Dice.
    ndim : 2 or 3, of the images.
    before : pair -> score before registration.
    values : method -> pair -> score. A run that failed counts as the state before, an unavailable method is not
        here.
    """

    set: str
    metric: str
    unit: str
    ndim: int
    before: Mapping[str, float]
    values: Mapping[str, Mapping[str, float]]

    @property
    def sign(self) -> int:
        """1 where more is better, -1 where less is."""
        return ACCURACY[self.metric]

    def mean(self, method: str, pairs: Sequence[str] | None = None) -> float:
        """Return the mean score of a method, over some pairs or all of its own."""
        own = self.values[method]
        return float(np.mean([own[pair] for pair in (own if pairs is None else pairs)]))

    def shared(self, a: str, b: str) -> list[str]:
        """Return the pairs that both methods were run on."""
        return [pair for pair in self.values[a] if pair in self.values[b]]

    def best_peer(self, ours: str) -> str | None:
        """Return the best method that is no preset of ours, by its mean on the pairs that both were run on.

        Only among those that share the most pairs with ours: one that was run on an easy few is no peer.
        """
        shared = {m: self.shared(ours, m) for m in self.values if m != ours and not is_ours(m)}
        most = max(map(len, shared.values()), default=0)
        peers = [m for m, pairs in shared.items() if pairs and len(pairs) == most]
        return max(peers, key=lambda m: self.sign * self.mean(m, shared[m]), default=None)


def boards(rows: Sequence[Row]) -> list[Board]:
    """Return a board for every set and accuracy score that was measured, in the order of the rows."""
    outcomes: dict[Place, dict[str, dict[str, float]]] = {}
    before: dict[Place, dict[str, float]] = {}
    firsts: dict[Place, Row] = {}
    for row in rows:
        if row.status == "unavailable":
            continue
        for metric in ACCURACY:
            if metric in row.outcome:
                place = (row.set, metric)
                outcomes.setdefault(place, {}).setdefault(row.method, {})[row.pair] = row.outcome[metric]
                before.setdefault(place, {})[row.pair] = row.before[metric]
                firsts.setdefault(place, row)
    order = list(dict.fromkeys(row.set for row in rows))
    places = sorted(outcomes, key=lambda place: (order.index(place[0]), list(ACCURACY).index(place[1])))
    return [
        Board(*place, "" if place[1] == "dice_mean" else row.unit, row.ndim, before[place], outcomes[place])
        for place in places
        for row in [firsts[place]]
    ]


# -- two methods -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """One method against another on the pairs that both were run on.

    Attributes
    ----------
    pairs : how many.
    difference : mean of ours - theirs, in the unit of the board.
    low, high : 95 % interval of the mean difference (see `bootstrap_interval`), NaN with fewer than `LEAST_PAIRS`.
    p : of the two-sided Wilcoxon signed-rank test, NaN likewise.
    judgement : "better" or "worse" when the interval leaves out 0 and p is below 5 %: with few pairs a bootstrap
        interval alone is too narrow. Else "no clear difference", or "too few pairs" when there is no interval.
    """

    ours: str
    theirs: str
    pairs: int
    difference: float
    low: float
    high: float
    p: float
    judgement: str


def compare(board: Board, ours: str, theirs: str) -> Comparison:
    """Compare two methods pair by pair."""
    pairs = board.shared(ours, theirs)
    differences = np.array([board.values[ours][p] - board.values[theirs][p] for p in pairs], dtype=np.float64)
    mean = float(differences.mean()) if len(pairs) else math.nan
    if len(pairs) < LEAST_PAIRS:
        return Comparison(ours, theirs, len(pairs), mean, math.nan, math.nan, math.nan, "too few pairs")
    low, high = bootstrap_interval(differences)
    p = _wilcoxon(differences)
    return Comparison(ours, theirs, len(pairs), mean, low, high, p, _judged(low, high, p, board.sign))


def _judged(low: float, high: float, p: float, sign: int) -> str:
    if low <= 0 <= high or p >= 0.05:
        return "no clear difference"
    return "better" if (low > 0) == (sign > 0) else "worse"


def _wilcoxon(differences: Array) -> float:
    # Scores are stored to six digits: what is less is no difference, and equal scores say nothing.
    told = differences[np.abs(differences) > 1e-9]
    return float(stats.wilcoxon(told).pvalue) if len(told) else 1.0


def bootstrap_interval(values: ArrayLike, *, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Return the bias-corrected and accelerated (BCa) bootstrap interval of a mean.

    After Efron, JASA 82(397), 1987; 5000 resamples from a generator of its own, so that equal values give an equal
    interval. Written out because the jackknife of a mean is known in closed form, which makes the thousands of
    comparisons of a rank table cheap.

    Parameters
    ----------
    values : (N,) at least two.
    level : share of the distribution inside.
    """
    sample = np.asarray(values, dtype=np.float64)
    if np.ptp(sample) == 0:
        return float(sample[0]), float(sample[0])
    middle = sample.mean()
    spread = sample - middle
    generator = np.random.default_rng(seed)
    means = spread[generator.integers(0, len(sample), (RESAMPLES, len(sample)))].mean(axis=1)
    # Few or equal values make many resamples with exactly the mean itself; half of them count, rounding or not.
    equal = np.abs(means) < 1e-12 * np.abs(spread).max()
    below = (np.count_nonzero((means < 0) & ~equal) + 0.5 * np.count_nonzero(equal)) / RESAMPLES
    bias = stats.norm.ppf(np.clip(below, 0.5 / RESAMPLES, 1 - 0.5 / RESAMPLES))
    acceleration = (spread**3).sum() / (6 * (spread**2).sum() ** 1.5)
    ends = []
    for tail in ((1 - level) / 2, (1 + level) / 2):
        z = bias + stats.norm.ppf(tail)
        ends.append(100 * stats.norm.cdf(bias + z / (1 - acceleration * z)))
    low, high = middle + np.percentile(means, ends)
    return float(low), float(high)


# -- all sets --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Standing:
    """How a method does over all boards.

    Attributes
    ----------
    boards : how many it is on.
    rank : mean over them of its rank by mean score, 1 is best, equal means share a rank; only among methods that
        were run on the same pairs as it.
    wins, losses : comparisons with another method on a board that the interval decides for or against it.
    """

    method: str
    boards: int
    rank: float
    wins: int
    losses: int


def standings(all_boards: Sequence[Board]) -> list[Standing]:
    """Return every method's standing, best mean rank first.

    Wins and losses follow the idea of the Learn2Reg ranking, to count the methods that one is significantly better
    than; here the interval of the paired difference decides.
    """
    ranks: dict[str, list[float]] = {}
    wins: dict[str, int] = {}
    losses: dict[str, int] = {}
    for board in all_boards:
        # Means over different pairs cannot be ranked against each other.
        most = max((frozenset(own) for own in board.values.values()), key=len)
        level = [method for method, own in board.values.items() if frozenset(own) == most]
        means = [-board.sign * round(board.mean(method), 9) for method in level]
        for method, rank in zip(level, stats.rankdata(means), strict=True):
            ranks.setdefault(method, []).append(float(rank))
        for i, a in enumerate(level):
            for b in level[i + 1 :]:
                judgement = compare(board, a, b).judgement
                for winner, loser, word in ((a, b, "better"), (b, a, "worse")):
                    if judgement == word:
                        wins[winner] = wins.get(winner, 0) + 1
                        losses[loser] = losses.get(loser, 0) + 1
    table = [Standing(m, len(own), float(np.mean(own)), wins.get(m, 0), losses.get(m, 0)) for m, own in ranks.items()]
    return sorted(table, key=lambda s: s.rank)


@dataclass(frozen=True)
class Overall:
    """Our method against one peer over all sets; the sets are the sample, so that large ones do not decide alone.

    Attributes
    ----------
    dice : mean over sets of the mean Dice difference, with interval and the number of sets.
    error : geometric mean over sets of our mean error over theirs (landmarks, else displacement), likewise; below 1
        is better for us.
    better, worse, unclear : boards by the judgement of `compare`; `small` had too few pairs.
    """

    theirs: str
    dice: tuple[float, float, float, int]
    error: tuple[float, float, float, int]
    better: int
    worse: int
    unclear: int
    small: int


def overall(all_boards: Sequence[Board], ours: str, theirs: str) -> Overall:
    """Compare our method with one other over all boards that both are on."""
    both = [b for b in all_boards if ours in b.values and theirs in b.values and b.shared(ours, theirs)]
    judged = [compare(board, ours, theirs) for board in both]
    gains = [c.difference for b, c in zip(both, judged, strict=True) if b.metric == "dice_mean"]
    ratios = []
    for board in both:
        if board.metric != "dice_mean":
            pairs = board.shared(ours, theirs)
            # An error of exactly 0 has no ratio; a thousandth of a unit is below what any truth here can tell.
            own, other = (max(board.mean(method, pairs), 1e-3) for method in (ours, theirs))
            ratios.append(math.log(own / other))
    count = [c.judgement for c in judged]
    error = _mean_interval(ratios)
    return Overall(
        theirs,
        _mean_interval(gains),
        (math.exp(error[0]), math.exp(error[1]), math.exp(error[2]), error[3]),
        *(count.count(word) for word in ("better", "worse", "no clear difference", "too few pairs")),
    )


def _mean_interval(values: Sequence[float]) -> tuple[float, float, float, int]:
    if not values:
        return math.nan, math.nan, math.nan, 0
    mean = float(np.mean(values))
    if len(values) < LEAST_PAIRS:
        return mean, math.nan, math.nan, len(values)
    return (mean, *bootstrap_interval(values), len(values))

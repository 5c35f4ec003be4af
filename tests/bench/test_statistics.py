"""Intervals against scipy, judgements and ranks against cases that can be counted by hand."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from roireg_bench.results import Row
from roireg_bench.statistics import (
    Spread,
    boards,
    bootstrap_interval,
    compare,
    dsc30,
    got_worse,
    main_method,
    overall,
    remaining_error,
    standings,
    tre30,
)


def row(method="default", pair="p0", *, name="s", dice=None, error=None, was=None, **values):
    before, after = {}, {}
    if dice is not None:
        before["dice_mean"], after["dice_mean"] = 0.5 if was is None else was, dice
    if error is not None:
        before["landmark_error_mean"], after["landmark_error_mean"] = 10.0 if was is None else was, error
    after |= {"folding_percent": 0.0, "sdlogj": 0.1, "sdlogj_learn2reg": 0.02}
    made = Row(name, pair, method, "1", "s", "c", 3, 1, "now", unit="mm", seconds=1.0, before=before, after=after)
    return replace(made, **values)


def many(method, scores, *, name="s", score="dice", **values):
    return [row(method, f"p{i}", name=name, **{score: value}, **values) for i, value in enumerate(scores)]


def test_who_got_worse():
    assert not got_worse(row(dice=0.481)) and got_worse(row(dice=0.479))
    assert got_worse(row(error=10.01)) and not got_worse(row(error=10.0))
    assert not got_worse(row())


def test_the_error_that_is_left_puts_pairs_in_order():
    assert remaining_error(row(dice=0.75)) == pytest.approx(0.5)
    assert remaining_error(row(error=15.0)) == pytest.approx(1.5)
    assert remaining_error(replace(row(dice=0.75), status="failed")) == 1
    assert np.isnan(remaining_error(row()))


@pytest.mark.parametrize("count", [6, 9, 20])
def test_the_interval_is_that_of_scipy(count):
    sample = np.random.default_rng(count).gamma(2, 1, count) - 1
    expected = stats.bootstrap(
        (sample,), np.mean, method="BCa", n_resamples=20_000, rng=np.random.default_rng(1)
    ).confidence_interval
    low, high = bootstrap_interval(sample)
    assert abs(low - expected.low) < 0.06 * sample.std() and abs(high - expected.high) < 0.06 * sample.std()
    assert bootstrap_interval(sample) == (low, high)


@given(st.lists(st.floats(-5, 5, width=32), min_size=2, max_size=12), st.floats(0.1, 10), st.floats(-3, 3))
def test_the_interval_follows_scale_and_shift(values, scale, shift):
    low, high = bootstrap_interval(values)
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9
    moved = bootstrap_interval(np.array(values) * scale + shift)
    np.testing.assert_allclose(moved, (low * scale + shift, high * scale + shift), rtol=1e-6, atol=1e-6)


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(5)
    inside = 0
    for _ in range(300):
        low, high = bootstrap_interval(generator.normal(0.3, 1, 20))
        inside += low <= 0.3 <= high
    assert 0.88 < inside / 300 < 0.98


def test_better_is_said_only_when_the_interval_says_so():
    generator = np.random.default_rng(0)
    base = generator.uniform(0.6, 0.8, 12)
    noise = generator.normal(0, 0.01, 12)
    rows = many("default", base + 0.05 + noise) + many("ants-syn", base) + many("greedy", base + 3 * noise)
    (board,) = boards(rows)
    ahead = compare(board, "default", "ants-syn")
    assert ahead.judgement == "better" and ahead.low > 0 and ahead.p < 0.001 and ahead.pairs == 12
    assert ahead.difference == pytest.approx(0.05 + noise.mean())
    assert compare(board, "ants-syn", "default").judgement == "worse"
    assert compare(board, "ants-syn", "greedy").judgement == "no clear difference"
    expected = stats.wilcoxon([board.values["default"][p] - board.values["ants-syn"][p] for p in board.before])
    assert ahead.p == expected.pvalue
    errors = boards([*many("default", base, score="error"), *many("demons", base + 0.1, score="error")])[0]
    assert compare(errors, "default", "demons").judgement == "better"


@pytest.mark.parametrize("count", [6, 8, 12, 20])
def test_equal_methods_are_seldom_told_apart(count):
    generator = np.random.default_rng(count)
    told = 0
    for _ in range(300):
        rows = many("default", generator.normal(0.7, 0.05, count)) + many(
            "demons", generator.normal(0.7, 0.05, count)
        )
        told += compare(boards(rows)[0], "default", "demons").judgement in ("better", "worse")
    # 5 % of 300 and three standard deviations; the interval alone reaches 13 % with six pairs.
    assert told <= 26


def test_few_or_equal_pairs_decide_nothing():
    (board,) = boards(many("default", [0.9] * 5) + many("demons", [0.6] * 5))
    assert compare(board, "default", "demons").judgement == "too few pairs"
    (board,) = boards(many("default", [0.9] * 8) + many("demons", [0.9] * 8))
    same = compare(board, "default", "demons")
    assert (same.judgement, same.p, same.low, same.high) == ("no clear difference", 1.0, 0.0, 0.0)


def test_a_failed_run_counts_as_the_state_before_and_an_unavailable_one_not_at_all():
    rows = many("demons", [0.9, 0.9])
    rows[1] = replace(rows[1], status="failed", after={})
    gone = [replace(r, status="unavailable", after={}) for r in many("sift", [0.9, 0.9])]
    (board,) = boards(rows + gone)
    assert board.mean("demons") == pytest.approx((0.9 + 0.5) / 2) and set(board.values) == {"demons"}
    assert board.before == {"p0": 0.5, "p1": 0.5}


def test_the_best_peer_is_no_preset_and_is_judged_on_shared_pairs():
    rows = many("default", [0.7, 0.7]) + many("samreg", [0.95, 0.95]) + many("demons", [0.8, 0.8])
    rows += many("sift", [0.99], name="s") + many("elastix", [0.9, 0.5])
    (board,) = boards(rows)
    # One that was run on a pair alone is no match, however well that went.
    assert board.best_peer("default") == "demons" and board.best_peer("samreg") == "demons"
    assert main_method(rows) == "default" and main_method(many("demons", [0.5])) is None
    (errors,) = boards(many("default", [3.0], score="error") + many("demons", [2.0], score="error"))
    assert errors.best_peer("default") == "demons"
    (alone,) = boards(many("default", [0.7]))
    assert alone.best_peer("default") is None


def test_ranks_and_wins_by_hand():
    steps = np.linspace(0, 0.01, 8)
    rows = many("default", 0.9 + steps) + many("demons", 0.7 + steps) + many("elastix", 0.7 + steps)
    rows += many("default", [2.0] * 8, name="t", score="error")
    rows += many("demons", [1.0] * 8, name="t", score="error")
    rows += many("sift", [1.0] * 3, name="t", score="error")  # not on all pairs: no rank
    found = {s.method: s for s in standings(boards(rows))}
    assert set(found) == {"default", "demons", "elastix"}
    default, demons, elastix = (found[m] for m in ("default", "demons", "elastix"))
    assert (default.rank, default.boards, default.wins, default.losses) == (1.5, 2, 2, 1)
    assert (demons.rank, demons.wins, demons.losses) == ((2.5 + 1) / 2, 1, 1)
    assert (elastix.rank, elastix.boards, elastix.wins, elastix.losses) == (2.5, 1, 0, 1)


def test_over_all_sets_every_set_weighs_the_same():
    rows = []
    for i, gain in enumerate((0.1, 0.2, 0.3)):
        name, count = f"s{i}", 7 * (i + 1)
        rows += many("default", [0.5 + gain] * count, name=name) + many("demons", [0.5] * count, name=name)
    for i, ratio in enumerate((0.5, 0.125)):
        rows += many("default", [8 * ratio] * 2, name=f"t{i}", score="error")
        rows += many("demons", [8.0] * 2, name=f"t{i}", score="error")
    found = overall(boards(rows), "default", "demons")
    assert found.dice[0] == pytest.approx(0.2) and found.dice[3] == 3 and np.isnan(found.dice[1])
    assert found.error[0] == pytest.approx(0.25) and found.error[3] == 2
    assert (found.better, found.worse, found.unclear, found.small) == (3, 0, 0, 2)


def test_robustness_scores_bound_the_worst_thirty_percent():
    scores = np.arange(11) / 10
    assert dsc30(many("demons", scores)) == pytest.approx(0.3)
    assert tre30(many("demons", scores, score="error")) == pytest.approx(0.7)
    assert dsc30(many("demons", [1.0], score="error")) is None and tre30([]) is None


def test_spread_leaves_out_what_is_not_finite():
    found = Spread.of([1.0, 3.0, float("nan")])
    assert (found.mean, found.count) == (2.0, 2) and found.sd == pytest.approx(2**0.5)
    assert Spread.of([]).count == 0 and np.isnan(Spread.of([1.0]).sd)

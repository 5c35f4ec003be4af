"""Assignments: worked examples, order, ties, and properties."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from roireg.match import assign_greedy, assign_many, assign_mutual, assign_optimal, confidences

S = np.array([[0.95, 0.94, 0.10], [0.93, 0.20, 0.85], [0.30, 0.10, 0.81]])
MATRICES = arrays(np.float64, st.tuples(st.integers(1, 5), st.integers(1, 5)), elements=st.floats(-1, 1))


def test_worked_example():
    assert assign_greedy(S) == [(0, 0), (1, 2)]
    assert assign_optimal(S, threshold=0.8) == [(0, 1), (1, 0), (2, 2)]
    assert assign_many(S) == [(0, 0), (0, 1), (1, 0), (1, 2), (2, 2)]
    assert assign_mutual(S) == [(0, 0)]
    assert assign_greedy(S, threshold=0.9) == [(0, 0)]
    assert assign_many(S, top=2) == [(0, 0), (0, 1)]


def test_threshold_is_strict_and_forbidden_entries_stay_out():
    assert assign_greedy(np.array([[0.8]]), threshold=0.8) == []
    for assign in (assign_greedy, assign_many, assign_mutual, assign_optimal):
        assert assign(np.array([[-np.inf, 0.9]]), threshold=0.0) == [(0, 1)]
        assert assign(np.full((2, 2), -np.inf), threshold=-1.0) == []
        assert assign(np.zeros((0, 3)), threshold=0.0) == []


def test_ties_go_to_the_lowest_indices():
    assert assign_greedy(np.full((3, 3), 0.9)) == [(0, 0), (1, 1), (2, 2)]


@settings(max_examples=60, deadline=None)
@given(MATRICES)
def test_properties(similarity):
    greedy = assign_greedy(similarity, threshold=0.0)
    optimal = assign_optimal(similarity, threshold=0.0)
    mutual = assign_mutual(similarity, threshold=0.0)
    for pairs in (greedy, optimal, mutual):
        assert len({m for m, _ in pairs}) == len(pairs) == len({f for _, f in pairs})
        values = [similarity[p] for p in pairs]
        assert values == sorted(values, reverse=True) and all(v > 0 for v in values)
    assert sum(similarity[p] for p in optimal) >= sum(similarity[p] for p in greedy) - 1e-7
    small, large = sorted(similarity.shape)
    rows = similarity if similarity.shape[0] == small else similarity.T
    best = max(sum(max(0.0, rows[i, j]) for i, j in enumerate(p)) for p in permutations(range(large), small))
    assert sum(similarity[p] for p in optimal) == pytest.approx(best, abs=1e-7)
    assert len(assign_many(similarity, threshold=0.0)) == int((similarity > 0).sum())


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000))
def test_permuting_regions_permutes_pairs(seed):
    rng = np.random.default_rng(seed)
    similarity = rng.random((5, 6))
    rows, columns = rng.permutation(5), rng.permutation(6)
    for assign in (assign_greedy, assign_many, assign_mutual, assign_optimal):
        plain = assign(similarity, threshold=0.3)
        shuffled = assign(similarity[rows][:, columns], threshold=0.3)
        assert [(int(rows[m]), int(columns[f])) for m, f in shuffled] == plain


def test_confidence_rises_with_margin_and_agreement():
    sure, tie = np.array([[0.9, 0.0]]), np.array([[0.9, 0.9]])
    (high,), (low,) = confidences(sure, [(0, 0)]), confidences(tie, [(0, 0)])
    assert high == pytest.approx(0.9**0.5) and low == pytest.approx(0.45**0.5)
    (half,) = confidences(sure, [(0, 0)], agreement=np.array([[0.5, 1.0]]))
    assert half == pytest.approx(0.45**0.5)
    assert confidences(np.array([[0.7]]), [(0, 0)])[0] == pytest.approx(0.7**0.5)
    assert confidences(sure, []).shape == (0,)

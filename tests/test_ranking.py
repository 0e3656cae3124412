"""Ranking formulas by hand, in visible fractions, and against independent references."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn.metrics import ndcg_score

from rag_experiments.functional.ranking import (
    compute_ndcg,
    compute_recall,
    compute_reciprocal_rank,
    entropy,
    fit_temperature,
    fuse_reciprocal_ranks,
    fuse_weighted_scores,
    softmax_log_prior,
)


def test_reciprocal_rank_fusion_by_hand():
    """b: second, then first. a: first only. c: second of the other list only."""
    fused = fuse_reciprocal_ranks([["a", "b"], ["b", "c"]], k=60)
    assert fused == [("b", 1 / 62 + 1 / 61), ("a", 1 / 61), ("c", 1 / 62)]
    weighted = fuse_reciprocal_ranks([["a", "b"], ["b", "c"]], k=1, weights=[3, 1])
    assert weighted == [("a", 3 / 2), ("b", 3 / 3 + 1 / 2), ("c", 1 / 3)]
    assert fuse_reciprocal_ranks([[], []]) == []
    # a and b tie: the first ranking's first stays first.
    assert [name for name, _ in fuse_reciprocal_ranks([["a", "b"], ["b", "a"]])] == ["a", "b"]


def test_weighted_fusion_by_hand():
    """Lexical 8, 4, 2 -> 1, 1/3, 0; dense 0.9, 0.5 -> 1, 0; weights 1/4 and 3/4."""
    fused = fuse_weighted_scores([{"a": 8, "b": 4, "c": 2}, {"b": 0.9, "d": 0.5}], [0.25, 0.75])
    assert [name for name, _ in fused] == ["b", "a", "c", "d"]
    assert dict(fused) == pytest.approx({"b": 1 / 12 + 3 / 4, "a": 1 / 4, "c": 0, "d": 0})
    assert fuse_weighted_scores([{}, {"a": 5.0}], [0.5, 0.5]) == [("a", 0.5)]


def test_recall_reciprocal_rank_and_ndcg_by_hand():
    """Ranks of the relevant p and r are 2 and 4; s is not found."""
    ranking, relevant = ["q", "p", "t", "r"], {"p", "r", "s"}
    assert [compute_recall(ranking, relevant, k) for k in (1, 2, 4, 9)] == [0, 1 / 3, 2 / 3, 2 / 3]
    assert compute_reciprocal_rank(ranking, relevant) == 1 / 2
    assert compute_reciprocal_rank(ranking, relevant, k=1) == 0
    assert compute_reciprocal_rank([], relevant) == 0
    best = 1 + 1 / math.log2(3) + 1 / 2
    assert compute_ndcg(ranking, relevant, 4) == pytest.approx(
        (1 / math.log2(3) + 1 / math.log2(5)) / best
    )
    # Graded: gains 3 (rank 2) and 1 (rank 1) of 3, 1.
    assert compute_ndcg(["a", "b"], {"b": 3, "a": 1}, 2) == pytest.approx(
        (1 + 3 / math.log2(3)) / (3 + 1 / math.log2(3))
    )


@given(
    gains=st.lists(st.integers(0, 3), min_size=2, max_size=12).filter(any),
    seed=st.integers(0, 1000),
    k=st.integers(1, 14),
)
def test_ndcg_equals_scikit_learn(gains, seed, k):
    order = np.random.default_rng(seed).permutation(len(gains))
    ranking = [str(i) for i in order]
    scores = np.empty(len(gains))
    scores[order] = -np.arange(len(gains))
    expected = ndcg_score([gains], [scores], k=k)
    relevant = {str(i): gain for i, gain in enumerate(gains)}
    assert compute_ndcg(ranking, relevant, k) == pytest.approx(expected)


@given(
    scores=st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=8),
    temperature=st.floats(1e-3, 1e3),
)
def test_log_prior_equals_scipy(scores, temperature):
    log_prior = softmax_log_prior(scores, temperature)
    expected = log_softmax(np.array(scores) / temperature)
    np.testing.assert_allclose(log_prior, expected, rtol=1e-9, atol=1e-7)
    assert np.exp(log_prior).sum() == pytest.approx(1)
    assert 0 <= entropy(np.exp(log_prior)) <= math.log(len(scores)) + 1e-12


def test_log_prior_and_entropy_by_hand():
    """exp(scores / 2) are 1, 2 and 1: probabilities 1/4, 1/2, 1/4."""
    log_prior = softmax_log_prior([0, 2 * math.log(2), 0], temperature=2)
    np.testing.assert_allclose(np.exp(log_prior), [1 / 4, 1 / 2, 1 / 4])
    assert entropy(np.exp(log_prior)) == pytest.approx(3 / 2 * math.log(2))
    assert softmax_log_prior([], 1).shape == (0,)
    assert entropy([1.0, 0.0]) == 0
    np.testing.assert_allclose(
        softmax_log_prior([[1, 1], [0, 0]], 0.1), np.full((2, 2), -math.log(2))
    )


def test_fitted_temperature_by_hand():
    """Scores 1, 0; gold stands first in 3 of 4 questions, and in half of the one counted in:
    the fit makes p(first) = 7/10, so 1 / T = log((7/10) / (3/10)) = log(7/3)."""
    gold = [[True, False]] * 3 + [[False, True]]
    assert fit_temperature([[1.0, 0.0]] * 4, gold) == pytest.approx(1 / math.log(7 / 3), rel=1e-5)
    # Ten times the scores: ten times the temperature.
    assert fit_temperature([[10.0, 0.0]] * 4, gold) == pytest.approx(10 / math.log(7 / 3), rel=1e-5)


def test_questions_without_information_change_nothing():
    gold = [[True, False]] * 3 + [[False, True]]
    scores = [[1.0, 0.0]] * 4
    more = fit_temperature(
        [*scores, [9.0, 1.0], [5.0, 2.0, 1.0], []], [*gold, [False] * 2, [True] * 3, []]
    )
    assert more == fit_temperature(scores, gold)
    assert fit_temperature([[9.0, 1.0], [5.0]], [[False, False], [True]]) is None
    assert fit_temperature([], []) is None
    assert fit_temperature([[2.0, 2.0]], [[True, False]]) is None


def test_a_perfect_and_a_reversed_ranking():
    """One question ranked right and one that is anybody's: (1 + 1/2) / 2 of the mass is gold's,
    so 1 / T = log 3. Ranked wrong, 1 / T would be below 0: the bound, 100 times the spread 1/2."""
    right = fit_temperature([[1.0, 0.0]], [[True, False]])
    wrong = fit_temperature([[1.0, 0.0]], [[False, True]])
    assert right == pytest.approx(1 / math.log(3), rel=1e-5)
    assert wrong == pytest.approx(50, rel=0.1)


@given(seed=st.integers(0, 10_000), scale=st.sampled_from([1e-3, 1.0, 30.0]))
def test_fitted_temperature_beats_a_fine_grid_and_equals_scipy(seed, scale):
    random = np.random.default_rng(seed)
    scores, gold = [], []
    for _ in range(30):
        n = int(random.integers(2, 6))
        values = random.normal(size=n)
        chosen = random.choice(n, p=np.exp(log_softmax(values)))  # drawn at temperature 1
        flags = [i == chosen for i in range(n)]
        scores.append((values * scale).tolist())
        gold.append(flags)

    def loss(log_temperature):
        total = 0.0
        for values, flags in zip(scores, gold, strict=True):
            prior = log_softmax(np.array(values) / math.exp(log_temperature))
            total -= float(np.log(np.exp(prior[np.array(flags)]).sum()))
            total -= float(prior.mean()) / len(scores)  # the average question, any hit of it
        return total

    fitted = fit_temperature(scores, gold)
    assert fitted is not None
    bounds = (math.log(scale) - 5, math.log(scale) + 5)
    reference = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-9})
    assert loss(math.log(fitted)) <= reference.fun + 1e-9

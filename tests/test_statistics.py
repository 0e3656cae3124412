"""Intervals and tests against values by hand, scipy, and simulated coverage."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rag_experiments.functional.statistics import (
    adjust_holm,
    bootstrap_interval,
    bootstrap_mean_interval,
    crossed_bootstrap_means,
    paired_permutation_test,
    percentile_interval,
    resample_indices,
)


def test_percentile_interval_by_hand():
    # 0, 1, ..., 100: the 2.5% and 97.5% quantiles are 2.5 and 97.5.
    assert percentile_interval(np.arange(101.0)) == pytest.approx((2.5, 97.5))
    assert percentile_interval(np.arange(101.0), level=0.5) == pytest.approx((25, 75))


def test_mean_interval_of_two_values_by_hand():
    # Means of two draws from {0, 1}: 0 with 1/4, 1/2 with 1/2, 1 with 1/4; the middle half
    # of the estimates, without its ends, is 1/2.
    low, high = bootstrap_mean_interval([0, 1], seed=1, resamples=20_000, level=0.4)
    assert (low, high) == (1 / 2, 1 / 2)
    assert bootstrap_mean_interval([0, 1], seed=1, resamples=20_000, level=0.9) == (0, 1)
    assert bootstrap_mean_interval([3.0], seed=1) == (3.0, 3.0)


def test_mean_interval_agrees_with_scipy():
    values = np.random.default_rng(0).gamma(2, size=80)
    reference = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    ours = bootstrap_mean_interval(values, seed=2, resamples=20_000)
    assert ours == pytest.approx((reference.low, reference.high), abs=0.02)


def test_interval_of_a_statistic_equals_that_of_the_mean():
    values = np.random.default_rng(3).random(40)
    by_mean = bootstrap_mean_interval(values, seed=7)
    assert bootstrap_interval(lambda i: values[i].mean(), 40, seed=7) == pytest.approx(by_mean)
    shared = resample_indices(40, 1000, seed=7)
    assert bootstrap_mean_interval(values, seed=0, indices=shared) == by_mean
    assert bootstrap_mean_interval(values, seed=8) != by_mean


def test_mean_interval_in_blocks_equals_one_block(monkeypatch):
    values = np.random.default_rng(3).random(40)
    whole = bootstrap_mean_interval(values, seed=7)
    monkeypatch.setattr("rag_experiments.functional.statistics._BLOCK", 120)
    assert bootstrap_mean_interval(values, seed=7) == whole


def test_centered_interval_removes_the_shift_of_resampling():
    # Drawing n of n with replacement leaves about 1 - 1/e of the examples.
    def distinct(indices):
        return len(set(indices.tolist())) / 200

    low, high = bootstrap_interval(distinct, 200, seed=1)
    assert high < 0.75
    low, high = bootstrap_interval(distinct, 200, seed=1, center=1.0)
    assert low < 1.0 < high
    # Estimates 0 (19 times) and -1 (once), mean -1/20: moved up by 1/20, their middle 80% is
    # 1/20 alone, and the center 0 would be outside.
    indices = np.array([[0]] * 19 + [[1]])
    low, high = bootstrap_interval(
        lambda i: -float(i[0]), 1, seed=0, indices=indices, center=0.0, level=0.8
    )
    assert (low, high) == pytest.approx((0.0, 0.05))


def test_resamples_without_a_value_are_left_out():
    def first(indices):
        return float("nan") if indices[0] == 0 else 5.0

    assert bootstrap_interval(first, 3, seed=0) == (5.0, 5.0)
    assert np.isnan(bootstrap_interval(lambda i: float("nan"), 3, seed=0)).all()


def test_coverage_is_near_its_level():
    # 95% intervals of 400 samples of 60 exponential values (mean 1). The bootstrap is known to
    # cover a little less for skewed values: 0.90 to 0.98 allows for that and for chance
    # (standard error 0.011).
    generator = np.random.default_rng(11)
    covered = 0
    for trial in range(400):
        low, high = bootstrap_mean_interval(generator.exponential(size=60), seed=trial)
        covered += low <= 1 <= high
    assert 0.90 <= covered / 400 <= 0.98


@pytest.mark.parametrize(
    ("first", "second", "p"),
    [
        # Differences 1, 2, 3: of the 8 sign patterns only +++ and --- reach a sum of 6.
        ([1, 2, 3], [0, 0, 0], 2 / 8),
        # Differences 1, -1: every pattern reaches 0.
        ([1, 0], [0, 1], 1.0),
        # Differences 3, 1, -1, sum 3. The sums over signs:
        # +++ 3+1+1=5, ++- 3, +-+ 3, +-- 1, and their mirrors: 6 of 8 reach 3.
        ([3, 1, 0], [0, 0, 1], 6 / 8),
        # A zero difference changes nothing.
        ([1, 2, 3, 9], [0, 0, 0, 9], 2 / 8),
        ([0.5, 0.5], [0.5, 0.5], 1.0),
    ],
)
def test_exact_permutation_test_by_hand(first, second, p):
    assert paired_permutation_test(first, second, seed=0) == p


def test_permutation_test_agrees_with_scipy():
    generator = np.random.default_rng(5)
    for n in (8, 10):
        a, b = generator.random(n) + 0.2, generator.random(n)
        reference = stats.permutation_test(
            (a, b), lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=np.inf
        ).pvalue
        assert paired_permutation_test(a, b, seed=0) == pytest.approx(reference)
        sampled = paired_permutation_test(a, b, seed=0, samples=40_000, exact_up_to=0)
        assert sampled == pytest.approx(reference, abs=0.01)


def test_sampled_p_value_is_never_zero():
    p = paired_permutation_test(np.ones(40), np.zeros(40), seed=0, samples=999)
    assert p == 1 / 1000


def test_rounding_does_not_break_ties():
    # 0.3 - 0.2 and 0.2 - 0.1 differ in the last bit: every pattern of +- reaches |sum| 0.
    a, b = [0.3, 0.1, 0.7], [0.2, 0.2, 0.7]
    assert paired_permutation_test(a, b, seed=0) == 1.0


def test_permutation_test_refuses_unpaired_scores():
    with pytest.raises(ValueError, match=r"\(2,\) and \(3,\)"):
        paired_permutation_test([1, 2], [1, 2, 3], seed=0)


def test_permutation_test_keeps_its_level():
    generator = np.random.default_rng(2)
    rejected = sum(
        paired_permutation_test(generator.random(30), generator.random(30), seed=i, samples=499)
        <= 0.05
        for i in range(400)
    )
    assert 0.02 <= rejected / 400 <= 0.085


def test_holm_by_hand():
    # Sorted 0.01, 0.02, 0.04: times 3, 2, 1 = 0.03, 0.04, 0.04.
    assert adjust_holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    # 0.02 * 3 = 0.06, 0.025 * 2 = 0.05 is raised to 0.06, 0.9 * 1.
    assert adjust_holm([0.9, 0.02, 0.025]) == pytest.approx([0.9, 0.06, 0.06])
    assert adjust_holm([0.6, 0.7]) == pytest.approx([1.0, 1.0])
    assert adjust_holm([]).size == 0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.sampled_from([0.01, 0.05, 0.1]))
def test_holm_rejects_what_stepping_down_rejects(p_values, level):
    ordered = sorted(range(len(p_values)), key=lambda i: p_values[i])
    rejected = set()
    for step, index in enumerate(ordered):
        if min(1.0, (len(p_values) - step) * p_values[index]) > level:
            break
        rejected.add(index)
    assert {i for i, p in enumerate(adjust_holm(p_values)) if p <= level} == rejected


def test_crossed_bootstrap_equals_all_draws_counted():
    # Two replicates of two examples: 4 draws of replicates times 4 of examples, all as likely.
    scores = np.array([[0.0, 1.0], [2.0, 7.0]])
    every = [
        scores[np.ix_(rows, columns)].mean()
        for rows in product(range(2), repeat=2)
        for columns in product(range(2), repeat=2)
    ]
    estimates = crossed_bootstrap_means(scores, resample_indices(2, 40_000, seed=1), seed=2)
    for value in set(every):
        share = np.mean(np.isclose(estimates, value))
        assert share == pytest.approx(every.count(value) / len(every), abs=0.01)
    assert estimates.std() == pytest.approx(np.std(every), rel=0.02)


def test_crossed_bootstrap_of_one_replicate_is_that_of_examples(monkeypatch):
    values = np.random.default_rng(3).random(40)
    indices = resample_indices(40, 1000, seed=7)
    estimates = crossed_bootstrap_means(values[None], indices, seed=0)
    assert percentile_interval(estimates) == bootstrap_mean_interval(values, 0, indices=indices)
    monkeypatch.setattr("rag_experiments.functional.statistics._BLOCK", 120)
    assert (crossed_bootstrap_means(values[None], indices, seed=0) == estimates).all()


def test_crossed_interval_covers_where_that_of_examples_alone_does_not():
    # Scores with a chance of each training (standard deviation 0.1) on top of each question's:
    # the mean over 8 trainings of 50 questions against the mean of all trainings, 0.
    generator = np.random.default_rng(4)
    crossed = alone = 0
    for trial in range(300):
        scores = generator.normal(0, 0.1, (8, 1)) + generator.normal(0, 0.2, (8, 50))
        indices = resample_indices(50, 400, seed=trial)
        low, high = percentile_interval(crossed_bootstrap_means(scores, indices, seed=trial))
        crossed += low <= 0 <= high
        low, high = bootstrap_mean_interval(scores.mean(axis=0), 0, indices=indices)
        alone += low <= 0 <= high
    assert 0.86 <= crossed / 300 <= 0.99
    assert alone / 300 < 0.7

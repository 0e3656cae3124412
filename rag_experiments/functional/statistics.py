"""Intervals and tests for scores of the same examples. Pure numpy, seeded.

Legend: n examples, r resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

# Random numbers are drawn in blocks of about this many, so that memory stays small.
_BLOCK = 4_000_000


def resample_indices(n: int, resamples: int, seed: int) -> np.ndarray:
    """Return bootstrap samples as example indices `[r, n]`: each row is n draws with replacement.

    Efron 1979, "Bootstrap methods: another look at the jackknife".
    """
    return np.random.default_rng(seed).integers(0, n, size=(resamples, n), dtype=np.int32)


def percentile_interval(estimates: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Return the percentile interval of bootstrap estimates `[r]`.

    [q(a/2), q(1 - a/2)] with a = 1 - level (Efron & Tibshirani 1993, An Introduction to the
    Bootstrap, chapter 13).
    """
    tail = (1 - level) / 2
    low, high = np.quantile(estimates, [tail, 1 - tail])
    return float(low), float(high)


def bootstrap_mean_interval(
    values: Sequence[float] | np.ndarray,
    seed: int,
    resamples: int = 1000,
    level: float = 0.95,
    indices: np.ndarray | None = None,
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the mean of `values` `[n]`.

    `indices` `[r, n]` are samples drawn beforehand with `resample_indices`, to share one draw
    between several metrics; `seed` and `resamples` are then unused.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        raise ValueError("values is empty; an interval needs at least one value")
    if indices is None:
        indices = resample_indices(array.size, resamples, seed)
    rows = max(1, _BLOCK // array.size)
    means = [
        array[indices[start : start + rows]].mean(axis=1) for start in range(0, len(indices), rows)
    ]
    return percentile_interval(np.concatenate(means), level)


def bootstrap_interval(
    statistic: Callable[[np.ndarray], float],
    n: int,
    seed: int,
    resamples: int = 1000,
    level: float = 0.95,
    indices: np.ndarray | None = None,
    center: float | None = None,
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of any statistic of a corpus.

    `statistic` maps example indices `[n]` to a number; it is called once a resample, so it
    should work from sufficient statistics made beforehand. Resamples for which it is not a
    number are left out. With `center` the estimates are moved so that their mean is `center`:
    for statistics that drawing with replacement shifts, such as the share of distinct words
    (a bias correction by the bootstrap's own bias, Efron & Tibshirani 1993, chapter 10). The
    interval is then widened to hold `center`, where it just misses it.
    """
    if n < 1:
        raise ValueError(f"n is {n}; an interval needs at least one example")
    if indices is None:
        indices = resample_indices(n, resamples, seed)
    estimates = np.array([statistic(row) for row in indices], dtype=np.float64)
    estimates = estimates[~np.isnan(estimates)]
    if estimates.size == 0:
        return float("nan"), float("nan")
    if center is None:
        return percentile_interval(estimates, level)
    low, high = percentile_interval(estimates - estimates.mean() + center, level)
    return min(low, center), max(high, center)


def paired_permutation_test(
    first: Sequence[float] | np.ndarray,
    second: Sequence[float] | np.ndarray,
    seed: int,
    samples: int = 10_000,
    exact_up_to: int = 16,
) -> float:
    """Return the two-sided p-value that two systems have equal mean scores on the same examples.

    Under the hypothesis the sign of each difference d_i = first_i - second_i is a coin toss;
    p = P(|sum s_i d_i| >= |sum d_i|) over signs s (Fisher 1935, The Design of Experiments).
    All 2^m sign patterns are counted where at most `exact_up_to` differences are not zero;
    otherwise `samples` patterns are drawn and p = (1 + hits) / (1 + samples), which is never
    zero (Phipson & Smyth 2010, https://arxiv.org/abs/1603.05766).
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1 or a.size == 0:
        raise ValueError(
            f"first and second have shapes {a.shape} and {b.shape}; both must be [n] with the "
            "same n of at least one, in the same order of examples"
        )
    differences = a - b
    differences = differences[differences != 0]
    m = differences.size
    if m == 0:
        return 1.0
    # Sums that are equal but for rounding count as equal.
    observed = abs(differences.sum()) - 1e-12 * np.abs(differences).sum()
    if m <= exact_up_to:
        bits = (np.arange(2**m)[:, None] >> np.arange(m)) & 1  # [2^m, m]
        return float(np.mean(np.abs((1 - 2 * bits) @ differences) >= observed))
    generator = np.random.default_rng(seed)
    hits, rows = 0, max(1, _BLOCK // m)
    for start in range(0, samples, rows):
        count = min(rows, samples - start)
        flips = generator.integers(0, 2, size=(count, m), dtype=np.int8)
        sums = differences.sum() - 2 * (flips @ differences)
        hits += int(np.count_nonzero(np.abs(sums) >= observed))
    return (1 + hits) / (1 + samples)


def adjust_holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return p-values adjusted for their number `[m]`, in the order given.

    With p sorted upwards, p'_(i) = max over j <= i of min(1, (m - j + 1) p_(j)); rejecting
    where p' <= a keeps the chance of any false rejection at a (Holm 1979, "A simple
    sequentially rejective multiple test procedure").
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    factors = np.arange(p.size, 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(np.minimum(1.0, factors * p[order]))
    return adjusted


def crossed_bootstrap_means(scores: np.ndarray, indices: np.ndarray, seed: int) -> np.ndarray:
    """Return bootstrap estimates `[r]` of the mean of `scores` `[s, n]`: s replicates of a
    training, each scored on the same n examples.

    Replicates and examples are drawn with replacement, independently of each other, so that the
    estimates spread by the chance of training as well as by that of the questions (Owen 2007,
    "The pigeonhole bootstrap", https://arxiv.org/abs/0712.1111). `indices` `[r, n]` are the
    examples drawn, from `resample_indices`. One replicate: the bootstrap of examples alone.
    Few replicates say little about their spread: with two it is underestimated by half.
    """
    array = np.asarray(scores, dtype=np.float64)
    replicates, n = array.shape
    rows = max(1, _BLOCK // (n * replicates))
    means = np.concatenate(  # [r, s]
        [
            array[:, indices[start : start + rows]].mean(axis=2).T
            for start in range(0, len(indices), rows)
        ]
    )
    if replicates == 1:
        return means[:, 0]
    drawn = resample_indices(replicates, len(indices), seed)  # [r, s]
    return np.take_along_axis(means, drawn, axis=1).mean(axis=1)

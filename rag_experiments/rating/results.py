"""What ratings say: means with intervals, agreement of raters, differences between runs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from rag_experiments.functional.agreement import krippendorff_alpha
from rag_experiments.functional.statistics import (
    adjust_holm,
    bootstrap_interval,
    bootstrap_mean_interval,
    paired_permutation_test,
)
from rag_experiments.metrics.evaluation import Estimate
from rag_experiments.rating.criteria import NAMES


@dataclass(frozen=True, slots=True)
class Rating:
    """One rater's value for one answer of one run."""

    run: int
    unit: str
    """What was rated; one unit may be the same answer of several runs."""
    question_id: str
    rater: str
    criterion: str
    value: int


@dataclass(frozen=True, slots=True)
class Difference:
    """How much better the first of two runs was rated, on the questions rated for both."""

    runs: tuple[int, int]
    criterion: str
    mean: float
    questions: int
    p: float
    """Of a paired permutation test, with Holm's correction for all differences."""


@dataclass(frozen=True)
class Results:
    """The statistics of a set of ratings."""

    means: dict[tuple[int, str], Estimate]
    """By run and criterion; over questions, of the mean of their raters."""
    agreement: dict[str, Estimate]
    """By criterion: Krippendorff's ordinal alpha; `n` counts units with two raters or more."""
    differences: list[Difference]


def summarize(ratings: Sequence[Rating], seed: int) -> Results:
    """Compute the statistics of ratings; intervals are 95% bootstrap intervals.

    Means are drawn again over questions, agreement over rated units.
    """
    runs = sorted({rating.run for rating in ratings})
    scores = {
        (run, name): _by_question([r for r in ratings if (r.run, r.criterion) == (run, name)])
        for run in runs
        for name in NAMES
    }
    means = {place: _mean(list(values.values()), seed) for place, values in scores.items()}
    agreement = {
        name: agree([rating for rating in ratings if rating.criterion == name], seed)
        for name in NAMES
    }
    return Results(means, agreement, _differences(scores, runs, seed))


def agree(ratings: Sequence[Rating], seed: int) -> Estimate:
    """Krippendorff's ordinal alpha of ratings of one criterion, with its interval."""
    raters = sorted({rating.rater for rating in ratings})
    units = sorted({rating.unit for rating in ratings})
    matrix = np.full((len(raters), len(units)), np.nan)
    for rating in ratings:
        matrix[raters.index(rating.rater), units.index(rating.unit)] = rating.value
    matrix = matrix[:, (~np.isnan(matrix)).sum(axis=0) >= 2]
    n = matrix.shape[1]
    alpha = krippendorff_alpha(matrix)
    if np.isnan(alpha):
        return Estimate(float("nan"), float("nan"), float("nan"), n)
    low, high = bootstrap_interval(lambda rows: krippendorff_alpha(matrix[:, rows]), n, seed)
    return Estimate(alpha, low, high, n)


def _by_question(ratings: Sequence[Rating]) -> dict[str, float]:
    values: dict[str, list[int]] = defaultdict(list)
    for rating in ratings:
        values[rating.question_id].append(rating.value)
    return {question: float(np.mean(given)) for question, given in sorted(values.items())}


def _mean(values: Sequence[float], seed: int) -> Estimate:
    if not values:
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    low, high = bootstrap_mean_interval(values, seed)
    return Estimate(float(np.mean(values)), low, high, len(values))


def _differences(
    scores: dict[tuple[int, str], dict[str, float]], runs: Sequence[int], seed: int
) -> list[Difference]:
    found: list[tuple[tuple[int, int], str, float, int, float]] = []
    for name in NAMES:
        for first, second in combinations(runs, 2):
            a, b = scores[first, name], scores[second, name]
            both = [question for question in a if question in b]
            if both:
                x, y = [a[q] for q in both], [b[q] for q in both]
                p = paired_permutation_test(x, y, seed)
                mean = float(np.mean(x) - np.mean(y))
                found.append(((first, second), name, mean, len(both), p))
    adjusted = adjust_holm([entry[-1] for entry in found])
    return [Difference(*entry[:-1], p=float(p)) for entry, p in zip(found, adjusted, strict=True)]

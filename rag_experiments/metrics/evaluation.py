"""All metrics of one set of predictions, with intervals and the scores of each example."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rag_experiments.contracts import Metric, Prediction
from rag_experiments.functional.statistics import (
    bootstrap_interval,
    bootstrap_mean_interval,
    resample_indices,
)
from rag_experiments.metrics.base import CorpusMetric


@dataclass(frozen=True, slots=True)
class Estimate:
    """A metric's value on a corpus and its bootstrap interval.

    All three are not a number where the metric is defined for no example (`n` is 0).
    """

    value: float
    low: float
    high: float
    n: int
    """Number of examples for which the metric is defined."""


@dataclass(frozen=True)
class Evaluation:
    """What the metrics say about a set of predictions."""

    estimates: dict[str, Estimate]
    """By name of the metric, e.g. `f1`; for a named part of the questions `f1/seen_passage`."""

    scores: dict[str, dict[str, float | None]]
    """By name of the metric and id of the question; None where it is not defined. Metrics of
    a whole corpus are absent."""


def evaluate_predictions(
    metrics: Sequence[Metric],
    predictions: Sequence[Prediction],
    seed: int,
    resamples: int = 1000,
    level: float = 0.95,
) -> Evaluation:
    """Score predictions with every metric, over all of them and over each group.

    A metric with scores for single examples has their mean as its value, over the examples for
    which it is defined. Intervals are percentile bootstrap intervals over examples; with the
    same seed the same examples are drawn for every metric.
    """
    if not predictions:
        raise ValueError("predictions is empty; metrics need at least one example")
    ids = [p.id for p in predictions]
    if len(set(ids)) < len(ids):
        raise ValueError(f"{len(ids) - len(set(ids))} of {len(ids)} question ids are not unique")
    names = [metric.name for metric in metrics]
    if len(set(names)) < len(names):
        double = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"metrics: {', '.join(double)} configured twice; names must differ")

    parts: dict[str, list[int]] = {"": list(range(len(predictions)))}
    for index, prediction in enumerate(predictions):
        if prediction.group:
            parts.setdefault(prediction.group, []).append(index)
    draws = _Draws(seed, resamples)
    estimates: dict[str, Estimate] = {}
    scores: dict[str, dict[str, float | None]] = {}
    for metric in metrics:
        column = [metric.score(p) for p in predictions]
        of_examples = not isinstance(metric, CorpusMetric) and any(
            score is not None for score in column
        )
        if of_examples or not isinstance(metric, CorpusMetric):
            scores[metric.name] = dict(zip(ids, column, strict=True))
        for group, members in parts.items():
            name = f"{metric.name}/{group}" if group else metric.name
            if of_examples:
                defined = [s for i in members if (s := column[i]) is not None]
                estimates[name] = _mean(defined, draws, level)
            else:
                estimates[name] = _corpus(metric, [predictions[i] for i in members], draws, level)
    return Evaluation(estimates, scores)


class _Draws:
    """Bootstrap samples, drawn once for each number of examples."""

    def __init__(self, seed: int, resamples: int):
        self.seed, self.resamples = seed, resamples
        self._made: dict[int, np.ndarray] = {}

    def of(self, n: int) -> np.ndarray:
        if n not in self._made:
            self._made[n] = resample_indices(n, self.resamples, self.seed)
        return self._made[n]


_UNDEFINED = Estimate(float("nan"), float("nan"), float("nan"), 0)


def _mean(defined: Sequence[float], draws: _Draws, level: float) -> Estimate:
    if not defined:
        return _UNDEFINED
    n = len(defined)
    low, high = bootstrap_mean_interval(defined, draws.seed, level=level, indices=draws.of(n))
    return Estimate(float(np.mean(defined)), low, high, n)


def _corpus(
    metric: Metric, predictions: Sequence[Prediction], draws: _Draws, level: float
) -> Estimate:
    shifts = False
    if isinstance(metric, CorpusMetric):
        predictions = [p for p in predictions if metric.is_defined(p)]
        if not predictions:
            return _UNDEFINED
        statistic = metric.statistic(predictions)
        shifts = metric.shifts_when_resampled
    else:
        # A metric that only keeps to the contract: it is asked anew for every resample.
        def statistic(indices: np.ndarray) -> float:
            return metric.aggregate([predictions[i] for i in indices])

    n = len(predictions)
    value = statistic(np.arange(n))
    if np.isnan(value):
        return _UNDEFINED
    low, high = bootstrap_interval(
        statistic,
        n,
        draws.seed,
        level=level,
        indices=draws.of(n),
        center=value if shifts else None,
    )
    if shifts:
        low, high = max(0.0, low), min(1.0, high)
    return Estimate(value, low, high, n)

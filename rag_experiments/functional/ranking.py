"""Fusing rankings, scoring rankings, and p(z|x) from retrieval scores.

Notation: x a question, z a passage, n hits of a question, ranks count from 1. A ranking is a
sequence of passage ids, best first, without repetition. Probabilities are in nats.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np


def fuse_reciprocal_ranks(
    rankings: Sequence[Sequence[str]], k: float = 60.0, weights: Sequence[float] | None = None
) -> list[tuple[str, float]]:
    """Passages by sum over rankings of w / (k + rank), best first.

    A passage that a ranking lacks gets nothing from it. Equal sums keep the order in which
    passages are first met (first ranking first). Cormack, Clarke and Büttcher (SIGIR 2009),
    who set k = 60 and every w = 1.
    """
    weights = [1.0] * len(rankings) if weights is None else weights
    fused: dict[str, float] = {}
    for ranking, weight in zip(rankings, weights, strict=True):
        for rank, passage in enumerate(ranking, start=1):
            fused[passage] = fused.get(passage, 0.0) + weight / (k + rank)
    return _sort(fused)


def fuse_weighted_scores(
    scored: Sequence[Mapping[str, float]], weights: Sequence[float]
) -> list[tuple[str, float]]:
    """Passages by the weighted sum of their min-max normalized scores, best first.

    Each retriever's scores s become (s - min) / (max - min), in [0, 1]; where all are equal,
    1. A passage that a retriever did not return gets 0 from it: what was not returned scored
    no more than its last hit. Equal sums keep the order in which passages are first met.
    (Fox and Shaw's CombSUM, TREC-2 1994, with min-max normalization as Lee, SIGIR 1997.)
    """
    fused: dict[str, float] = {}
    for scores, weight in zip(scored, weights, strict=True):
        if not scores:
            continue
        low, high = min(scores.values()), max(scores.values())
        for passage, score in scores.items():
            normalized = (score - low) / (high - low) if high > low else 1.0
            fused[passage] = fused.get(passage, 0.0) + weight * normalized
    return _sort(fused)


def _sort(fused: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(fused.items(), key=lambda item: -item[1])  # stable


def compute_recall(ranking: Sequence[str], relevant: Collection[str], k: int) -> float:
    """Share of the relevant passages among the first k: |relevant ∩ top k| / |relevant|.

    `relevant` must not be empty.
    """
    relevant = set(relevant)
    return len(relevant.intersection(ranking[:k])) / len(relevant)


def compute_reciprocal_rank(
    ranking: Sequence[str], relevant: Collection[str], k: int | None = None
) -> float:
    """1 / rank of the first relevant passage among the first k (None: all); 0 without one.

    The mean over questions is MRR (Voorhees, TREC-8 1999).
    """
    relevant = set(relevant)
    for rank, passage in enumerate(ranking[:k], start=1):
        if passage in relevant:
            return 1.0 / rank
    return 0.0


def compute_ndcg(
    ranking: Sequence[str], relevant: Collection[str] | Mapping[str, float], k: int
) -> float:
    """Normalized discounted cumulative gain of the first k: DCG / DCG of the best ranking.

    DCG = sum over ranks r of gain(r) / log2(r + 1); gains are 1 for a collection, else the
    values of the mapping, used as they are (Järvelin and Kekäläinen, TOIS 2002, as in
    trec_eval). `relevant` must hold a positive gain.
    """
    gains = dict(relevant) if isinstance(relevant, Mapping) else dict.fromkeys(relevant, 1.0)
    best = sorted(gains.values(), reverse=True)[:k]
    return _dcg([gains.get(passage, 0.0) for passage in ranking[:k]]) / _dcg(best)


def _dcg(gains: Sequence[float]) -> float:
    return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, start=1))


def softmax_log_prior(scores: Sequence[float] | np.ndarray, temperature: float) -> np.ndarray:
    """log p(z|x) of each hit: scores / temperature, minus their log-sum-exp.

    `scores` [..., n], result [..., n] float64 in nats; the probabilities of the last axis sum
    to one. `temperature` is positive, in the unit of the scores. No hits give no numbers.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.shape[-1] == 0:
        return values
    # Differences first: they are exact zeros at the maximum, whatever the temperature.
    logits = (values - values.max(axis=-1, keepdims=True)) / temperature
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def entropy(prior: Sequence[float] | np.ndarray) -> float:
    """Entropy -sum p log p of probabilities [n], in nats.

    Between 0 (one passage has all the mass) and log n (uniform).
    """
    values = np.asarray(prior, dtype=np.float64)
    positive = values[values > 0]
    return float(-(positive * np.log(positive)).sum()) + 0.0  # no -0.0


def fit_temperature(
    scores: Sequence[Sequence[float]], relevant: Sequence[Sequence[bool]]
) -> float | None:
    """Temperature T of p(z|x) = softmax(scores / T) that makes gold passages likeliest.

    Minimizes the mean over questions of -log sum over gold hits z of p(z|x): temperature
    scaling (Guo et al., ICML 2017) with several correct classes. One question more is counted
    in, an average one whose gold passage is any of its hits with equal chance: otherwise a few
    questions that are all ranked right would ask for T = 0, and for certainty ever after.

    `scores[i]` are the hits' scores of question i, `relevant[i]` tells which of them are gold.
    Questions without a gold hit, or whose hits are all gold, carry no information; None when no
    question is left or scores never differ within a question.

    The search is over log T, from 1/100 to 100 times the mean spread (standard deviation) of
    the scores within a question; a result at the upper end means that the scores do not tell
    gold from other passages.
    """
    informative = [
        (np.asarray(values, dtype=np.float64), np.asarray(gold, dtype=bool))
        for values, gold in zip(scores, relevant, strict=True)
        if any(gold) and not all(gold)
    ]
    spread = float(np.mean([values.std() for values, _ in informative])) if informative else 0.0
    if spread == 0.0:
        return None
    padded, gold_mask, present = _stack(informative)

    def compute_loss(log_temperature: float) -> float:
        logits = np.where(present, padded / math.exp(log_temperature), -np.inf)  # [b, n]
        all_mass = np.log(np.exp(logits).sum(-1))
        gold_logits = np.where(gold_mask, logits, -np.inf)
        top = gold_logits.max(-1, keepdims=True)
        gold_mass = np.log(np.exp(gold_logits - top).sum(-1)) + top[:, 0]
        any_hit = all_mass - np.where(present, logits, 0.0).sum(-1) / present.sum(-1)
        losses = all_mass - gold_mass
        return float((losses.sum() + any_hit.mean()) / (len(losses) + 1))

    # The loss can have several minima: a grid finds the valley, golden sections its bottom.
    grid = math.log(spread) + np.linspace(math.log(1e-2), math.log(1e2), 121)
    losses = [compute_loss(value) for value in grid]
    best = int(np.argmin(losses))
    low, high = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    return math.exp(_minimize(compute_loss, float(low), float(high)))


def _stack(
    questions: Sequence[tuple[np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores less each question's maximum [b, n], which are gold, and which are there."""
    width = max(len(values) for values, _ in questions)
    padded = np.zeros((len(questions), width))
    gold_mask = np.zeros((len(questions), width), dtype=bool)
    present = np.zeros((len(questions), width), dtype=bool)
    for i, (values, gold) in enumerate(questions):
        padded[i, : len(values)] = values - values.max()
        gold_mask[i, : len(values)] = gold
        present[i, : len(values)] = True
    return padded, gold_mask, present


def _minimize(function, low: float, high: float, tolerance: float = 1e-8) -> float:
    """Place of the minimum of a function with one valley in [low, high]: golden sections."""
    ratio = (math.sqrt(5) - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    left_value, right_value = function(left), function(right)
    while high - low > tolerance:
        if left_value <= right_value:
            high, right, right_value = right, left, left_value
            left = high - ratio * (high - low)
            left_value = function(left)
        else:
            low, left, left_value = left, right, right_value
            right = low + ratio * (high - low)
            right_value = function(right)
    return (low + high) / 2

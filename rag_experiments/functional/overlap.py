"""Texts that repeat each other: exactly, and nearly."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from rag_experiments.functional.first_places import FirstPlaces
from rag_experiments.functional.text import tokenize


def find_repeats(texts: Iterable[str]) -> dict[int, int]:
    """Return, for each text that repeats an earlier one, the index of the first such.

    Case, punctuation, articles and white space do not count; texts without words repeat nothing.
    """
    places = FirstPlaces()
    repeats = {}
    for i, text in enumerate(texts):
        words = " ".join(tokenize(text))
        first = places.add(words, i) if words else None
        if first is not None:
            repeats[i] = first
    return repeats


def find_nearest(
    texts: Sequence[str], others: Sequence[str], threshold: float
) -> list[tuple[int, float] | None]:
    """Return the index and similarity of the nearest other text, where it reaches the threshold.

    Similarity is |A and B| / |A or B| of the sets of words (Jaccard), threshold above 0 and at
    most 1; of others that are equally near the first counts. Exact: only texts are compared that
    share one of the rare words that they must share to reach it (prefix filtering, Chaudhuri et
    al. 2006, https://doi.org/10.1109/ICDE.2006.9).
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold is {threshold}; legal: above 0, at most 1")
    left, right = ([frozenset(tokenize(text)) for text in side] for side in (texts, others))
    frequency = Counter(word for words in (*left, *right) for word in words)

    def prefix(words: frozenset[str]) -> list[str]:
        rarest = sorted(words, key=lambda word: (frequency[word], word))
        # The small number keeps 0.7 * 10 from being more than 7.
        return rarest[: len(words) - math.ceil(threshold * len(words) - 1e-9) + 1]

    index: dict[str, list[int]] = defaultdict(list)
    for i, words in enumerate(right):
        for word in prefix(words):
            index[word].append(i)

    nearest: list[tuple[int, float] | None] = []
    for words in left:
        candidates = sorted({i for word in prefix(words) for i in index.get(word, ())})
        scored = [(len(words & right[i]) / len(words | right[i]), i) for i in candidates]
        similarity, best = max(scored, key=lambda pair: (pair[0], -pair[1]), default=(0.0, -1))
        nearest.append((best, similarity) if similarity >= threshold - 1e-9 else None)
    return nearest

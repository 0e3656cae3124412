"""Repeated and nearly repeated texts, against comparing everything with everything."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag_experiments.functional.overlap import find_nearest, find_repeats
from rag_experiments.functional.text import tokenize

words = st.lists(st.sampled_from("b c d e f g h i".split()), max_size=7).map(" ".join)  # noqa: SIM905
texts = st.lists(words, max_size=8)


def similarity(one: str, other: str) -> float:
    left, right = set(tokenize(one)), set(tokenize(other))
    return len(left & right) / len(left | right) if left | right else 0.0


@given(texts, texts, st.sampled_from([0.2, 0.5, 0.6, 0.7, 0.8, 1.0]))
def test_the_nearest_is_what_comparing_all_pairs_finds(left, right, threshold):
    for text, found in zip(left, find_nearest(left, right, threshold), strict=True):
        scores = [similarity(text, other) for other in right]
        best = max(scores, default=0.0)
        if best < threshold - 1e-9:
            assert found is None
        else:
            assert found == (scores.index(best), pytest.approx(best))


def test_a_worked_example():
    test = ["Which enzyme joins DNA fragments?", "Who found it?", ""]
    train = ["which enzyme joins the RNA fragments", "Which enzyme joins DNA fragments", "???"]
    assert find_nearest(test, train, 0.8) == [(1, 1.0), None, None]
    assert find_nearest(test, train[:1], 0.6) == [(0, pytest.approx(4 / 6)), None, None]
    with pytest.raises(ValueError, match="threshold is 0"):
        find_nearest(test, train, 0)


def test_repeats_point_to_the_first():
    assert find_repeats(["The cat.", "a dog", "CAT", "the cat", "", ""]) == {2: 0, 3: 0}

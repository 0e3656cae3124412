"""Whether the sentences of an answer hang together."""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar

from rag_experiments.contracts import Prediction
from rag_experiments.functional.sentences import content_words, find_sentences
from rag_experiments.metrics.base import QUESTION_ANSWERING, SUMMARIZATION, ExampleMetric


class Coherence(ExampleMetric):
    """Sentences that go on from the one before / all sentences but the first.

    A sentence goes on where it shares a content word with its neighbor and has one that the
    neighbor lacks; a sentence said again does not. It measures lexical cohesion between
    neighbors, the unweighted links between sentences of Guinaudeau & Strube 2013
    (https://aclanthology.org/P13-1010) with words for entities. It misses links through
    pronouns, synonyms and other forms of a word, and sees none between distant sentences; it is
    blind to contradictions and to logic. So it tells rambling from a thread, and is a poor judge
    between two good texts.
    """

    name: ClassVar[str] = "coherence"
    tasks: ClassVar[frozenset[str]] = QUESTION_ANSWERING | SUMMARIZATION
    inputs: ClassVar[tuple[str, str | None]] = ("prediction", None)

    def score(self, prediction: Prediction) -> float | None:
        """Return a number from 0 to 1; None for an answer of one sentence or none."""
        text = prediction.prediction
        words = [set(content_words(text[start:end])) for start, end in find_sentences(text)]
        links = [bool(own & last) and bool(own - last) for last, own in pairwise(words)]
        return sum(links) / len(links) if links else None

"""Whether an answer is made of what was retrieved."""

from __future__ import annotations

from typing import ClassVar

from rag_experiments.contracts import Prediction
from rag_experiments.functional.text import tokenize
from rag_experiments.metrics.base import QUESTION_ANSWERING, ExampleMetric


class Grounded(ExampleMetric):
    """Words of the answer that stand in a retrieved passage / all words of the answer.

    K-precision of Adlakha et al. 2024, https://arxiv.org/abs/2307.16877, with each word of the
    passages usable more than once.
    """

    name: ClassVar[str] = "grounded"
    tasks: ClassVar[frozenset[str]] = QUESTION_ANSWERING
    inputs: ClassVar[tuple[str, str | None]] = ("prediction", "passages")

    def score(self, prediction: Prediction) -> float | None:
        """Return a number from 0 to 1; None without passages or words in the answer, and where
        it says that there is none."""
        words = tokenize(prediction.prediction)
        if not prediction.passages or not words or prediction.abstained:
            return None
        known = {word for passage in prediction.passages for word in tokenize(passage)}
        return sum(word in known for word in words) / len(words)

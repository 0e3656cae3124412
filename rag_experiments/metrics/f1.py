"""F1 of the words of an answer."""

from __future__ import annotations

from typing import ClassVar

from rag_experiments.contracts import Prediction
from rag_experiments.functional.text import compute_overlap, tokenize
from rag_experiments.metrics.base import QUESTION_ANSWERING, ExampleMetric, score_abstention


class F1(ExampleMetric):
    """2 P R / (P + R) of the words shared with an accepted answer; the best answer counts.

    With c words in common (repeated words count as often as both have them), P = c / words of
    the prediction and R = c / words of the answer. Where one of the two has no words, it is 1
    if both have none, else 0. Rajpurkar et al. 2016, https://arxiv.org/abs/1606.05250
    """

    name: ClassVar[str] = "f1"
    tasks: ClassVar[frozenset[str]] = QUESTION_ANSWERING

    def score(self, prediction: Prediction) -> float | None:
        """Return a number from 0 to 1; None where there is no accepted answer.

        Where answers may say that there is none, that alone counts (`score_abstention`).
        """
        if (known := score_abstention(prediction)) is not None:
            return known
        if not prediction.answers:
            return None
        words = tokenize(prediction.prediction)
        return max(compute_overlap(words, tokenize(answer)) for answer in prediction.answers)

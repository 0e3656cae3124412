"""Exact match."""

from __future__ import annotations

from typing import ClassVar

from rag_experiments.contracts import Prediction
from rag_experiments.functional.text import normalize_answer
from rag_experiments.metrics.base import QUESTION_ANSWERING, ExampleMetric, score_abstention


class ExactMatch(ExampleMetric):
    """1 where the normalized prediction equals a normalized accepted answer, else 0.

    Rajpurkar et al. 2016, https://arxiv.org/abs/1606.05250
    """

    name: ClassVar[str] = "exact_match"
    tasks: ClassVar[frozenset[str]] = QUESTION_ANSWERING

    def score(self, prediction: Prediction) -> float | None:
        """Return 0 or 1; None where there is no accepted answer.

        Where answers may say that there is none, that alone counts (`score_abstention`).
        """
        if (known := score_abstention(prediction)) is not None:
            return known
        if not prediction.answers:
            return None
        answers = {normalize_answer(answer) for answer in prediction.answers}
        return float(normalize_answer(prediction.prediction) in answers)

"""Length of the answers."""

from __future__ import annotations

from typing import ClassVar

from rag_experiments.contracts import Prediction
from rag_experiments.functional.text import tokenize
from rag_experiments.metrics.base import QUESTION_ANSWERING, ExampleMetric


class AnswerLength(ExampleMetric):
    """Number of words of the normalized answer, which shows a model that talks too much."""

    name: ClassVar[str] = "answer_length"
    tasks: ClassVar[frozenset[str]] = QUESTION_ANSWERING
    inputs: ClassVar[tuple[str, str | None]] = ("prediction", None)
    greater_is_better: ClassVar[bool] = False

    def score(self, prediction: Prediction) -> float | None:
        """Return the number of words."""
        return float(len(tokenize(prediction.prediction)))

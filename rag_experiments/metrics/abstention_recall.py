"""Whether questions without an answer are abstained on."""

from __future__ import annotations

from typing import ClassVar

from rag_experiments.contracts import Prediction
from rag_experiments.metrics.base import QUESTION_ANSWERING, ExampleMetric


class AbstentionRecall(ExampleMetric):
    """Questions without an answer that the model abstains on / questions without an answer."""

    name: ClassVar[str] = "abstention_recall"
    tasks: ClassVar[frozenset[str]] = QUESTION_ANSWERING
    inputs: ClassVar[tuple[str, str | None]] = ("abstained", "answers")

    def score(self, prediction: Prediction) -> float | None:
        """Return 0 or 1; None where the question has an answer."""
        return float(bool(prediction.abstained)) if prediction.unanswerable else None

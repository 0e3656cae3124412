"""Whether abstentions are right."""

from __future__ import annotations

from typing import ClassVar

from rag_experiments.contracts import Prediction
from rag_experiments.metrics.base import QUESTION_ANSWERING, ExampleMetric


class AbstentionPrecision(ExampleMetric):
    """Abstentions on questions that have no answer / abstentions."""

    name: ClassVar[str] = "abstention_precision"
    tasks: ClassVar[frozenset[str]] = QUESTION_ANSWERING
    inputs: ClassVar[tuple[str, str | None]] = ("abstained", "answers")

    def score(self, prediction: Prediction) -> float | None:
        """Return 0 or 1; None where the model did not abstain."""
        return float(prediction.unanswerable) if prediction.abstained else None

"""Accuracy of a label."""

from __future__ import annotations

from typing import ClassVar

from rag_experiments.contracts import Prediction
from rag_experiments.functional.text import normalize_answer
from rag_experiments.metrics.base import YES_NO, ExampleMetric


class Accuracy(ExampleMetric):
    """Correct labels / all examples; an answer without a label is wrong.

    Labels are compared whole, without regard to case and punctuation, never by substring.
    """

    name: ClassVar[str] = "accuracy"
    tasks: ClassVar[frozenset[str]] = YES_NO

    def score(self, prediction: Prediction) -> float | None:
        """Return 0 or 1; None where there is no accepted answer."""
        if not prediction.answers:
            return None
        label = normalize_answer(prediction.prediction)
        return float(bool(label) and label == normalize_answer(prediction.answers[0]))

"""Whether summaries are as long as they were asked to be."""

from __future__ import annotations

from typing import ClassVar

from rag_experiments.contracts import Prediction
from rag_experiments.metrics.base import SUMMARIZATION, ExampleMetric


class LengthError(ExampleMetric):
    """|words of the summary - words asked for| / words asked for: 0 keeps the length.

    It tells whether the wish was kept and not whether it was right: reference summaries of a set
    differ in length, and the same length is asked for all.
    """

    name: ClassVar[str] = "length_error"
    tasks: ClassVar[frozenset[str]] = SUMMARIZATION
    inputs: ClassVar[tuple[str, str | None]] = ("prediction", "words")
    greater_is_better: ClassVar[bool] = False

    def score(self, prediction: Prediction) -> float | None:
        """Return a number of 0 or more; None where no length was asked for."""
        if not prediction.words:
            return None
        return abs(len(prediction.prediction.split()) - prediction.words) / prediction.words

"""Length of the summaries."""

from __future__ import annotations

from typing import ClassVar

from rag_experiments.contracts import Prediction
from rag_experiments.metrics.base import SUMMARIZATION, ExampleMetric


class SummaryLength(ExampleMetric):
    """Number of words of a summary, as a person counts them: what stands between white space."""

    name: ClassVar[str] = "summary_length"
    tasks: ClassVar[frozenset[str]] = SUMMARIZATION
    inputs: ClassVar[tuple[str, str | None]] = ("prediction", None)
    greater_is_better: ClassVar[bool] = False

    def score(self, prediction: Prediction) -> float | None:
        """Return the number of words."""
        return float(len(prediction.prediction.split()))

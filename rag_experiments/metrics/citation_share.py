"""How many answers cite a passage."""

from __future__ import annotations

from typing import ClassVar

from rag_experiments.contracts import Prediction
from rag_experiments.metrics.base import QUESTION_ANSWERING, ExampleMetric


class CitationShare(ExampleMetric):
    """Answers that cite one of their passages / answers that were given passages."""

    name: ClassVar[str] = "citation_share"
    tasks: ClassVar[frozenset[str]] = QUESTION_ANSWERING
    inputs: ClassVar[tuple[str, str | None]] = ("cited", None)

    def score(self, prediction: Prediction) -> float | None:
        """Return 0 or 1; None without passages, and where the answer says that there is none."""
        if not prediction.passage_ids or prediction.abstained:
            return None
        return float(any(prediction.cited))

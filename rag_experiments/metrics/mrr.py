"""Mean reciprocal rank."""

from __future__ import annotations

from typing import ClassVar

from rag_experiments.contracts import Prediction
from rag_experiments.metrics.base import QUESTION_ANSWERING, YES_NO, ExampleMetric


class MRR(ExampleMetric):
    """Mean of 1 / rank of the first gold passage; 0 where none was retrieved.

    Voorhees 1999, "The TREC-8 question answering track report".
    """

    name: ClassVar[str] = "mrr"
    tasks: ClassVar[frozenset[str]] = QUESTION_ANSWERING | YES_NO
    inputs: ClassVar[tuple[str, str | None]] = ("passage_ids", "gold_passage_ids")

    def score(self, prediction: Prediction) -> float | None:
        """Return a number from 0 to 1; None where no gold passage is known."""
        from rag_experiments.functional.ranking import compute_reciprocal_rank

        if not prediction.gold_passage_ids:
            return None
        return compute_reciprocal_rank(prediction.passage_ids, prediction.gold_passage_ids)

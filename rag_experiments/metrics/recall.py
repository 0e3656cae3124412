"""Recall of the gold passages."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from rag_experiments.contracts import Prediction
from rag_experiments.metrics.base import QUESTION_ANSWERING, YES_NO, ExampleMetric


class Recall(ExampleMetric):
    """Gold passages among the first k retrieved / all gold passages.

    Manning et al. 2008, Introduction to Information Retrieval, chapter 8.
    """

    tasks: ClassVar[frozenset[str]] = QUESTION_ANSWERING | YES_NO
    inputs: ClassVar[tuple[str, str | None]] = ("passage_ids", "gold_passage_ids")

    k: Annotated[int, Field(ge=1)] | None = None
    """Number of passages looked at; null: all that were retrieved."""

    @property
    def name(self) -> str:
        """recall, or e.g. recall_at_3 (MLflow does not allow @ in a name)."""
        return "recall" if self.k is None else f"recall_at_{self.k}"

    def score(self, prediction: Prediction) -> float | None:
        """Return a number from 0 to 1; None where no gold passage is known."""
        from rag_experiments.functional.ranking import compute_recall

        gold = prediction.gold_passage_ids
        if not gold:
            return None
        k = self.k or max(1, len(prediction.passage_ids))
        return compute_recall(prediction.passage_ids, gold, k)

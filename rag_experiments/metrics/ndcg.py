"""Normalized discounted cumulative gain."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from rag_experiments.contracts import Prediction
from rag_experiments.metrics.base import QUESTION_ANSWERING, YES_NO, ExampleMetric


class NDCG(ExampleMetric):
    """Sum of 1 / log2(rank + 1) over gold passages up to rank k / the same sum of the best order.

    Relevance is binary. Järvelin & Kekäläinen 2002, "Cumulated gain-based evaluation of IR
    techniques".
    """

    tasks: ClassVar[frozenset[str]] = QUESTION_ANSWERING | YES_NO
    inputs: ClassVar[tuple[str, str | None]] = ("passage_ids", "gold_passage_ids")

    k: Annotated[int, Field(ge=1)] | None = None
    """Number of passages looked at; null: all that were retrieved."""

    @property
    def name(self) -> str:
        """ndcg, or e.g. ndcg_at_10 (MLflow does not allow @ in a name)."""
        return "ndcg" if self.k is None else f"ndcg_at_{self.k}"

    def score(self, prediction: Prediction) -> float | None:
        """Return a number from 0 to 1; None where no gold passage is known."""
        from rag_experiments.functional.ranking import compute_ndcg

        gold = prediction.gold_passage_ids
        if not gold:
            return None
        # Without a cut the best order has every gold passage, also those not retrieved.
        k = self.k or max(len(prediction.passage_ids), len(gold))
        return compute_ndcg(prediction.passage_ids, gold, k)

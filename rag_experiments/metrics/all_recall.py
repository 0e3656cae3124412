"""Whether every gold passage was retrieved."""

from __future__ import annotations

from rag_experiments.contracts import Prediction
from rag_experiments.metrics.recall import Recall


class AllRecall(Recall):
    """Share of the questions whose gold passages are all among the first k retrieved.

    What questions that need several passages are scored by (all-recall: Gutiérrez et al. 2024,
    "HippoRAG", https://arxiv.org/abs/2405.14831).
    """

    @property
    def name(self) -> str:
        """all_recall, or e.g. all_recall_at_4."""
        return f"all_{super().name}"

    def score(self, prediction: Prediction) -> float | None:
        """Return 1 or 0; None where no gold passage is known."""
        recall = super().score(prediction)
        return None if recall is None else float(recall == 1)

"""Whether the passages that answers cite are gold."""

from __future__ import annotations

from typing import ClassVar

from rag_experiments.contracts import Prediction
from rag_experiments.metrics.base import QUESTION_ANSWERING, ExampleMetric


class CitationPrecision(ExampleMetric):
    """Cited passages that are gold / cited passages.

    Gao et al. 2023, https://arxiv.org/abs/2305.14627, with gold passages in the place of a model
    that judges support. A number that no passage has counts as a wrong citation.
    """

    name: ClassVar[str] = "citation_precision"
    tasks: ClassVar[frozenset[str]] = QUESTION_ANSWERING
    inputs: ClassVar[tuple[str, str | None]] = ("cited", "gold_passage_ids")

    def score(self, prediction: Prediction) -> float | None:
        """Return a number from 0 to 1; None without a citation or a known gold passage."""
        if not prediction.cited or not prediction.gold_passage_ids:
            return None
        gold = set(prediction.gold_passage_ids)
        return sum(cited in gold for cited in prediction.cited) / len(prediction.cited)

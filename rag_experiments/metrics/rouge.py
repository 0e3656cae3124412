"""ROUGE."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, ClassVar, Literal

from rag_experiments.contracts import Prediction
from rag_experiments.metrics.base import QUESTION_ANSWERING, ExampleMetric


class Rouge(ExampleMetric):
    """F-measure of n-grams (rouge1, rouge2) or of the longest common subsequence (rougeL, and
    rougeLsum line by line) shared with an accepted answer; the best answer counts.

    Computed by the package rouge-score, which reads Latin letters and digits only.
    Lin 2004, https://aclanthology.org/W04-1013
    """

    tasks: ClassVar[frozenset[str]] = QUESTION_ANSWERING

    variant: Literal["rouge1", "rouge2", "rougeL", "rougeLsum"] = "rougeL"
    """Which ROUGE."""

    stemmer: bool = False
    """Whether words are compared by their Porter stems."""

    @property
    def name(self) -> str:
        """The variant; with `_stem` where words are stemmed."""
        return f"{self.variant}_stem" if self.stemmer else self.variant

    def score(self, prediction: Prediction) -> float | None:
        """Return a number from 0 to 1; None where there is no accepted answer."""
        if not prediction.answers:
            return None
        best = _scorer(self.variant, self.stemmer).score_multi(
            prediction.answers, prediction.prediction
        )
        return float(best[self.variant].fmeasure)


@lru_cache
def _scorer(variant: str, stemmer: bool) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer([variant], use_stemmer=stemmer)

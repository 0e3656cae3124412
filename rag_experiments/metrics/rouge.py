"""ROUGE."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, ClassVar, Literal

from rag_experiments.contracts import Prediction
from rag_experiments.functional.sentences import find_sentences
from rag_experiments.metrics.base import QUESTION_ANSWERING, SUMMARIZATION, ExampleMetric


class Rouge(ExampleMetric):
    """F-measure of n-grams (rouge1, rouge2) or of the longest common subsequence (rougeL, and
    rougeLsum sentence by sentence) shared with an accepted answer or a reference summary.

    Of several references the best counts, as in SciTLDR (Cachola et al. 2020,
    https://arxiv.org/abs/2004.15011), or their mean. Computed by the package rouge-score, which
    reads Latin letters and digits only. Lin 2004, https://aclanthology.org/W04-1013
    """

    tasks: ClassVar[frozenset[str]] = QUESTION_ANSWERING | SUMMARIZATION

    variant: Literal["rouge1", "rouge2", "rougeL", "rougeLsum"] = "rougeL"
    """Which ROUGE."""

    stemmer: bool = False
    """Whether words are compared by their Porter stems."""

    references: Literal["max", "mean"] = "max"
    """What several references make: the score of the best, or the mean of all."""

    @property
    def name(self) -> str:
        """The variant; with `_stem` where words are stemmed, with `_mean` over references."""
        stem = "_stem" if self.stemmer else ""
        return f"{self.variant}{stem}{'_mean' if self.references == 'mean' else ''}"

    def score(self, prediction: Prediction) -> float | None:
        """Return a number from 0 to 1; None where there is no accepted answer."""
        if not prediction.answers:
            return None
        texts = [prediction.prediction, *prediction.answers]
        if self.variant == "rougeLsum":  # reads one sentence a line
            texts = [_split_sentences(text) for text in texts]
        scorer = _scorer(self.variant, self.stemmer)
        found = [scorer.score(answer, texts[0])[self.variant].fmeasure for answer in texts[1:]]
        return float(max(found) if self.references == "max" else sum(found) / len(found))


def _split_sentences(text: str) -> str:
    lines = text.splitlines()
    return "\n".join(line[start:end] for line in lines for start, end in find_sentences(line))


@lru_cache
def _scorer(variant: str, stemmer: bool) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer([variant], use_stemmer=stemmer)

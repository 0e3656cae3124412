"""BLEU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from rag_experiments.contracts import Prediction
from rag_experiments.metrics.base import QUESTION_ANSWERING, CorpusMetric

if TYPE_CHECKING:
    import numpy as np


class Bleu(CorpusMetric):
    """exp(mean of log p_n) times exp(min(0, 1 - r / c)), from 0 to 1.

    p_n is the clipped precision of n-grams, c the length of the predictions, r that of the
    closest accepted answers. Computed by sacrebleu (its score divided by 100) with its default
    tokens (13a) and smoothing (exp). Papineni et al. 2002, https://aclanthology.org/P02-1040;
    Post 2018, https://aclanthology.org/W18-6319
    """

    tasks: ClassVar[frozenset[str]] = QUESTION_ANSWERING

    max_order: Annotated[int, Field(ge=1, le=4)] = 4
    """Longest n-gram; predictions that all have fewer words than this score 0."""

    lowercase: bool = False
    """Whether case is ignored."""

    @property
    def name(self) -> str:
        """bleu; with its settings where they are not the usual ones."""
        order = "" if self.max_order == 4 else f"_{self.max_order}"
        return f"bleu{order}_lowercase" if self.lowercase else f"bleu{order}"

    def statistic(self, predictions: Sequence[Prediction]) -> Callable[[np.ndarray], float]:
        """Return BLEU as a function of example indices `[n]`."""
        import numpy as np
        from sacrebleu.metrics.bleu import BLEU

        n = self.max_order
        # The effective order changes a sentence's score, not the counts taken here.
        bleu = BLEU(lowercase=self.lowercase, max_ngram_order=n, effective_order=True)
        rows = []
        for prediction in predictions:
            found = bleu.sentence_score(prediction.prediction, list(prediction.answers))
            rows.append([found.sys_len, found.ref_len, *found.counts, *found.totals])
        counts = np.array(rows, dtype=np.int64)  # [examples, 2 + 2 n]

        def corpus_bleu(indices: np.ndarray) -> float:
            sums = counts[indices].sum(axis=0).tolist()
            result = BLEU.compute_bleu(
                correct=sums[2 : 2 + n],
                total=sums[2 + n :],
                sys_len=sums[0],
                ref_len=sums[1],
                smooth_method="exp",
                max_ngram_order=n,
            )
            return result.score / 100

        return corpus_bleu

"""Diversity of the answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from rag_experiments.contracts import Prediction
from rag_experiments.functional.text import list_ngrams, tokenize
from rag_experiments.metrics.base import QUESTION_ANSWERING, SUMMARIZATION, CorpusMetric

if TYPE_CHECKING:
    import numpy as np


class Distinct(CorpusMetric):
    """Different n-grams / all n-grams, over the answers of the whole corpus.

    It falls as a corpus grows, so compare runs on the same questions only. The interval is
    centered, because examples drawn twice have no new n-grams. Li et al. 2016,
    https://arxiv.org/abs/1510.03055
    """

    tasks: ClassVar[frozenset[str]] = QUESTION_ANSWERING | SUMMARIZATION
    inputs: ClassVar[tuple[str, str | None]] = ("prediction", None)
    shifts_when_resampled: ClassVar[bool] = True

    n: Annotated[int, Field(ge=1)] = 1
    """Length of the n-grams in words."""

    @property
    def name(self) -> str:
        """E.g. distinct_2."""
        return f"distinct_{self.n}"

    def is_defined(self, prediction: Prediction) -> bool:
        """Tell whether the answer has an n-gram."""
        return len(tokenize(prediction.prediction)) >= self.n

    def statistic(self, predictions: Sequence[Prediction]) -> Callable[[np.ndarray], float]:
        """Return distinct-n as a function of example indices `[n]`."""
        import numpy as np

        grams = [list_ngrams(tokenize(p.prediction), self.n) for p in predictions]
        codes: dict[tuple[str, ...], int] = {}
        flat = np.array([codes.setdefault(g, len(codes)) for found in grams for g in found])
        owner = np.repeat(np.arange(len(grams)), [len(found) for found in grams])
        totals = np.bincount(owner, minlength=len(grams))

        def distinct(indices: np.ndarray) -> float:
            drawn = np.zeros(len(totals), dtype=bool)
            drawn[indices] = True
            different = np.zeros(len(codes), dtype=bool)
            different[flat[drawn[owner]]] = True
            return float(np.count_nonzero(different) / totals[indices].sum())

        return distinct

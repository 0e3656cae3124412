"""How much the answers of a corpus resemble each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from rag_experiments.contracts import Prediction
from rag_experiments.functional.text import list_ngrams, tokenize
from rag_experiments.metrics.base import QUESTION_ANSWERING, SUMMARIZATION, CorpusMetric

if TYPE_CHECKING:
    import numpy as np


class SelfBleu(CorpusMetric):
    """Mean BLEU of each answer against all others as its references, from 0 to 1.

    The larger, the less the answers differ from question to question. Orders up to the answer's
    own length count, so that short answers have a score; counts of 0 are smoothed as sacrebleu
    does (exp). More answers make it larger, so compare runs on the same questions only. For the
    interval answers are drawn with the score that they have against the whole corpus. Zhu et al.
    2018, https://arxiv.org/abs/1802.01886
    """

    tasks: ClassVar[frozenset[str]] = QUESTION_ANSWERING | SUMMARIZATION
    inputs: ClassVar[tuple[str, str | None]] = ("prediction", None)
    greater_is_better: ClassVar[bool] = False

    max_order: Annotated[int, Field(ge=1, le=4)] = 4
    """Longest n-gram."""

    @property
    def name(self) -> str:
        """self_bleu; with its order where it is not 4."""
        return "self_bleu" if self.max_order == 4 else f"self_bleu_{self.max_order}"

    def is_defined(self, prediction: Prediction) -> bool:
        """Tell whether the answer has words."""
        return bool(tokenize(prediction.prediction))

    def statistic(self, predictions: Sequence[Prediction]) -> Callable[[np.ndarray], float]:
        """Return self-BLEU as a function of example indices `[n]`; one answer alone has none."""
        import numpy as np

        answers = [tokenize(p.prediction) for p in predictions]
        scores = np.full(len(answers), np.nan)
        if len(answers) > 1:
            scores = np.array(_score_each(answers, self.max_order))
        return lambda indices: float(scores[indices].mean())


def _score_each(answers: Sequence[list[str]], max_order: int) -> list[float]:
    """BLEU of each answer against all others, without comparing them pair by pair.

    An n-gram of an answer is clipped at the largest count that any other answer has: the
    largest of all, or the second largest where the answer has the largest itself.
    """
    from sacrebleu.metrics.bleu import BLEU

    orders = range(1, max_order + 1)
    counts = [Counter(g for n in orders for g in list_ngrams(words, n)) for words in answers]
    top: dict[tuple[str, ...], tuple[int, int]] = {}
    for own in counts:
        for gram, count in own.items():
            first, second = top.get(gram, (0, 0))
            top[gram] = (max(first, count), max(second, min(first, count)))
    lengths = Counter(map(len, answers))
    scores = []
    for words, own in zip(answers, counts, strict=True):
        correct, total = [0] * max_order, [0] * max_order
        for gram, count in own.items():
            first, second = top[gram]
            correct[len(gram) - 1] += min(count, second if count == first else first)
            total[len(gram) - 1] += count
        result: Any = BLEU.compute_bleu(
            correct=correct,
            total=total,
            sys_len=len(words),
            ref_len=_closest(len(words), lengths),
            smooth_method="exp",
            effective_order=True,
            max_ngram_order=max_order,
        )
        scores.append(result.score / 100)
    return scores


def _closest(length: int, lengths: Counter[int]) -> int:
    """Length of another answer that is closest, the shorter of two; `lengths` counts all."""
    others = (n for n, count in lengths.items() if count > (n == length))
    return min(others, key=lambda n: (abs(n - length), n))

"""Macro-F1 of labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

from rag_experiments.contracts import Prediction
from rag_experiments.functional.text import normalize_answer
from rag_experiments.metrics.base import YES_NO, CorpusMetric

if TYPE_CHECKING:
    import numpy as np


class MacroF1(CorpusMetric):
    """Mean over the labels of F1 = 2 TP / (2 TP + FP + FN).

    The labels are those of the accepted answers; an answer without a label, or with a label
    that no question has, is a miss of the true label. A label that a resample neither has nor
    predicts is left out of its mean. Sokolova & Lapalme 2009, "A systematic analysis of
    performance measures for classification tasks"; the mean of F1, not F1 of the means
    (Opitz & Burst 2019, https://arxiv.org/abs/1911.03347).
    """

    name: ClassVar[str] = "macro_f1"
    tasks: ClassVar[frozenset[str]] = YES_NO

    def statistic(self, predictions: Sequence[Prediction]) -> Callable[[np.ndarray], float]:
        """Return macro-F1 as a function of example indices `[n]`."""
        import numpy as np

        true_forms = [normalize_answer(p.answers[0]) for p in predictions]
        codes = {form: code for code, form in enumerate(sorted(set(true_forms)))}
        labels = len(codes)  # the code after the last stands for no label
        true = np.array([codes[form] for form in true_forms])
        predicted = np.array(
            [codes.get(normalize_answer(p.prediction), labels) for p in predictions]
        )

        def macro_f1(indices: np.ndarray) -> float:
            t, p = true[indices], predicted[indices]
            hits = np.bincount(t[t == p], minlength=labels)  # TP of each label
            both = np.bincount(t, minlength=labels) + np.bincount(p, minlength=labels)[:labels]
            seen = both > 0  # TP + FN + TP + FP
            return float(np.mean(2 * hits[seen] / both[seen]))

        return macro_f1

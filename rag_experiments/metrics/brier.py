"""Brier score of the labels' probabilities."""

from __future__ import annotations

from typing import ClassVar

from rag_experiments.contracts import Prediction
from rag_experiments.functional.text import normalize_answer
from rag_experiments.metrics.base import YES_NO, ExampleMetric


class Brier(ExampleMetric):
    """Sum over the labels of (p - y)^2, where y is 1 for the right label and 0 for others.

    From 0 (sure and right) to 2 (sure and wrong). Brier 1950, "Verification of forecasts expressed
    in terms of probability", https://doi.org/10.1175/1520-0493(1950)078%3C0001:VOFEIT%3E2.0.CO;2
    """

    name: ClassVar[str] = "brier"
    tasks: ClassVar[frozenset[str]] = YES_NO
    inputs: ClassVar[tuple[str, str | None]] = ("label_scores", "answers")
    greater_is_better: ClassVar[bool] = False

    def score(self, prediction: Prediction) -> float | None:
        """Return a number from 0 to 2; None without label scores or an accepted answer."""
        if not prediction.answers or not prediction.label_scores:
            return None
        right = normalize_answer(prediction.answers[0])
        return sum(
            (p - (normalize_answer(label) == right)) ** 2
            for label, p in prediction.label_scores.items()
        )

"""Whether the answer could be read at all."""

from __future__ import annotations

from typing import ClassVar

from rag_experiments.contracts import Prediction
from rag_experiments.functional.text import contains_answer
from rag_experiments.metrics.base import QUESTION_ANSWERING, ExampleMetric


class AnswerInContext(ExampleMetric):
    """1 where an accepted answer stands in a retrieved passage, else 0.

    Compared by whole words without regard to case and punctuation. It bounds what a model can
    copy. Called top-k retrieval accuracy in Karpukhin et al. 2020,
    https://arxiv.org/abs/2004.04906
    """

    name: ClassVar[str] = "answer_in_context"
    tasks: ClassVar[frozenset[str]] = QUESTION_ANSWERING
    inputs: ClassVar[tuple[str, str | None]] = ("passages", "answers")

    def score(self, prediction: Prediction) -> float | None:
        """Return 0 or 1; None where there is no accepted answer."""
        if not prediction.answers:
            return None
        return float(
            any(
                contains_answer(passage, answer)
                for passage in prediction.passages
                for answer in prediction.answers
            )
        )

"""Repetition within an answer."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from rag_experiments.contracts import Prediction
from rag_experiments.functional.text import list_ngrams, tokenize
from rag_experiments.metrics.base import QUESTION_ANSWERING, SUMMARIZATION, ExampleMetric


class Repetition(ExampleMetric):
    """1 - different n-grams / all n-grams of an answer; the larger, the more it repeats itself.

    seq-rep-n of Welleck et al. 2020, https://arxiv.org/abs/1908.04319
    """

    tasks: ClassVar[frozenset[str]] = QUESTION_ANSWERING | SUMMARIZATION
    inputs: ClassVar[tuple[str, str | None]] = ("prediction", None)
    greater_is_better: ClassVar[bool] = False

    n: Annotated[int, Field(ge=1)] = 2
    """Length of the n-grams in words."""

    @property
    def name(self) -> str:
        """E.g. repetition_2."""
        return f"repetition_{self.n}"

    def score(self, prediction: Prediction) -> float | None:
        """Return a number from 0 to 1.

        An answer too short for an n-gram repeats nothing: 0. Leaving it out would compare runs
        on different questions.
        """
        found = list_ngrams(tokenize(prediction.prediction), self.n)
        return 1 - len(set(found)) / len(found) if found else 0.0

"""Whether a question that is put again gets the same answer."""

from __future__ import annotations

from itertools import combinations
from typing import ClassVar, Literal

from rag_experiments.contracts import Prediction
from rag_experiments.functional.text import compute_overlap, tokenize
from rag_experiments.metrics.base import QUESTION_ANSWERING, YES_NO, ExampleMetric


class Consistency(ExampleMetric):
    """Mean agreement of all pairs of answers that a question got.

    It says nothing of whether answers are right: a model that always says the same is consistent.
    """

    inputs: ClassVar[tuple[str, str]]
    """Of the second field come the answers beside the prediction itself."""

    again: ClassVar[str]
    """How the question is put again, a key of the configuration's node `test`."""

    agreement: Literal["f1", "exact_match"] = "f1"
    """f1: token F1 of two answers; exact_match: 1 where their normalized texts are equal."""

    @property
    def name(self) -> str:
        """E.g. consistency_samples, consistency_samples_exact_match."""
        suffix = "" if self.agreement == "f1" else f"_{self.agreement}"
        return f"consistency_{self.again}{suffix}"

    def score(self, prediction: Prediction) -> float | None:
        """Return a number from 0 to 1; None where the question was put once."""
        texts = [prediction.prediction, *getattr(prediction, self.inputs[1])]
        pairs = list(combinations(map(tokenize, texts), 2))
        if not pairs:
            return None
        agree = compute_overlap if self.agreement == "f1" else _equal
        return sum(agree(a, b) for a, b in pairs) / len(pairs)


class SampleConsistency(Consistency):
    """Mean agreement of all pairs of a question's answers: the answer and `test.samples` more,
    drawn from the model at temperature 1.

    The spread of samples shows how sure a model is, as in Wang et al. 2022 and Manakul et al.
    2023 (https://arxiv.org/abs/2203.11171, https://arxiv.org/abs/2303.08896).
    """

    tasks: ClassVar[frozenset[str]] = QUESTION_ANSWERING  # labels are chosen, not drawn
    inputs: ClassVar[tuple[str, str]] = ("prediction", "samples")
    again: ClassVar[str] = "samples"


class RewordingConsistency(Consistency):
    """Mean agreement of all pairs of a question's answers: as it stands, and in other words that
    mean the same (`test.rewordings`), each with passages retrieved for it.

    Elazar et al. 2021, https://arxiv.org/abs/2102.01017
    """

    tasks: ClassVar[frozenset[str]] = QUESTION_ANSWERING | YES_NO
    inputs: ClassVar[tuple[str, str]] = ("prediction", "reworded_answers")
    again: ClassVar[str] = "rewordings"


def _equal(first: list[str], second: list[str]) -> float:
    return float(first == second)

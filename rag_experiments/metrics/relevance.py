"""Whether an answer speaks to its question, by its form."""

from __future__ import annotations

import re
from typing import ClassVar

from rag_experiments.contracts import Prediction
from rag_experiments.functional.questions import find_answer_kind, fits_kind
from rag_experiments.functional.sentences import content_words
from rag_experiments.metrics.base import QUESTION_ANSWERING, ExampleMetric

_REFUSAL = re.compile(
    r"\b(?:i|we) (?:do not|don't|cannot|can't|am not|'m not) (?:know|answer|sure|tell|find|say"
    r"|provide|determine)\b|\bi(?:'m| am) (?:sorry|unable|an ai)\b|\bno (?:answer|information)\b"
    r"|\b(?:is|are|was|were) not (?:mentioned|stated|given|specified|provided)\b"
    r"|\b(?:context|passages?|text) (?:does|do) not\b|^(?:unknown|unanswerable|n/a)\W*$",
    re.IGNORECASE,
)
_CHOICE = re.compile(r"\b(?:or|between)\b")


class Relevance(ExampleMetric):
    """1 where the answer has the form that its question asks for, else 0.

    An answer is irrelevant where it has no words, where it declines to answer, where every
    content word of it stands in the question already, or where its form is not the one that
    the question word asks for: a number for how many, a time for when, yes or no (or a
    statement with a word of the question) for a verb that leads. It reads English questions and
    does not look at what is true or meant: any name is relevant to a question that asks who, and
    of which and what only bare verdicts are refused.
    """

    name: ClassVar[str] = "relevance"
    tasks: ClassVar[frozenset[str]] = QUESTION_ANSWERING
    inputs: ClassVar[tuple[str, str | None]] = ("prediction", "question")

    def score(self, prediction: Prediction) -> float | None:
        """Return 0 or 1; None where the answer says that there is none."""
        if prediction.abstained:
            return None
        answer = prediction.prediction
        if _REFUSAL.search(answer):
            return 0.0
        kind = find_answer_kind(prediction.question)
        said, asked = set(content_words(answer)), set(content_words(prediction.question))
        if kind == "yes_no" and said & asked:
            return 1.0  # a statement about what was asked
        # A choice ("A or B?") is answered with words of the question.
        echo = bool(said) and said <= asked and not _CHOICE.search(prediction.question)
        return float(fits_kind(answer, kind) and not echo)

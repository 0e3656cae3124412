"""The test questions put again: more answers drawn, and the same question in other words."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from rag_experiments.contracts import Hit, Prediction, Question
from rag_experiments.functional.rewording import reword
from rag_experiments.pipeline import RagPipeline

log = logging.getLogger(__name__)


def add_samples(
    predictions: Sequence[Prediction],
    pipeline: RagPipeline,
    questions: Sequence[Question],
    hits: Sequence[Sequence[Hit]],
    count: int,
    seed: int,
) -> list[Prediction]:
    """Predictions with `count` more answers each, drawn at temperature 1 from the same hits."""
    drawn = pipeline.sample(questions, hits, count, seed, progress="sampled again, test")
    return [replace(p, samples=own) for p, own in zip(predictions, drawn, strict=True)]


def add_rewordings(
    predictions: Sequence[Prediction], pipeline: RagPipeline, questions: Sequence[Question]
) -> list[Prediction]:
    """Predictions with the answers to their questions in other words.

    Passages are retrieved anew for each rewording, as for any other question.
    """
    changed = [reword_question(question) for question in questions]
    asked = [question for own in changed for question in own]
    log.info(
        "rewordings: %d of %d questions; no rule matches %d of them",
        len(asked),
        len(questions),
        sum(not own for own in changed),
    )
    if not asked:
        return list(predictions)
    answered = iter(pipeline.predict(asked, progress="in other words, test"))
    return [
        replace(
            prediction,
            rewordings=tuple(question.question for question in own),
            reworded_answers=tuple(next(answered).prediction for _ in own),
        )
        for prediction, own in zip(predictions, changed, strict=True)
    ]


def reword_question(question: Question) -> list[Question]:
    """The question in other words, each with an id of its own."""
    return [
        replace(question, id=f"{question.id}#{number}", question=text)
        for number, text in enumerate(reword(question.question), start=1)
    ]

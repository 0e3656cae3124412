"""How well gold passages are retrieved, without anything being answered."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rag_experiments.contracts import Hit, Prediction, Question
from rag_experiments.metrics.all_recall import AllRecall
from rag_experiments.metrics.mrr import MRR
from rag_experiments.metrics.ndcg import NDCG
from rag_experiments.metrics.recall import Recall

METRICS = (Recall(), AllRecall(), MRR(), NDCG())


def score_retrieval(
    questions: Sequence[Question], hits: Sequence[Sequence[Hit]]
) -> dict[str, float]:
    """Metrics of the gold passages among hits; none where no question names a gold passage."""
    found = as_predictions(questions, hits)
    scores = {metric.name: metric.aggregate(found) for metric in METRICS}
    return {name: value for name, value in scores.items() if not math.isnan(value)}


def as_predictions(
    questions: Sequence[Question], hits: Sequence[Sequence[Hit]]
) -> list[Prediction]:
    """What metrics of retrieval read: questions with what was found for them, not answered."""
    return [
        Prediction(
            id=question.id,
            question=question.question,
            prediction="",
            answers=question.answers,
            passage_ids=tuple(hit.passage_id for hit in own),
            gold_passage_ids=question.passage_ids,
        )
        for question, own in zip(questions, hits, strict=True)
    ]

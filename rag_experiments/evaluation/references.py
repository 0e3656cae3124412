"""The two conditions that a run is read against: no passages, and the gold passages alone.

Both are answered by the run's own final model, so that a wrong answer can be put down to what
was retrieved or to how it was read.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from rag_experiments.contracts import Hit, Metric, Prediction, Question
from rag_experiments.functional.attribution import Gold
from rag_experiments.functional.ranking import softmax_log_prior
from rag_experiments.pipeline import RagPipeline
from rag_experiments.retriever.gold import Gold as GoldRetriever

log = logging.getLogger(__name__)

CLOSED_BOOK = "closed_book"
GOLD = "gold"


def predict_references(
    pipeline: RagPipeline,
    questions: Sequence[Question],
    own: Sequence[Prediction],
    gold: Mapping[str, Gold],
) -> dict[str, list[Prediction]]:
    """Answer questions in each condition; `own` is what the run itself answered to them.

    `gold` has the gold passages of each question, by its id.

    `closed_book` has every question; `gold` has those with a gold passage in the knowledge
    source, and is absent where there is none. p(z|x) over gold passages is uniform. A question
    that the run itself answered from the same passages keeps that answer.
    """
    found = {CLOSED_BOOK: answer(pipeline, questions, [[] for _ in questions], own, CLOSED_BOOK)}
    hits = order_gold(pipeline, own, gold)
    with_gold = [i for i, known in enumerate(hits) if known]
    if with_gold:
        found[GOLD] = answer(
            pipeline,
            [questions[i] for i in with_gold],
            [hits[i] for i in with_gold],
            [own[i] for i in with_gold],
            GOLD,
        )
    else:
        log.info("no gold passages are known: there is no reference condition with them")
    return found


def order_gold(
    pipeline: RagPipeline, own: Sequence[Prediction], gold: Mapping[str, Gold]
) -> list[list[Hit]]:
    """Gold passages of each question, with score 0.

    At most as many as the run retrieves; without retrieval, as many as `retriever=gold` reads
    unless told otherwise. Where there are more, those that the run retrieved come first: they
    are what it read among other passages.
    """
    top_k = pipeline.retriever.top_k or GoldRetriever().top_k
    hits = []
    for prediction in own:
        ranks = {passage_id: rank for rank, passage_id in enumerate(prediction.passage_ids)}
        ids = sorted(gold[prediction.id].passage_ids, key=lambda i: ranks.get(i, len(ranks)))
        hits.append([Hit(passage_id, 0.0) for passage_id in ids[:top_k]])
    return hits


def answer(
    pipeline: RagPipeline,
    questions: Sequence[Question],
    hits: Sequence[Sequence[Hit]],
    own: Sequence[Prediction],
    condition: str,
) -> list[Prediction]:
    """Answer questions from hits, but for those that `own` answers from the same passages."""
    known = {
        question.id: replace(prediction, retrieval_scores=tuple(hit.score for hit in found))
        for question, found, prediction in zip(questions, hits, own, strict=True)
        if reads_the_same(pipeline, found, prediction)
    }
    new = [i for i, question in enumerate(questions) if question.id not in known]
    if known:
        log.info(
            "%s: %d of %d questions were answered from the same passages by the run itself",
            condition,
            len(known),
            len(questions),
        )
    if new:
        answered = pipeline.predict(
            [questions[i] for i in new],
            [hits[i] for i in new],
            progress=f"{condition.replace('_', ' ')}, test",
        )
        known |= {prediction.id: prediction for prediction in answered}
    return [known[question.id] for question in questions]


def reads_the_same(pipeline: RagPipeline, hits: Sequence[Hit], prediction: Prediction) -> bool:
    """Whether a prediction was made from the passages of hits, in that order and p(z|x)."""
    if tuple(hit.passage_id for hit in hits) != prediction.passage_ids:
        return False
    log_prior = softmax_log_prior([hit.score for hit in hits], pipeline.temperature)
    return all(
        math.isclose(math.exp(value), known, abs_tol=1e-6)
        for value, known in zip(log_prior, prediction.prior, strict=True)
    )


def metrics_of_answers(metrics: Sequence[Metric]) -> list[Metric]:
    """Metrics without those of retrieval, which would say again which passages were put in, and
    of label scores, whose temperature was fitted to what is retrieved."""
    of_answers = ("prediction", "abstained")
    return [m for m in metrics if getattr(m, "inputs", of_answers)[0] in of_answers]

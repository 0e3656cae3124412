"""Fine-tuning that teaches the generator to read past what should not have been retrieved."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

from pydantic import Field

from rag_experiments.contracts import (
    Example,
    Passage,
    PreparedData,
    Retrieve,
    Training,
    TrainingResult,
    UserError,
)
from rag_experiments.trainer.gradient import GradientTrainer

log = logging.getLogger(__name__)


class Raft(GradientTrainer):
    """Supervised fine-tuning on a gold passage among distractors, some of the time without it.

    Zhang et al. 2024, https://arxiv.org/abs/2403.10131. The passages of a training question are
    one gold passage and retrieved ones that are not gold, in random order. They have no retrieval
    scores that could be compared, for a gold passage need not have been retrieved: p(z|x) over
    them is uniform. Validation and test questions keep the passages that are retrieved for them,
    and the p(z|x) of the retriever.
    """

    gold_share: Annotated[float, Field(ge=0, le=1)] = 0.8
    """Share of the training questions with a gold passage that have it in their prompt; the others
    have distractors alone, as do questions without an answer."""

    distractors: Annotated[int, Field(ge=1)] | None = None
    """Passages beside the gold one, at most; null: one fewer than retriever.top_k."""

    def data_problems(self, data: PreparedData) -> list[str]:
        """Say how many training questions have an answer, but no known gold passage."""
        without = [q.id for q in data.train if q.answers and not q.passage_ids]
        if not without:
            return []
        return [
            f"trainer.gold_share: {self.gold_share:g}, but {len(without)} of {len(data.train)} "
            f"training questions have no known gold passage (first: {without[0]!r}); give "
            "passage_ids, or choose trainer=supervised"
        ]

    def fit(self, training: Training) -> TrainingResult:
        """Train the model in place and leave it with its best weights."""
        seed = training.runtime.seed
        examples = self.distract(training.examples, training.retrieve, seed)
        if not any(map(_has_distractor, examples)):
            raise UserError(
                "trainer: Raft has no distractor for any training question, as the retriever finds "
                "gold passages alone; choose another retriever, e.g. retriever=bm25, or "
                "trainer=supervised"
            )
        return super().fit(replace(training, examples=examples))

    def distract(self, examples: Sequence[Example], retrieve: Retrieve, seed: int) -> list[Example]:
        """Examples with a gold passage among distractors, or with distractors alone.

        The gold passage is the best that was retrieved, or else the first of the question.
        """
        order = [i for i, example in enumerate(examples) if _find_gold(example)]
        draw = random.Random(seed)
        draw.shuffle(order)
        with_gold = set(order[: round(self.gold_share * len(order))])
        made = [
            self._mix(example, retrieve, draw, i in with_gold) for i, example in enumerate(examples)
        ]
        counts = [len(example.passages) - (i in with_gold) for i, example in enumerate(made)]
        log.info(
            "%d training questions with their gold passage, %d without it; %.2f distractors each",
            len(with_gold),
            len(made) - len(with_gold),
            sum(counts) / max(1, len(counts)),
        )
        return made

    def _mix(
        self, example: Example, retrieve: Retrieve, draw: random.Random, with_gold: bool
    ) -> Example:
        gold_ids = _find_gold(example)
        retrieved = [passage for passage in example.passages if passage.id in gold_ids]
        others = [passage for passage in example.passages if passage.id not in gold_ids]
        count = len(example.passages) - 1 if self.distractors is None else self.distractors
        passages: list[Passage] = others[: max(0, count)]
        if with_gold:
            passages.append(retrieved[0] if retrieved else retrieve.passage(gold_ids[0]))
        draw.shuffle(passages)
        log_prior = (-math.log(len(passages)),) * len(passages) if passages else ()
        return Example(example.question, tuple(passages), log_prior)


def _find_gold(example: Example) -> tuple[str, ...]:
    """Passages that answer the question; none does where there is no answer, whatever it names."""
    return example.question.passage_ids if example.question.answers else ()


def _has_distractor(example: Example) -> bool:
    gold_ids = _find_gold(example)
    return any(passage.id not in gold_ids for passage in example.passages)

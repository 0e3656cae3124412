"""The training loops of the query encoder alone."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from rag_experiments.contracts import Example, Question, Training
from rag_experiments.functional.ranking_loss import distillation_loss, info_nce
from rag_experiments.functional.text import contains_answer, is_label
from rag_experiments.trainer.contrastive import Contrastive
from rag_experiments.trainer.distill import Distill
from rag_experiments.trainer.loop import Loop

log = logging.getLogger(__name__)

FOLDER = "query_encoder"
"""Folder of a checkpoint with the weights."""


class QueryLoop(Loop):
    """Trains on lessons, made once before the first step; checkpoints hold what is trained."""

    def collate(self, lessons: Sequence[Any]) -> dict[str, Any]:
        return {"lessons": list(lessons)}

    def save_weights(self, folder: Path) -> None:
        self.training.model.query_encoder.save(folder / FOLDER)

    def load_weights(self, folder: Path) -> None:
        self.training.model.load_query_encoder(folder / FOLDER)


class Ranker(nn.Module):
    """The query encoder, with the vectors that passages have already."""

    def __init__(self, training: Training, temperature: float):
        super().__init__()
        self.network = training.model.query_network
        self.encoder = training.model.query_encoder
        self.passage_vectors = training.retrieve.passage_vectors
        self.temperature = temperature

    def score(self, questions: Sequence[Question], passage_ids: Sequence[str]) -> Tensor:
        """Inner products / temperature [questions, passages], with gradient."""
        queries = self.encoder.forward_texts([question.query for question in questions])
        passages = torch.as_tensor(self.passage_vectors(passage_ids), device=queries.device)
        return queries @ passages.T / self.temperature


@dataclass(frozen=True)
class Contrast:
    """A question with gold passages, and passages that seem right to the retriever but are not."""

    question: Question
    negatives: tuple[str, ...]


class ContrastiveModel(Ranker):
    """Ranks all passages of a batch for each of its questions."""

    def forward(self, lessons: Sequence[Contrast]) -> dict[str, Tensor]:
        """The contrastive loss of a batch: {"loss": []}."""
        own = [(*lesson.question.passage_ids, *lesson.negatives) for lesson in lessons]
        candidates = list(dict.fromkeys(passage_id for ids in own for passage_id in ids))
        scores = self.score([lesson.question for lesson in lessons], candidates)
        gold = [[c in lesson.question.passage_ids for c in candidates] for lesson in lessons]
        return {"loss": info_nce(scores, torch.tensor(gold, device=scores.device))}


class ContrastiveLoop(QueryLoop):
    """Trains on gold passages against those of the batch and those mined beforehand."""

    def module(self, training: Training) -> ContrastiveModel:
        return ContrastiveModel(training, cast(Contrastive, self.option).temperature)

    def items(self) -> list[Contrast]:
        option = cast(Contrastive, self.option)
        asked = [example.question for example in self.training.examples]
        questions = [question for question in asked if question.passage_ids]
        if len(questions) < len(asked):
            log.warning(
                "%d of %d training questions name no gold passage and are left out",
                len(asked) - len(questions),
                len(asked),
            )
        if not option.hard_negatives:
            return [Contrast(question, ()) for question in questions]
        found = self.training.retrieve.examples(questions, top_k=option.mining_depth)
        lessons = [
            Contrast(example.question, mine(example)[: option.hard_negatives]) for example in found
        ]
        log.info(
            "mined %.1f hard negatives a question, of %d asked for",
            sum(len(lesson.negatives) for lesson in lessons) / len(lessons),
            option.hard_negatives,
        )
        return lessons


def mine(example: Example) -> tuple[str, ...]:
    """Passages of an example that are neither gold nor contain an accepted answer, in order."""
    question = example.question
    # A label such as "yes" stands in most passages, and makes none of them right.
    answers = [answer for answer in question.answers if not is_label(answer)]
    return tuple(
        passage.id
        for passage in example.passages
        if passage.id not in question.passage_ids
        and not any(contains_answer(f"{passage.title}\n{passage.text}", a) for a in answers)
    )


@dataclass(frozen=True)
class Weighed:
    """A question, and how much each of its passages has to do with the answer; sums to one."""

    question: Question
    passage_ids: tuple[str, ...]
    weights: tuple[float, ...]


class DistillModel(Ranker):
    """Ranks the passages of each question for itself."""

    def forward(self, lessons: Sequence[Weighed]) -> dict[str, Tensor]:
        """The divergence of a batch from the generator's weights: {"loss": []}."""
        candidates = list(dict.fromkeys(c for lesson in lessons for c in lesson.passage_ids))
        scores = self.score([lesson.question for lesson in lessons], candidates)
        weights = [dict(zip(x.passage_ids, x.weights, strict=True)) for x in lessons]
        there = torch.tensor([[c in own for c in candidates] for own in weights])
        teacher = torch.tensor([[own.get(c, 0.0) for c in candidates] for own in weights])
        scores = scores.masked_fill(~there.to(scores.device), -torch.inf)
        return {"loss": distillation_loss(scores, teacher.to(scores.device))}


class DistillLoop(QueryLoop):
    """Trains on passages that the generator has weighed beforehand."""

    def module(self, training: Training) -> DistillModel:
        return DistillModel(training, cast(Distill, self.option).temperature)

    def items(self) -> list[Weighed]:
        option, training = cast(Distill, self.option), self.training
        asked = [example.question for example in training.examples]
        questions = [question for question in asked if question.answers]
        if len(questions) < len(asked):
            log.warning(
                "%d of %d training questions have no answer that passages could make likely, and "
                "are left out",
                len(asked) - len(questions),
                len(asked),
            )
        found = training.retrieve.examples(questions, top_k=option.passages)
        several = [example for example in found if len(example.passages) > 1]
        if len(several) < len(found):
            log.warning(
                "%d of %d training questions have no two passages to weigh and are left out",
                len(found) - len(several),
                len(found),
            )
        equal = [replace(e, log_prior=_uniform(len(e.passages))) for e in several]
        weights = training.model.weigh(
            equal, temperature=option.teacher_temperature, progress="weighing passages"
        )
        return [
            Weighed(example.question, tuple(p.id for p in example.passages), own)
            for example, own in zip(several, weights, strict=True)
        ]


def _uniform(count: int) -> tuple[float, ...]:
    return (-math.log(count),) * count

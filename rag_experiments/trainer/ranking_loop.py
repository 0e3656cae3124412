"""The training loops of what ranks passages: the query encoder alone, or the reranker."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from rag_experiments.contracts import Example, Question, Training, UserError
from rag_experiments.functional.ranking_loss import distillation_loss, info_nce
from rag_experiments.functional.text import contains_answer, drop_labels
from rag_experiments.trainer.distill import Distill
from rag_experiments.trainer.loop import Loop
from rag_experiments.trainer.mining import MiningTrainer
from rag_experiments.trainer.ranking import RankingTrainer

log = logging.getLogger(__name__)


class RankingLoop(Loop):
    """Trains on lessons, made once before the first step; checkpoints hold what is trained."""

    @property
    def trained(self) -> Any:
        """What is trained; it has `save(folder)` and `load_weights(folder)`."""
        return self.training.model.query_encoder

    def collate(self, lessons: Sequence[Any]) -> dict[str, Any]:
        return {"lessons": list(lessons)}

    def save_weights(self, folder: Path) -> None:
        self.trained.save(self._place(folder))

    def load_weights(self, folder: Path) -> None:
        self.trained.load_weights(self._place(folder))

    def temperature(self, cosines: bool) -> float:
        """What scores are divided by; `cosines`: they lie between -1 and 1."""
        temperature = cast(RankingTrainer, self.option).temperature
        if temperature is None:
            temperature = 0.05 if cosines else 1.0
            log.info("temperature in training: %g", temperature)
        return temperature

    def _place(self, folder: Path) -> Path:
        (part,) = self.option.trains
        return folder / part


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
        with torch.autocast(queries.device.type, enabled=False):  # 16 bits would even scores out
            return queries @ passages.T / self.temperature


# --- Gold passages against others -------------------------------------------------------------


@dataclass(frozen=True)
class Contrast:
    """A question with gold passages, and passages that seem right to the retriever but are not."""

    question: Question
    negatives: tuple[str, ...]

    @property
    def candidates(self) -> tuple[str, ...]:
        """Its gold passages, and then its negatives."""
        return (*self.question.passage_ids, *self.negatives)


class MiningLoop(RankingLoop):
    """Trains on gold passages against others, some of them mined beforehand."""

    def items(self) -> list[Contrast]:
        option = cast(MiningTrainer, self.option)
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
        labels = self.training.model.prompts.task.labels
        mined = [mine(example, labels) for example in self.search(questions, option.mining_depth)]
        lessons = [
            Contrast(question, negatives)
            for question, negatives in zip(
                questions, self.choose(mined, option.hard_negatives), strict=True
            )
        ]
        log.info(
            "mined %.1f hard negatives a question, of %d asked for",
            sum(len(lesson.negatives) for lesson in lessons) / len(lessons),
            option.hard_negatives,
        )
        return lessons

    def search(self, questions: Sequence[Question], depth: int) -> list[Example]:
        """Questions with the first hits that negatives are mined from."""
        return self.training.retrieve.examples(questions, top_k=depth)

    def choose(self, mined: Sequence[tuple[str, ...]], count: int) -> list[tuple[str, ...]]:
        """At most `count` of the negatives that were mined for each question."""
        return [negatives[:count] for negatives in mined]


def mine(example: Example, labels: Sequence[str] = ()) -> tuple[str, ...]:
    """Passages of an example that are neither gold nor contain an accepted answer, in order.

    `labels` are the task's: answers are labels then, and none of them is looked for.
    """
    question = example.question
    answers = drop_labels(question.answers, labels)
    return tuple(
        passage.id
        for passage in example.passages
        if passage.id not in question.passage_ids
        and not any(contains_answer(f"{passage.title}\n{passage.text}", a) for a in answers)
    )


class ContrastiveModel(Ranker):
    """Ranks all passages of a batch for each of its questions."""

    def forward(self, lessons: Sequence[Contrast]) -> dict[str, Tensor]:
        """The contrastive loss of a batch: {"loss": []}."""
        candidates = list(dict.fromkeys(name for lesson in lessons for name in lesson.candidates))
        scores = self.score([lesson.question for lesson in lessons], candidates)
        gold = [[c in lesson.question.passage_ids for c in candidates] for lesson in lessons]
        return {"loss": info_nce(scores, torch.tensor(gold, device=scores.device))}


class ContrastiveLoop(MiningLoop):
    """Trains the query encoder, with all passages of a batch as candidates."""

    def module(self, training: Training) -> ContrastiveModel:
        cosines = training.model.query_encoder.normalize
        return ContrastiveModel(training, self.temperature(cosines))


class RerankerModel(nn.Module):
    """Scores the candidates of each question for itself."""

    def __init__(self, reranking: Any, temperature: float):
        super().__init__()
        self.network = reranking.rescorer.network
        self.reranking = reranking
        self.temperature = temperature

    def forward(self, lessons: Sequence[Contrast]) -> dict[str, Tensor]:
        """The mean over questions of the contrastive loss among their candidates: {"loss": []}."""
        pairs = [(lesson.question, name) for lesson in lessons for name in lesson.candidates]
        questions, passage_ids = zip(*pairs, strict=True)
        scores = self.reranking.forward_pairs(questions, passage_ids) / self.temperature
        losses = []
        own_scores = scores.split([len(lesson.candidates) for lesson in lessons])
        for lesson, own in zip(lessons, own_scores, strict=True):
            gold = torch.arange(len(own), device=own.device) < len(lesson.question.passage_ids)
            losses.append(info_nce(own[None], gold[None]))
        return {"loss": torch.stack(losses).mean()}


class RerankerLoop(MiningLoop):
    """Trains the reranker, with each question's own passages as candidates."""

    @property
    def trained(self) -> Any:
        return self.training.retrieve.reranking.rescorer

    def module(self, training: Training) -> RerankerModel:
        reranking = training.retrieve.reranking
        reranking.rescorer.thaw()
        return RerankerModel(reranking, self.temperature(reranking.rescorer.cosines))

    def items(self) -> list[Contrast]:
        option = cast(MiningTrainer, self.option)
        lessons = super().items()
        telling = [lesson for lesson in lessons if lesson.negatives]
        if not telling:
            raise UserError(
                f"trainer.mining_depth: {option.mining_depth}, but each of the first hits of the "
                "training questions is gold or contains an accepted answer, so there is nothing "
                "to tell gold passages from; give more, or use trainer=supervised"
            )
        if len(telling) < len(lessons):
            log.warning(
                "%d of %d training questions have no hard negative and are left out",
                len(lessons) - len(telling),
                len(lessons),
            )
        # Each is read with the question: dozens, as where answers stand in for gold passages, would
        # not fit into memory.
        golds = self.choose([x.question.passage_ids for x in telling], option.hard_negatives)
        return [
            replace(lesson, question=replace(lesson.question, passage_ids=gold))
            for lesson, gold in zip(telling, golds, strict=True)
        ]

    def search(self, questions: Sequence[Question], depth: int) -> list[Example]:
        return self.training.retrieve.candidates(questions, depth)

    def choose(self, mined: Sequence[tuple[str, ...]], count: int) -> list[tuple[str, ...]]:
        # Of any rank: in use, the reranker is given the last of the hits as well as the first.
        draw = random.Random(self.training.runtime.seed)
        return [tuple(draw.sample(names, min(count, len(names)))) for names in mined]


# --- The generator's judgement ----------------------------------------------------------------


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


class DistillLoop(RankingLoop):
    """Trains on passages that the generator has weighed beforehand."""

    def module(self, training: Training) -> DistillModel:
        cosines = training.model.query_encoder.normalize
        return DistillModel(training, self.temperature(cosines))

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
        weights = training.weigh(equal, option.teacher_temperature, "weighing passages")
        return [
            Weighed(example.question, tuple(p.id for p in example.passages), own)
            for example, own in zip(several, weights, strict=True)
        ]


def _uniform(count: int) -> tuple[float, ...]:
    return (-math.log(count),) * count

"""Fine-tuning of the query encoder on gold passages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, model_validator

from rag_experiments.contracts import PreparedData
from rag_experiments.trainer.query import QueryTrainer

if TYPE_CHECKING:
    from rag_experiments.trainer.loop import Loop


class Contrastive(QueryTrainer):
    """Bring questions nearer to their gold passages than to others (InfoNCE).

    The others are the gold passages of the rest of the batch and hard negatives: those that the
    untrained retriever ranks first although they are neither gold nor contain an accepted answer
    (Karpukhin et al., EMNLP 2020). A passage counts once in a batch, and never as a negative of a
    question that it is gold for.
    """

    hard_negatives: Annotated[int, Field(ge=0)] = 4
    """Hard negatives of each question; 0: the batch alone."""
    mining_depth: Annotated[int, Field(ge=1)] = 30
    """First hits of the retriever that hard negatives are taken from."""

    @model_validator(mode="after")
    def _check_negatives(self) -> Contrastive:
        if self.hard_negatives == 0 and self.per_device_train_batch_size == 1:
            raise ValueError(
                "hard_negatives: 0, but a batch of one question has no other negatives; give at "
                "least 1, or a larger per_device_train_batch_size"
            )
        if self.mining_depth < self.hard_negatives:
            raise ValueError(
                f"mining_depth: {self.mining_depth} is less than hard_negatives "
                f"{self.hard_negatives}; legal: at least {self.hard_negatives}"
            )
        return self

    def data_problems(self, data: PreparedData) -> list[str]:
        """What a training lacks in the data, one line each."""
        if data.train and not any(question.passage_ids for question in data.train):
            return [
                "trainer: Contrastive learns from gold passages, but no training question names "
                "one (passage_ids); give some, or use trainer=distill"
            ]
        return super().data_problems(data)

    def _loop(self) -> type[Loop]:
        from rag_experiments.trainer.query_loop import ContrastiveLoop

        return ContrastiveLoop

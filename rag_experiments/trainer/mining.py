"""Settings of the trainers on gold passages against hard negatives."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, model_validator
from typing_extensions import Self

from rag_experiments.contracts import PreparedData
from rag_experiments.trainer.ranking import RankingTrainer


class MiningTrainer(RankingTrainer):
    """Base of the trainers that set gold passages against hits that are wrong.

    A hard negative is a hit of the untrained retriever that is neither gold nor contains an
    accepted answer (Karpukhin et al., EMNLP 2020).
    """

    without_gold: ClassVar[str] = "trainer=supervised"
    """What can be chosen where no gold passages are known."""

    hard_negatives: Annotated[int, Field(ge=0)] = 4
    """Hard negatives of each question; 0: the batch alone."""
    mining_depth: Annotated[int, Field(ge=1)] = 30
    """First hits of the retriever that hard negatives are taken from."""

    @model_validator(mode="after")
    def _check_depth(self) -> Self:
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
                f"trainer: {type(self).__name__} learns from gold passages, but no training "
                f"question names one (passage_ids); give some, or use {self.without_gold}"
            ]
        return super().data_problems(data)

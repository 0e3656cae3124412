"""Settings that trainers of what ranks passages share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from rag_experiments.contracts import Part, PreparedData, Question
from rag_experiments.trainer.gradient import GradientTrainer


class RankingTrainer(GradientTrainer):
    """Base of the trainers that leave the generator, the passage vectors and the index as they are.

    What is trained, the query encoder or a reranker, ranks passages: so it is validated by how it
    ranks those that are gold, and no question is answered meanwhile.
    """

    trains: ClassVar[frozenset[Part]] = frozenset({"query_encoder"})
    weighs_passages: ClassVar[bool] = False

    learning_rate: Annotated[float, Field(gt=0)] = 2e-5
    """Highest learning rate of AdamW; what is trained is trained whole."""
    num_train_epochs: Annotated[float, Field(gt=0)] = 5.0
    """Passes over the training questions."""
    per_device_train_batch_size: Annotated[int, Field(ge=1)] = 32
    """Questions in a batch."""
    temperature: Annotated[float, Field(gt=0)] | None = None
    """What scores are divided by, in training alone: that of p(z|x) is fitted again afterwards.
    null: 0.05 for inner products of vectors of length one, 1 for other scores."""
    objective: Literal["mrr", "ndcg", "recall", "all_recall"] = "mrr"
    """Metric of gold passages among `retriever.top_k` that the best checkpoint is chosen by."""

    def data_problems(self, data: PreparedData) -> list[str]:
        """What a training lacks in the data, one line each."""
        if self.eval_strategy == "no" or not data.validation or _has_gold(data.validation):
            return []
        return [
            f"trainer.objective: {self.objective!r} needs gold passages, but no validation "
            "question names one (passage_ids); give some, or trainer.eval_strategy=no"
        ]


def _has_gold(questions: Sequence[Question]) -> bool:
    return any(question.passage_ids for question in questions)

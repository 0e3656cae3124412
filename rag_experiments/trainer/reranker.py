"""Fine-tuning of the reranker on gold passages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from rag_experiments.contracts import Part
from rag_experiments.trainer.mining import MiningTrainer

if TYPE_CHECKING:
    from rag_experiments.trainer.loop import Loop


class Reranker(MiningTrainer):
    """Score the gold passages of a question higher than other hits of the first retriever.

    A softmax cross-entropy over the question's own candidates, a gold passage and hard negatives
    drawn from what the reranker is given to rescore (localized contrastive estimation; Gao, Dai
    and Callan, ECIR 2021). The first retriever stays as it is.
    """

    trains: ClassVar[frozenset[Part]] = frozenset({"reranker"})

    per_device_train_batch_size: Annotated[int, Field(ge=1)] = 8
    """Questions in a batch; each brings its gold passages and its hard negatives."""
    hard_negatives: Annotated[int, Field(ge=1)] = 7
    """Hard negatives of each question, and gold passages at most, drawn once with the seed."""
    mining_depth: Annotated[int, Field(ge=1)] = 20
    """First hits of the first retriever that hard negatives are drawn from; about
    `retriever.rerank_depth`, the hits that are rescored in use."""

    def _loop(self) -> type[Loop]:
        from rag_experiments.trainer.ranking_loop import RerankerLoop

        return RerankerLoop

"""Fine-tuning of the query encoder on gold passages."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import model_validator

from rag_experiments.trainer.mining import MiningTrainer

if TYPE_CHECKING:
    from rag_experiments.trainer.loop import Loop


class Contrastive(MiningTrainer):
    """Bring questions nearer to their gold passages than to others (InfoNCE).

    The others are the gold passages of the rest of the batch and the hard negatives that the
    untrained retriever ranks first. A passage counts once in a batch, and never as a negative of a
    question that it is gold for.
    """

    without_gold: ClassVar[str] = "trainer=distill"

    @model_validator(mode="after")
    def _check_negatives(self) -> Contrastive:
        if self.hard_negatives == 0 and self.per_device_train_batch_size == 1:
            raise ValueError(
                "hard_negatives: 0, but a batch of one question has no other negatives; give at "
                "least 1, or a larger per_device_train_batch_size"
            )
        return self

    def _loop(self) -> type[Loop]:
        from rag_experiments.trainer.ranking_loop import ContrastiveLoop

        return ContrastiveLoop

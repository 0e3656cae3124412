"""Fine-tuning of the query encoder on what the generator makes of passages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from rag_experiments.contracts import PreparedData
from rag_experiments.trainer.ranking import RankingTrainer

if TYPE_CHECKING:
    from rag_experiments.trainer.loop import Loop


class Distill(RankingTrainer):
    """Bring p(z|x) near to p(z|x,y), the share of each passage in the right answer.

    The first `passages` hits of the untrained retriever are weighed once by the generator, which
    stays as it is, and the query encoder minimizes KL(weights || p(z|x)) (perplexity distillation
    of ATLAS, Izacard et al. 2022; the divergence of REPLUG, Shi et al. 2023, is the other way
    round). Weighed with equal p(z|x), so that the generator alone judges: with the retriever's
    own, it would be what trainer=joint maximizes. The weights of model=rag_sequence are those of
    whole answers; of model=rag_token the mean of its tokens', which is less sharp. Needs answers
    and no gold passages; those serve to choose the best checkpoint.
    """

    weighs_passages: ClassVar[bool] = True

    passages: Annotated[int, Field(ge=2)] = 8
    """Passages of a question that are weighed."""
    teacher_temperature: Annotated[float, Field(gt=0)] = 1.0
    """What log-probabilities of the answer are divided by: the larger, the more equal weights."""

    def data_problems(self, data: PreparedData) -> list[str]:
        """What a training lacks in the data, one line each."""
        if data.train and not any(question.answers for question in data.train):
            return [
                "trainer: Distill learns from what makes answers likely, but no training question "
                "has one; give some, or use trainer=contrastive"
            ]
        return super().data_problems(data)

    def _loop(self) -> type[Loop]:
        from rag_experiments.trainer.ranking_loop import DistillLoop

        return DistillLoop

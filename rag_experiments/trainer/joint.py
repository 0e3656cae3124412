"""Fine-tuning of generator and query encoder through the marginal likelihood."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from rag_experiments.contracts import Part
from rag_experiments.trainer.gradient import GradientTrainer

if TYPE_CHECKING:
    from rag_experiments.trainer.loop import Loop


class Joint(GradientTrainer):
    """Maximise log p(y|x) over the generator and, through p(z|x), over the query encoder.

    Every batch is searched with the query encoder as it is then; the passage encoder and its
    index stay fixed (Lewis et al. 2020, section 2.4).
    """

    trains: ClassVar[frozenset[Part]] = frozenset({"generator", "query_encoder"})

    query_learning_rate: Annotated[float, Field(gt=0)] = 2e-5
    """Highest learning rate of the query encoder; it is trained whole."""

    def _loop(self) -> type[Loop]:
        from rag_experiments.trainer.loop import JointLoop

        return JointLoop

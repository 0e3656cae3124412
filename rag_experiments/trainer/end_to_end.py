"""Fine-tuning of generator, query encoder and passage encoder through the marginal likelihood."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from rag_experiments.contracts import Part
from rag_experiments.trainer.joint import Joint

if TYPE_CHECKING:
    from rag_experiments.trainer.loop import Loop


class EndToEnd(Joint):
    """Maximise log p(y|x) over the generator and, through p(z|x), over both encoders.

    Every batch is searched with the query encoder as it is then, in an index of vectors that the
    passage encoder made some steps ago; what is found is encoded anew, so that p(z|x) is that of
    the passage encoder as it is, and the gradient reaches it (REALM, Guu et al., ICML 2020;
    RAG-end2end, Siriwardhana et al., TACL 2023). From time to time, all passages are embedded anew.
    The encoders are trained apart, also where they begin with the same weights.

    Each refresh of the index logs, on `SAMPLE` training questions, how much it was needed:
    `train/staleness`, 1 - cos(vector before, vector after), the mean over the passages found
    before, and `train/hits_changed`, the share of the passages found after that were not found
    before.
    """

    trains: ClassVar[frozenset[Part]] = frozenset({"generator", "query_encoder", "passage_encoder"})

    passage_learning_rate: Annotated[float, Field(gt=0)] = 2e-5
    """Highest learning rate of the passage encoder; it is trained whole."""
    refresh_steps: Annotated[int, Field(ge=1)] | None = None
    """Optimizer steps after which all passages are embedded and indexed anew; null: an epoch. It
    also happens before each validation and at the end, so that no vectors are evaluated, or saved,
    but those of the passage encoder as it is then."""

    def _loop(self) -> type[Loop]:
        from rag_experiments.trainer.end_to_end_loop import EndToEndLoop

        return EndToEndLoop

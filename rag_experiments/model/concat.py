"""All passages in one prompt: what is usually done with prompted language models."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from rag_experiments.model.rag import Rag

if TYPE_CHECKING:
    from rag_experiments.model.rag_model import RagModel


class Concat(Rag):
    """p(y|x) = prod_t p(y_t|x, z_1..z_n, y_<t)."""

    one_prompt: ClassVar[bool] = True
    marginalizes: ClassVar[bool] = False

    def _network(self) -> type[RagModel]:
        from rag_experiments.model.marginalization import ConcatModel

        return ConcatModel

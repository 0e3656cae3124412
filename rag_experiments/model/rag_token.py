"""RAG-Token (Lewis et al. 2020): each token of the answer may come from another passage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rag_experiments.model.rag import Rag

if TYPE_CHECKING:
    from rag_experiments.model.rag_model import RagModel


class RagToken(Rag):
    """p(y|x) = prod_t sum_z p(z|x) p(y_t|x,z,y_<t)."""

    def _network(self) -> type[RagModel]:
        from rag_experiments.model.marginalization import RagTokenModel

        return RagTokenModel

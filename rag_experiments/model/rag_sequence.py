"""RAG-Sequence (Lewis et al. 2020): one passage stands behind the whole answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from rag_experiments.model.rag import Rag

if TYPE_CHECKING:
    from rag_experiments.model.rag_model import RagModel


class RagSequence(Rag):
    """p(y|x) = sum_z p(z|x) prod_t p(y_t|x,z,y_<t)."""

    candidates: Literal["thorough", "fast"] = "thorough"
    """`thorough` scores every candidate answer under every passage; `fast` only under the
    passages that it was decoded from."""

    def _network(self) -> type[RagModel]:
        from rag_experiments.model.marginalization import RagSequenceModel

        return RagSequenceModel

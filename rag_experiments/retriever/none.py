"""No retrieval: the closed-book baseline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, field_validator

from rag_experiments.contracts import Hit, Question, Runtime, Searcher
from rag_experiments.retriever.base import BaseRetriever

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset


class NoRetriever(BaseRetriever):
    """The model sees no passage (lower bound of what retrieval adds)."""

    top_k: Annotated[int, Field(ge=0)] = 0
    """Has no effect, and is 0 whatever is given: accepted so that sweeps over top_k run."""

    @field_validator("top_k")
    @classmethod
    def _is_none(cls, value: int) -> int:
        return 0  # so that no prompt keeps room for passages

    def data_problems(self, passage_count: int) -> list[str]:
        """None: any knowledge source will do."""
        return []

    def build(self, passages: Dataset, runtime: Runtime) -> Searcher:
        """A searcher that finds nothing."""
        return NothingSearcher()

    def load(self, folder: Path, passages: Dataset, runtime: Runtime) -> Searcher:
        """A searcher that finds nothing; nothing was saved."""
        return NothingSearcher()


class NothingSearcher:
    """Searcher that finds nothing."""

    def search(
        self, questions: Sequence[Question], top_k: int, query_vectors: np.ndarray | None = None
    ) -> list[list[Hit]]:
        """No hits for each question."""
        return [[] for _ in questions]

    def save(self, folder: Path) -> None:
        """Make the folder, so that all retrievers leave one."""
        folder.mkdir(parents=True, exist_ok=True)

"""The beginning of a document: what a summary needs no retrieval for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rag_experiments.contracts import Hit, Question, Runtime, Searcher
from rag_experiments.retriever.base import BaseRetriever

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset


class Lead(BaseRetriever):
    """Each document's first passages, all with the same score: the baseline of retrieval within
    a document. Papers say what they are about at their beginning, so it is a strong one."""

    def question_problems(self, questions: Sequence[Question], runtime: Runtime) -> list[str]:
        """Say so where there is no document to begin."""
        others = [question.id for question in questions if not question.within]
        if not others:
            return []
        return [
            f"lead: {len(others)} of {len(questions)} questions (first: {others[0]!r}) are not "
            "read through passages of a document of their own; legal: task=summarization with "
            "data.scope=document, or another retriever"
        ]

    def build(self, passages: Dataset, runtime: Runtime) -> Searcher:
        """Searcher of the first passages of each document."""
        return LeadSearcher(passages)

    def load(self, folder: Path, passages: Dataset, runtime: Runtime) -> Searcher:
        """Searcher of the first passages of each document; nothing was saved."""
        return LeadSearcher(passages)


class LeadSearcher:
    """Searcher that returns the beginning of the document that a question names."""

    def __init__(self, passages: Dataset):
        from rag_experiments.retriever.documents import DocumentRows
        from rag_experiments.retriever.passage_rows import PassageRows

        self.rows = PassageRows(passages)
        self.documents = DocumentRows(passages)

    def search(
        self, questions: Sequence[Question], top_k: int, query_vectors: np.ndarray | None = None
    ) -> list[list[Hit]]:
        """The first `top_k` passages of each document, with score 0: p(z|x) is uniform."""
        found = []
        for question in questions:
            rows = self.documents.within(question)
            names = [] if rows is None else self.rows.name(rows[:top_k])
            found.append([Hit(name, 0.0) for name in names])
        return found

    def save(self, folder: Path) -> None:
        """Make the folder, so that all retrievers leave one."""
        folder.mkdir(parents=True, exist_ok=True)

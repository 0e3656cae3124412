"""The gold passages themselves: the upper bound of retrieval."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rag_experiments.contracts import Hit, Question, Runtime, Searcher
from rag_experiments.retriever.base import BaseRetriever

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset

log = logging.getLogger(__name__)


class Gold(BaseRetriever):
    """Each question gets its gold passages, all with the same score (oracle)."""

    def build(self, passages: Dataset, runtime: Runtime) -> Searcher:
        """Searcher of the gold passages that are among `passages`."""
        return GoldSearcher(passages)

    def load(self, folder: Path, passages: Dataset, runtime: Runtime) -> Searcher:
        """Searcher of the gold passages; they come with the questions, nothing was saved."""
        return GoldSearcher(passages)

    def question_problems(self, questions: Sequence[Question], runtime: Runtime) -> list[str]:
        """Say so where no question names a passage."""
        if any(question.passage_ids for question in questions):
            return []
        return [
            "gold: no question has passage_ids, and no answer stands in a passage; give gold "
            "passages, or choose another retriever"
        ]


class GoldSearcher:
    """Searcher that returns the passages that a question names."""

    def __init__(self, passages: Dataset):
        from rag_experiments.retriever.passage_rows import PassageRows

        self.rows = PassageRows(passages)

    def search(
        self, questions: Sequence[Question], top_k: int, query_vectors: np.ndarray | None = None
    ) -> list[list[Hit]]:
        """The first `top_k` gold passages of each question, with score 0: p(z|x) is uniform."""
        found, missing, cut, without = [], 0, 0, 0
        for question in questions:
            named = list(dict.fromkeys(question.passage_ids))
            known = [passage_id for passage_id in named if passage_id in self.rows]
            missing += len(named) - len(known)
            cut += max(0, len(known) - top_k)
            without += not known
            found.append([Hit(passage_id, 0.0) for passage_id in known[:top_k]])
        if missing or cut or without:
            log.info(
                "gold passages: %d of %d questions have none, %d named passages are not in the "
                "knowledge source, %d are beyond top_k %d",
                without,
                len(questions),
                missing,
                cut,
                top_k,
            )
        return found

    def save(self, folder: Path) -> None:
        """Make the folder, so that all retrievers leave one."""
        folder.mkdir(parents=True, exist_ok=True)

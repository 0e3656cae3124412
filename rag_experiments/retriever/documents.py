"""Which passages a question may retrieve, where it names a document."""

from __future__ import annotations

from collections import defaultdict
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from rag_experiments.contracts import Question

if TYPE_CHECKING:
    from datasets import Dataset

_NONE = np.array([], dtype=np.int64)


class DocumentRows:
    """Rows of a knowledge source by document, in the document's order.

    They are looked up when the first question names a document: most name none.
    """

    def __init__(self, passages: Dataset):
        self.passages = passages

    def within(self, question: Question) -> np.ndarray | None:
        """Rows `[n]` of the only document that may be searched; None: all may."""
        return self._rows.get(question.within, _NONE) if question.within else None

    def without(self, question: Question) -> np.ndarray:
        """Rows `[n]` of the document that may not be searched; none where all may."""
        return self._rows.get(question.without, _NONE) if question.without else _NONE

    @cached_property
    def _rows(self) -> dict[str, np.ndarray]:
        rows: dict[str, list[int]] = defaultdict(list)
        for row, document_id in enumerate(self.passages["document_id"]):
            rows[document_id].append(row)
        return {name: np.array(found) for name, found in rows.items()}

"""Documents as short passages that questions are drafted from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rag_experiments.contracts import Passage, Question
from rag_experiments.data import chunking
from rag_experiments.data.preparation import Chunk, normalize, normalize_long
from rag_experiments.data.problems import Problems
from rag_experiments.data.source import read_knowledge_source
from rag_experiments.functional.sentences import find_sentences
from rag_experiments.store.scratch import scratch_dir

SENTENCES = 5
"""Of a passage; longer paragraphs are cut."""


@dataclass(frozen=True)
class Passages:
    """Paragraphs of documents, with a search among them."""

    passages: tuple[Passage, ...]
    """`id` is that of the document: a run chunks it in its own way."""
    notes: tuple[str, ...]
    """What was not read."""

    def finds(self, questions: Sequence[str], rows: Sequence[int], top_k: int) -> list[bool]:
        """Whether BM25 has the passage of each question among its first `top_k`.

        `rows` are the places of the passages that the questions were drafted from.
        """
        from datasets import Dataset

        from rag_experiments.retriever.bm25 import BM25
        from rag_experiments.retriever.bm25_search import BM25Searcher

        if not questions:
            return []
        ids = [str(row) for row in range(len(self.passages))]
        columns = {
            "id": ids,
            "title": [passage.title for passage in self.passages],
            "text": [passage.text for passage in self.passages],
            "document_id": ids,
        }
        kind = BM25()
        searcher = BM25Searcher.build(
            Dataset.from_dict(columns), kind.k1, kind.b, kind.method, kind.stopwords
        )
        asked = [Question(str(i), question) for i, question in enumerate(questions)]
        hits = searcher.search(asked, top_k)
        return [
            any(hit.passage_id == ids[row] for hit in found)
            for row, found in zip(rows, hits, strict=True)
        ]


def read_passages(source: Path) -> Passages:
    """Read a folder of documents, or passages in a file, and part them into paragraphs.

    Raises UserError with everything that cannot be read.
    """
    problems = Problems()
    read = read_knowledge_source(source, problems, scratch_dir())
    problems.raise_if_any()
    passages = [
        Passage(document.id, normalize(document.title), piece)
        for document in read.passages
        for piece in _part(document.text)
    ]
    return Passages(tuple(passages), tuple(read.notes))


def _part(text: str) -> list[str]:
    text = normalize_long(text, Chunk(unit="paragraphs"))
    paragraphs = (text[start:end] for start, end in chunking.find_paragraphs(text))
    return [
        piece
        for paragraph in paragraphs
        for piece in chunking.cut(paragraph, find_sentences(paragraph), SENTENCES, 0)
    ]

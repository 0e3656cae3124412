"""The BM25 index."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import bm25s
import numpy as np
from tqdm.auto import tqdm

from rag_experiments.contracts import Hit, Question, UserError
from rag_experiments.retriever.base import (
    check_manifest,
    fingerprint_passages,
    join_title,
    write_manifest,
)
from rag_experiments.retriever.documents import DocumentRows

if TYPE_CHECKING:
    from datasets import Dataset

log = logging.getLogger(__name__)
logging.getLogger("bm25s").setLevel(logging.WARNING)  # it sets itself to DEBUG

# Words of one character count: "protein 5" is not "protein 6".
_TOKEN = r"(?u)\b\w+\b"


class BM25Searcher:
    """Passages searchable by their words.

    Passages that share no word with the question score 0 and are no hits, but within one document,
    where they come last; equal scores keep the order of the passages.
    """

    kind = "bm25"

    def __init__(self, index: bm25s.BM25, passages: Dataset, fingerprint: str, stopwords: str):
        self.index = index
        self.passage_ids = list(passages["id"])
        self.documents = DocumentRows(passages)
        self.fingerprint = fingerprint
        self.stopwords = stopwords

    @classmethod
    def build(
        cls, passages: Dataset, k1: float, b: float, method: str, stopwords: str
    ) -> BM25Searcher:
        """Index of the title and text of passages; UserError where they hold no word."""
        texts = [
            join_title(title, text)
            for title, text in zip(passages["title"], passages["text"], strict=True)
        ]
        tokens = _split_words(texts, stopwords, show_progress=True)
        if not any(tokens):
            raise UserError("retriever: BM25 finds no word in the passages; check their texts")
        index = bm25s.BM25(k1=k1, b=b, method=method)
        index.index(tokens, show_progress=True, leave_progress=False)
        log.info("BM25 indexed %d passages", len(texts))
        return cls(index, passages, fingerprint_passages(passages), stopwords)

    @classmethod
    def load(cls, folder: Path, passages: Dataset, stopwords: str) -> BM25Searcher:
        """Index that `save` wrote, for the same passages."""
        fingerprint = check_manifest(folder, cls.kind, passages)
        index = bm25s.BM25.load(str(folder), load_corpus=False, show_progress=False)
        return cls(index, passages, fingerprint, stopwords)

    def search(
        self, questions: Sequence[Question], top_k: int, query_vectors: np.ndarray | None = None
    ) -> list[list[Hit]]:
        """At most `top_k` hits for each question, best first."""
        texts = [question.query for question in questions]
        tokenized = _split_words(texts, self.stopwords, show_progress=False)
        return [
            self._search_words(question, words, top_k)
            for question, words in tqdm(
                zip(questions, tokenized, strict=True),
                total=len(tokenized),
                desc="searching with BM25",
                unit="question",
                delay=2,
            )
        ]

    def save(self, folder: Path) -> None:
        """Write the index."""
        write_manifest(folder, self.kind, self.fingerprint, len(self.passage_ids))
        self.index.save(str(folder), show_progress=False)

    def _search_words(self, question: Question, words: list[str], top_k: int) -> list[Hit]:
        ids = self.index.get_tokens_ids(words)
        own = self.documents.within(question)
        if own is not None:
            scores = self.index.get_scores_from_ids(ids)[own] if ids else np.zeros(len(own))
            order = np.argsort(-scores, kind="stable")[:top_k]
            return [Hit(self.passage_ids[own[i]], float(scores[i])) for i in order]
        if not ids:
            return []
        scores = self.index.get_scores_from_ids(ids)  # [passages]
        scores[self.documents.without(question)] = 0
        found = np.flatnonzero(scores > 0)
        if len(found) > top_k:
            # All that score as the last hit does stay in, so that the order alone breaks ties.
            last = np.partition(scores[found], -top_k)[-top_k]
            found = found[scores[found] >= last]
        best = found[np.argsort(-scores[found], kind="stable")][:top_k]
        return [Hit(self.passage_ids[row], float(scores[row])) for row in best]


def _split_words(texts: Sequence[str], stopwords: str, show_progress: bool) -> list[list[str]]:
    tokens = bm25s.tokenize(
        list(texts),
        lower=True,
        token_pattern=_TOKEN,
        stopwords="english" if stopwords == "english" else None,
        return_ids=False,
        show_progress=show_progress,
    )
    return [list(words) for words in tokens]

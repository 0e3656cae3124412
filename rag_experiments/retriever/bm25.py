"""Lexical retrieval: BM25."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from rag_experiments.contracts import Runtime, Searcher
from rag_experiments.retriever.base import fingerprint_passages
from rag_experiments.retriever.reranker import RerankedRetriever
from rag_experiments.store.entries import Store
from rag_experiments.store.keys import Key, describe, libraries, make_key

if TYPE_CHECKING:
    from datasets import Dataset


_VERSION = 1  # of the index; raise it when the same passages give another one
_OF_SEARCH = frozenset({"bm25.top_k", "bm25.temperature", "bm25.reranker", "bm25.rerank_depth"})
"""Settings that the index does not depend on."""


class BM25(RerankedRetriever):
    """BM25 over title and text (Robertson and Zaragoza, 2009), by the library bm25s."""

    k1: Annotated[float, Field(ge=0)] = 1.2
    """How slowly a repeated word stops adding; 0: presence alone counts."""

    b: Annotated[float, Field(ge=0, le=1)] = 0.75
    """How much long passages are discounted; 0: not at all, 1: fully."""

    method: Literal["lucene", "robertson", "atire"] = "lucene"
    """Variant of the formula (Kamphuis et al., ECIR 2020)."""

    stopwords: Literal["english", "none"] = "english"
    """Words that are left out of passages and questions."""

    def build_first(self, passages: Dataset, runtime: Runtime) -> Searcher:
        """Index the words of passages, or take the index from the store."""
        from rag_experiments.retriever.bm25_search import BM25Searcher

        return Store(runtime.cache_dir).result(
            self.index_key(fingerprint_passages(passages), runtime.cache_dir),
            lambda: BM25Searcher.build(passages, self.k1, self.b, self.method, self.stopwords),
            BM25Searcher.save,
            lambda folder: BM25Searcher.load(folder, passages, self.stopwords),
        )

    def index_key(self, passages: str, cache_dir: Path) -> Key:
        """Key of the index of passages with a given fingerprint."""
        parts = describe(self, "bm25", cache_dir, _OF_SEARCH) | libraries("bm25s")
        return make_key("index", _VERSION, {"passages": passages, **parts})

    def load_first(self, folder: Path, passages: Dataset, runtime: Runtime) -> Searcher:
        """Load an index that was saved."""
        from rag_experiments.retriever.bm25_search import BM25Searcher

        return BM25Searcher.load(folder, passages, self.stopwords)

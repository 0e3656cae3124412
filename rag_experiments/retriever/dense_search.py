"""The searcher over passage vectors."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import faiss
import numpy as np
from tqdm.auto import tqdm

from rag_experiments.contracts import Hit, Question, UserError
from rag_experiments.retriever.base import check_manifest, write_manifest
from rag_experiments.retriever.documents import DocumentRows
from rag_experiments.retriever.estimate import Work, announce
from rag_experiments.retriever.index import Flat
from rag_experiments.retriever.passage_rows import PassageRows
from rag_experiments.retriever.scan import VectorScan
from rag_experiments.store.entries import Store
from rag_experiments.store.keys import Key, describe, libraries, make_key

if TYPE_CHECKING:
    from datasets import Dataset

    from rag_experiments.retriever.embeddings import Embeddings
    from rag_experiments.retriever.index import Hnsw, IvfPq

log = logging.getLogger(__name__)

_QUERIES = 256  # questions that are searched at once


_VERSION = 2  # of the index; raise it when the same vectors give another one
_INDEX = "index.faiss"
_OF_SEARCH = frozenset({"index.ef_search", "index.nprobe", "index.refine"})
"""Settings that the index does not depend on."""


def build_index(option: Flat | Hnsw | IvfPq, embedded: Embeddings, cache_dir: Path) -> Any:
    """Index of passage vectors, from the store where it was built before.

    An exact index is its vectors, so there is nothing more to keep.
    """

    count, dimension = embedded.vectors.shape

    def build() -> Any:
        if not isinstance(option, Flat):
            announce(Work(count, dimension, embedded=0, written=0, held=0), option, None)
        index = option.build(embedded.vectors)
        name = type(option).__name__
        log.info("indexed %d vectors of %d dimensions (%s)", count, dimension, name)
        return index

    if isinstance(option, Flat):
        return build()
    return Store(cache_dir).result(
        index_key(option, embedded.key, cache_dir),
        build,
        lambda built, folder: faiss.write_index(built, str(folder / _INDEX)),
        lambda folder: option.read(folder / _INDEX),
    )


def index_key(option: Hnsw | IvfPq, embeddings: Key, cache_dir: Path) -> Key:
    """Key of the index of the vectors with a given key."""
    parts = describe(option, "index", cache_dir, _OF_SEARCH) | libraries("faiss-cpu")
    return make_key("index", _VERSION, parts, embeddings)


class _Ranked(NamedTuple):
    """Hits of one question, best first."""

    scores: np.ndarray
    rows: np.ndarray


class DenseSearcher:
    """Passages searchable by vector; the vectors stay at hand for training.

    Scores are exact inner products, whatever the index.
    """

    kind = "dense"

    def __init__(
        self,
        passages: Dataset,
        vectors: np.ndarray,
        index: Any,
        refine_factor: int,
        fingerprint: str,
    ):
        self._rows = PassageRows(passages)
        self.documents = DocumentRows(passages)
        self.index = index
        self.refine_factor = refine_factor
        self.fingerprint = fingerprint
        self._vectors = vectors

    @classmethod
    def load(cls, folder: Path, passages: Dataset, option: Flat | Hnsw | IvfPq) -> DenseSearcher:
        """Searcher that `save` wrote, for the same passages and kind of index."""
        fingerprint = check_manifest(folder, cls.kind, passages)
        vectors = np.load(folder / "vectors.npy", mmap_mode="r")
        file = folder / _INDEX
        built = file.is_file() and not isinstance(option, Flat)
        index = option.read(file) if built else option.build(vectors)
        if index.d != vectors.shape[1] or index.ntotal != len(vectors):
            raise UserError(
                f"retriever: the index in {str(folder)!r} holds {index.ntotal} vectors of "
                f"{index.d} dimensions, its vectors.npy {len(vectors)} of {vectors.shape[1]}; "
                "the folder is damaged: build it again"
            )
        return cls(passages, vectors, index, option.refine_factor, fingerprint)

    @property
    def dimension(self) -> int:
        """Numbers in a vector."""
        return int(self._vectors.shape[1])

    def search(
        self, questions: Sequence[Question], top_k: int, query_vectors: np.ndarray | None = None
    ) -> list[list[Hit]]:
        """At most `top_k` hits for each question, by `query_vectors` [questions, dimension]."""
        if query_vectors is None or len(query_vectors) != len(questions):
            given = "none" if query_vectors is None else str(len(query_vectors))
            raise ValueError(f"{len(questions)} questions need as many query vectors, not {given}")
        own = [self.documents.within(question) for question in questions]
        barred = [self.documents.without(question) for question in questions]
        everywhere = [i for i, rows in enumerate(own) if rows is None]
        more = max((len(barred[i]) for i in everywhere), default=0)
        self._check_dimension(query_vectors)
        ranked = iter(self._search_rows(query_vectors[everywhere], top_k + more))
        found = []
        for query, rows, excluded in zip(query_vectors, own, barred, strict=True):
            if rows is not None:
                # A document has few passages: exact, without the index.
                scores = np.asarray(self._vectors[rows]) @ query
                found.append(_rank(scores, rows, top_k))
            else:
                scores, rows = next(ranked)
                kept = ~np.isin(rows, excluded)
                found.append(_Ranked(scores[kept][:top_k], rows[kept][:top_k]))
        return self._name(found)

    def search_vectors(self, query_vectors: np.ndarray, top_k: int) -> list[list[Hit]]:
        """At most `top_k` hits for each query vector [queries, dimension], best first."""
        return self._name(self._search_rows(query_vectors, top_k))

    def vectors(self, passage_ids: Sequence[str]) -> np.ndarray:
        """Vectors `[n, dimension]` float32 of n passages, in their order."""
        return np.asarray(self._vectors[self._rows.find(passage_ids)], dtype=np.float32)

    def replace_vectors(self, vectors: np.ndarray, index: Any) -> DenseSearcher:
        """Searcher of the same passages by other vectors [passages, dimension] and their index."""
        other = copy(self)
        other._vectors, other.index = vectors, index
        return other

    def save(self, folder: Path) -> None:
        """Write vectors and index (an exact index is its vectors)."""
        write_manifest(folder, self.kind, self.fingerprint, len(self._rows))
        # Renamed when whole: the file may be the memory map that the vectors are read from.
        with (folder / ".vectors.partial").open("wb") as stream:
            np.save(stream, self._vectors)
        (folder / ".vectors.partial").replace(folder / "vectors.npy")
        if isinstance(self.index, VectorScan):
            (folder / _INDEX).unlink(missing_ok=True)
        else:
            faiss.write_index(self.index, str(folder / ".index.partial"))
            (folder / ".index.partial").replace(folder / _INDEX)

    def _search_rows(self, query_vectors: np.ndarray, top_k: int) -> list[_Ranked]:
        self._check_dimension(query_vectors)
        count = min(top_k * self.refine_factor, len(self._rows))
        found = []
        starts = range(0, len(query_vectors), _QUERIES)
        for start in tqdm(starts, desc="searching vectors", disable=len(starts) < 2):
            queries = np.ascontiguousarray(query_vectors[start : start + _QUERIES], np.float32)
            ranked = self.index.search(queries, count)
            for query, scores, rows in zip(queries, *ranked, strict=True):
                there = rows >= 0  # -1 stands for no further hit
                scores, rows = scores[there], rows[there]
                if self.refine_factor > 1:
                    scores = np.asarray(self._vectors[rows]) @ query
                found.append(_rank(scores, rows, top_k))
        return found

    def _name(self, found: Sequence[_Ranked]) -> list[list[Hit]]:
        ids = iter(self._rows.name([row for _, rows in found for row in rows.tolist()]))
        return [[Hit(next(ids), score) for score in scores.tolist()] for scores, _ in found]

    def _check_dimension(self, query_vectors: np.ndarray) -> None:
        if query_vectors.shape[1] != self.dimension:
            raise UserError(
                f"retriever: query vectors have {query_vectors.shape[1]} dimensions, the index "
                f"{self.dimension}; model.query_encoder and retriever.encoder must share a space"
            )


def _rank(scores: np.ndarray, rows: np.ndarray, top_k: int) -> _Ranked:
    order = np.lexsort((rows, -scores))[:top_k]  # equal scores: order of the passages
    return _Ranked(scores[order], rows[order])

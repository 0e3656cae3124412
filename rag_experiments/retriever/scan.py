"""Exact search that reads the vectors where they are, block by block (library: FAISS)."""

from __future__ import annotations

import faiss
import numpy as np

BLOCK = 1 << 16
"""Vectors that are compared at once; a multiple of FAISS's own, so that scores are its own."""


class VectorScan:
    """Exact search by inner product over vectors `[n, dimension]`, say of a memory map.

    It has the hits of FAISS's flat index, which holds a copy of all vectors in memory; of vectors
    with equal scores the first are found.
    """

    def __init__(self, vectors: np.ndarray):
        self.vectors = vectors
        self.ntotal, self.d = vectors.shape

    def search(self, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Scores and rows `[queries, count]` of the best vectors, best first; float32 queries."""
        scores = np.empty((len(queries), 0), np.float32)
        rows = np.empty((len(queries), 0), np.int64)
        for start in range(0, self.ntotal, BLOCK):
            own_scores, own_rows = _search_block(
                queries, self.vectors[start : start + BLOCK], count
            )
            scores = np.concatenate([scores, own_scores], axis=1)
            rows = np.concatenate([rows, own_rows + start], axis=1)
            best = np.lexsort((rows, -scores), axis=1)[:, :count]
            scores = np.take_along_axis(scores, best, axis=1)
            rows = np.take_along_axis(rows, best, axis=1)
        return scores, rows


def _search_block(
    queries: np.ndarray, vectors: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """At least `count` hits; more, where the last of them has equals that might be left out."""
    asked = min(count + 1, len(vectors))
    while True:
        scores, rows = faiss.knn(queries, vectors, asked, faiss.METRIC_INNER_PRODUCT)
        if asked == len(vectors) or (scores[:, count - 1] > scores[:, -1]).all():
            return scores, rows
        asked = min(2 * asked, len(vectors))

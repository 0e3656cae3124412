"""Indexes over passage vectors, searched by inner product (library: FAISS)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from rag_experiments.contracts import Option, UserError

if TYPE_CHECKING:
    import numpy as np

_BLOCK = 1 << 16  # vectors that are added at once


class _Index(Option):
    @property
    def refine_factor(self) -> int:
        """Candidates for each hit, rescored with the exact vectors; 1: scores are exact."""
        return 1

    def data_problems(self, passage_count: int) -> list[str]:
        """What does not fit `passage_count` passages, one line each."""
        return []

    def dimension_problems(self, dimension: int) -> list[str]:
        """What does not fit vectors of `dimension` numbers, one line each."""
        return []

    def build(self, vectors: np.ndarray) -> Any:
        """FAISS index of vectors `[n, dimension]` float32; ids are row numbers."""
        raise NotImplementedError

    def tune(self, index: Any) -> None:
        """Set what can change after building, on an index just built or loaded."""


class Flat(_Index):
    """Every vector is compared: exact, and fast enough for a few hundred thousand passages."""

    def build(self, vectors: np.ndarray) -> Any:
        import faiss

        index = faiss.IndexFlatIP(vectors.shape[1])
        _add(index, vectors)
        return index


class Hnsw(_Index):
    """Graph of neighbours (Malkov and Yashunin, 2018): approximate, fast, more memory."""

    m: Annotated[int, Field(ge=2, le=128)] = 32
    """Links of a vector in the graph."""

    ef_construction: Annotated[int, Field(ge=1)] = 200
    """Candidates looked at while the graph is built; more is slower and better."""

    ef_search: Annotated[int, Field(ge=1)] = 128
    """Candidates looked at in a search; more is slower and better."""

    parallel_build: bool = False
    """Build with all cores: the graph, and so a few hits, then differ from run to run."""

    def build(self, vectors: np.ndarray) -> Any:
        import faiss

        index = faiss.IndexHNSWFlat(vectors.shape[1], self.m, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = self.ef_construction
        threads = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(threads if self.parallel_build else 1)
        try:
            _add(index, vectors)
        finally:
            faiss.omp_set_num_threads(threads)
        self.tune(index)
        return index

    def tune(self, index: Any) -> None:
        index.hnsw.efSearch = self.ef_search


class IvfPq(_Index):
    """Clusters of compressed vectors (Jégou et al., 2011): approximate, little memory.

    Hits are rescored with the exact vectors, which stay on disk.
    """

    nlist: Annotated[int, Field(ge=1)] = 64
    """Clusters; about the square root of the number of passages."""

    nprobe: Annotated[int, Field(ge=1)] = 16
    """Clusters that a search looks into."""

    m: Annotated[int, Field(ge=1)] = 48
    """Bytes that a vector is compressed to (at nbits 8); must divide the dimension."""

    nbits: Annotated[int, Field(ge=4, le=8)] = 8
    """Bits of each of the `m` codes."""

    refine: Annotated[int, Field(ge=1)] = 4
    """Candidates for each hit that are rescored exactly."""

    @property
    def refine_factor(self) -> int:
        """Candidates for each hit, rescored with the exact vectors."""
        return self.refine

    def data_problems(self, passage_count: int) -> list[str]:
        """Too few passages to learn the clusters or the codes from."""
        problems = []
        if self.nlist > passage_count:
            problems.append(
                f"index.nlist: {self.nlist} clusters are more than the {passage_count} passages; "
                f"legal: 1 to {passage_count}"
            )
        if 2**self.nbits > passage_count:
            problems.append(
                f"index.nbits: {self.nbits} needs at least {2**self.nbits} passages to learn "
                f"from, there are {passage_count}; use fewer bits (4 to 8) or index=flat"
            )
        return problems

    def dimension_problems(self, dimension: int) -> list[str]:
        """A number of codes that vectors cannot be cut into."""
        if dimension % self.m == 0:
            return []
        legal = [str(i) for i in range(1, dimension + 1) if dimension % i == 0]
        return [
            f"index.m: {self.m} does not divide the {dimension} dimensions of the encoder; "
            f"legal: {', '.join(legal)}"
        ]

    def build(self, vectors: np.ndarray) -> Any:
        import faiss

        dimension = vectors.shape[1]
        problems = [*self.data_problems(len(vectors)), *self.dimension_problems(dimension)]
        if problems:
            raise UserError([f"retriever.{problem}" for problem in problems])
        index = faiss.IndexIVFPQ(
            faiss.IndexFlatIP(dimension),
            dimension,
            self.nlist,
            self.m,
            self.nbits,
            faiss.METRIC_INNER_PRODUCT,
        )
        # k-means looks at 256 vectors a centroid at the most; the rest need not be read.
        step = max(1, len(vectors) // (256 * max(self.nlist, 2**self.nbits)))
        index.train(vectors[::step].copy())
        _add(index, vectors)
        self.tune(index)
        return index

    def tune(self, index: Any) -> None:
        index.nprobe = self.nprobe


def _add(index: Any, vectors: np.ndarray) -> None:
    from tqdm.auto import tqdm

    starts = range(0, len(vectors), _BLOCK)
    for start in tqdm(starts, desc="indexing vectors", disable=len(starts) < 2):
        index.add(vectors[start : start + _BLOCK].copy())  # a copy, where it is a memory map

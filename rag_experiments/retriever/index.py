"""Indexes over passage vectors, searched by inner product (library: FAISS).

They are built block by block and read as memory maps, so that a corpus may be larger than memory;
what an index holds in memory nevertheless, its class says.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from rag_experiments.contracts import Option, UserError

if TYPE_CHECKING:
    import numpy as np

_BLOCK = 1 << 16  # vectors that are added at once
_LEAST = 40  # vectors of a cluster that is to be learnt from them; FAISS warns below 39
_SAMPLE = 2000  # vectors of a calibration


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

    def memory(self, count: int, dimension: int) -> int:
        """Bytes that building over `count` vectors of `dimension` numbers takes at most."""
        raise NotImplementedError

    def disk(self, count: int, dimension: int) -> int:
        """Bytes of the index beside the vectors."""
        raise NotImplementedError

    def measure_seconds(self, count: int, dimension: int) -> float:
        """About how long building will take, by a calibration of a second."""
        raise NotImplementedError

    def build(self, vectors: np.ndarray) -> Any:
        """Index of vectors `[n, dimension]` float32, say of a memory map; ids are row numbers."""
        raise NotImplementedError

    def read(self, file: Path) -> Any:
        """Index that FAISS wrote to a file; vectors, graphs and codes stay there, a memory map."""
        import faiss

        index = faiss.read_index(str(file), faiss.IO_FLAG_MMAP_IFC)
        self.tune(index)
        return index

    def tune(self, index: Any) -> None:
        """Set what can change after building, on an index just built or loaded."""


class Flat(_Index):
    """Every vector is compared: exact, and fast enough for a few hundred thousand passages.

    The index is the file of the vectors; it holds nothing in memory.
    """

    def memory(self, count: int, dimension: int) -> int:
        return 0

    def disk(self, count: int, dimension: int) -> int:
        return 0

    def measure_seconds(self, count: int, dimension: int) -> float:
        return 0.0

    def build(self, vectors: np.ndarray) -> Any:
        from rag_experiments.retriever.scan import VectorScan

        return VectorScan(vectors)


class Hnsw(_Index):
    """Graph of neighbours (Malkov and Yashunin, 2018): approximate, fast, more memory.

    While it is built, vectors and graph are in memory; afterwards both are read from disk.
    """

    m: Annotated[int, Field(ge=2, le=128)] = 32
    """Links of a vector in the graph."""

    ef_construction: Annotated[int, Field(ge=1)] = 200
    """Candidates looked at while the graph is built; more is slower and better."""

    ef_search: Annotated[int, Field(ge=1)] = 128
    """Candidates looked at in a search; more is slower and better."""

    parallel_build: bool = False
    """Build with all cores: the graph, and so a few hits, then differ from run to run."""

    def memory(self, count: int, dimension: int) -> int:
        return self.disk(count, dimension) + 16 * count  # of the order in which they are added

    def disk(self, count: int, dimension: int) -> int:
        links = 2 * self.m + self.m / (self.m - 1)  # in the lowest layer, and in all above
        return round(count * (4 * dimension + 4 * links + 12))

    def measure_seconds(self, count: int, dimension: int) -> float:
        """By a graph of few random vectors. Adding one grows faster than with the logarithm, as the
        graph outgrows the processor's caches: the exponent is what `tests/benchmarks/corpora.py`
        fitted to 10 thousand, 100 thousand and a million."""
        import numpy as np

        sample = np.random.default_rng(0).standard_normal((_SAMPLE, dimension), np.float32)
        start = time.perf_counter()
        self.build(sample)
        each = (time.perf_counter() - start) / _SAMPLE
        return each * count * (count / _SAMPLE) ** 0.28

    def build(self, vectors: np.ndarray) -> Any:
        import faiss

        index = faiss.IndexHNSWFlat(vectors.shape[1], self.m, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = self.ef_construction
        threads = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(threads if self.parallel_build else 1)
        try:
            # All at once: an array that grows block by block is in memory twice when it moves.
            index.add(vectors)
        finally:
            faiss.omp_set_num_threads(threads)
        self.tune(index)
        return index

    def tune(self, index: Any) -> None:
        index.hnsw.efSearch = self.ef_search


class IvfPq(_Index):
    """Clusters of compressed vectors (Jégou et al., 2011): approximate, little memory.

    Hits are rescored with the exact vectors, which stay on disk, as do the codes once they are
    built. Clusters are learnt from a sample.
    """

    nlist: Annotated[int, Field(ge=1)] | None = None
    """Clusters; null: four times the square root of the number of passages, which have to be 40
    for each at least."""

    nprobe: Annotated[int, Field(ge=1)] = 64
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
        if self.nlist is not None and self.nlist > passage_count:
            problems.append(
                f"index.nlist: {self.nlist} clusters are more than the {passage_count} passages; "
                f"legal: 1 to {passage_count}, or null"
            )
        if 2**self.nbits > passage_count:
            problems.append(
                f"index.nbits: {self.nbits} needs at least {2**self.nbits} passages to learn "
                f"from, there are {passage_count}; use fewer bits (4 to 8) or index=flat"
            )
        return problems

    def clusters(self, passage_count: int) -> int:
        """`nlist`, or what stands for null."""
        fitting = min(round(4 * math.sqrt(passage_count)), passage_count // _LEAST)
        return self.nlist or max(1, fitting)

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
        nlist = self.clusters(len(vectors))
        index = faiss.IndexIVFPQ(
            faiss.IndexFlatIP(dimension),
            dimension,
            nlist,
            self.m,
            self.nbits,
            faiss.METRIC_INNER_PRODUCT,
        )
        step = -(-len(vectors) // self._sample_size(nlist))
        index.train(vectors[::step].copy())
        _add(index, vectors)
        self.tune(index)
        return index

    def memory(self, count: int, dimension: int) -> int:
        nlist, vector = self.clusters(count), 4 * dimension
        learning = 2 * min(count, self._sample_size(nlist)) * vector  # FAISS copies the sample
        # Codes move to larger arrays as they get more.
        adding = 2 * min(count, _BLOCK) * vector + 2 * self.disk(count, dimension)
        return max(learning, adding) + nlist * vector

    def disk(self, count: int, dimension: int) -> int:
        code = -(-self.m * self.nbits // 8) + 8  # and the row
        return count * code + (self.clusters(count) + 2**self.nbits) * dimension * 4

    def measure_seconds(self, count: int, dimension: int) -> float:
        """By the speed at which FAISS finds the nearest of few vectors, and of few pieces of
        vectors: that is what learning and assigning are made of."""
        import faiss
        import numpy as np

        def measure(width: int, count: int, among: int, metric: int) -> float:
            draw = np.random.default_rng(0).standard_normal
            one, other = draw((count, width), np.float32), draw((among, width), np.float32)
            faiss.knn(one, other, 1, metric)  # the first one is slower
            start = time.perf_counter()
            faiss.knn(one, other, 1, metric)
            return (time.perf_counter() - start) / (count * among)

        nlist, codes = self.clusters(count), 2**self.nbits
        sample = min(count, self._sample_size(nlist))
        # FAISS learns clusters in 10 rounds and codes in 25, and then assigns all vectors to both.
        whole = nlist * (10 * sample + count)
        pieces = self.m * codes * (25 * min(sample, 256 * codes) + count)
        a_whole = measure(dimension, _SAMPLE, _SAMPLE, faiss.METRIC_INNER_PRODUCT)
        a_piece = measure(dimension // self.m, 10 * _SAMPLE, codes, faiss.METRIC_L2)
        return whole * a_whole + pieces * a_piece

    def _sample_size(self, nlist: int) -> int:
        """Vectors that clusters and codes are learnt from, at most."""
        return max(64 * nlist, 256 * 2**self.nbits)

    def tune(self, index: Any) -> None:
        index.nprobe = self.nprobe


def _add(index: Any, vectors: np.ndarray) -> None:
    from tqdm.auto import tqdm

    starts = range(0, len(vectors), _BLOCK)
    for start in tqdm(starts, desc="indexing vectors", disable=len(starts) < 2):
        index.add(vectors[start : start + _BLOCK].copy())  # a copy, where it is a memory map

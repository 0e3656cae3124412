"""Dense retrieval: passages by the inner product of their vectors with the question's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rag_experiments.contracts import Question, Runtime, Searcher
from rag_experiments.retriever.encoder import Encoder
from rag_experiments.retriever.index import Flat, Hnsw, IvfPq
from rag_experiments.retriever.reranker import RerankedRetriever

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset

    from rag_experiments.encoder import TextEncoder
    from rag_experiments.retriever.dense_search import DenseSearcher


class Dense(RerankedRetriever):
    """Passage vectors in a FAISS index, searched with the model's query encoder.

    Karpukhin et al. (EMNLP 2020). The query encoder has to share the passage encoder's space.
    """

    encoder: Encoder
    """The passage encoder."""

    index: Flat | Hnsw | IvfPq = Flat()
    """How vectors are searched."""

    @property
    def uses_query_vectors(self) -> bool:
        """Always."""
        return True

    @property
    def differentiable(self) -> bool:
        """Unless a reranker replaces the inner products."""
        return not self.reranks

    def data_problems(self, passage_count: int) -> list[str]:
        """What does not fit a knowledge source of `passage_count` passages, one line each."""
        return [*super().data_problems(passage_count), *self.index.data_problems(passage_count)]

    def question_problems(self, questions: Sequence[Question], runtime: Runtime) -> list[str]:
        """What does not fit the weights, one line each; reads configurations and tokenizers."""
        problems = super().question_problems(questions, runtime)
        encoder = [f"encoder.{line}" for line in self.encoder.weight_problems(runtime)]
        return [
            *problems,
            *encoder,
            *self.index.dimension_problems(self.encoder.dimension(runtime)),
        ]

    def build_first(self, passages: Dataset, runtime: Runtime) -> DenseSearcher:
        """Embed passages and index them, or take both from the store."""
        from rag_experiments.retriever.dense_search import DenseSearcher, build_index
        from rag_experiments.retriever.embeddings import embed_passages

        embedded = embed_passages(passages, self.encoder, runtime, self.index)
        index = build_index(self.index, embedded, runtime.cache_dir)
        refine = self.index.refine_factor
        return DenseSearcher(passages, embedded.vectors, index, refine, embedded.passages)

    def load_first(self, folder: Path, passages: Dataset, runtime: Runtime) -> DenseSearcher:
        """Load vectors and index that were saved; the passage encoder is not needed."""
        from rag_experiments.retriever.dense_search import DenseSearcher

        return DenseSearcher.load(folder, passages, self.index)

    def extend_first(
        self, searcher: Searcher, passages: Dataset, kept: frozenset[str], runtime: Runtime
    ) -> DenseSearcher:
        """Embed the passages that are not kept, and index them with the vectors of the others."""
        import numpy as np

        from rag_experiments.retriever.base import fingerprint_passages
        from rag_experiments.retriever.dense_search import DenseSearcher
        from rag_experiments.retriever.embeddings import embed_passages

        assert isinstance(searcher, DenseSearcher)
        ids = list(passages["id"])
        old = [row for row, passage_id in enumerate(ids) if passage_id in kept]
        new = [row for row, passage_id in enumerate(ids) if passage_id not in kept]
        vectors = np.empty((len(ids), searcher.dimension), np.float32)
        vectors[old] = searcher.vectors([ids[row] for row in old])
        if new:
            vectors[new] = embed_passages(passages.select(new), self.encoder, runtime).vectors
        return DenseSearcher(
            passages,
            vectors,
            self.index.build(vectors),
            self.index.refine_factor,
            fingerprint_passages(passages),
        )

    def load_encoder(self, runtime: Runtime) -> TextEncoder:
        """The passage encoder, ready to be trained."""
        encoder = self.encoder.load(runtime)
        encoder.thaw()
        return encoder

    def embed(self, passages: Dataset, encoder: TextEncoder, file: Path) -> None:
        """Write the vectors that an encoder in training gives passages to a file of NumPy's; the
        store stays as it is."""
        from rag_experiments.retriever.embeddings import write_vectors

        write_vectors(passages, self.encoder, encoder, file)

    def reindex(self, searcher: Searcher, vectors: np.ndarray) -> DenseSearcher:
        """Searcher of the same passages by other vectors `[passages, dimension]`."""
        from rag_experiments.retriever.dense_search import DenseSearcher

        assert isinstance(searcher, DenseSearcher)
        return searcher.replace_vectors(vectors, self.index.build(vectors))

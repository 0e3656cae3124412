"""Lexical and dense retrieval, fused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from rag_experiments.contracts import Hit, Question, Runtime, Searcher
from rag_experiments.retriever.base import (
    check_manifest,
    find_vectors,
    fingerprint_passages,
    write_manifest,
)
from rag_experiments.retriever.bm25 import BM25
from rag_experiments.retriever.dense import Dense
from rag_experiments.retriever.reranker import RerankedRetriever

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset


class Hybrid(RerankedRetriever):
    """One ranking from a lexical and a dense one."""

    lexical: BM25
    """The lexical part; its `top_k`, `temperature` and reranker stay at their defaults."""

    dense: Dense
    """The dense part; its `top_k`, `temperature` and reranker stay at their defaults."""

    fusion: Literal["reciprocal_rank", "weighted"] = "reciprocal_rank"
    """reciprocal_rank: sum of w / (rrf_k + rank); weighted: sum of w times the score, scaled
    to 0..1 within the hits of each part."""

    weight: Annotated[float, Field(ge=0, le=1)] = 0.5
    """w of the dense part; the lexical part has 1 - weight."""

    rrf_k: Annotated[float, Field(gt=0)] = 60.0
    """Of reciprocal_rank: the larger, the less the first ranks stand out."""

    depth: Annotated[int, Field(ge=1)] = 100
    """Hits of each part that are fused."""

    @model_validator(mode="after")
    def _check_parts(self) -> Self:
        problems = [
            f"{part}.{name}: {getattr(option, name)!r} has no effect in a hybrid; set {instead}"
            for part, option in (("lexical", self.lexical), ("dense", self.dense))
            for name, instead in (
                ("top_k", "depth, or the hybrid's own top_k"),
                ("temperature", "the hybrid's own temperature"),
                ("reranker", "the hybrid's own reranker"),
                ("rerank_depth", "the hybrid's own rerank_depth"),
            )
            if getattr(option, name) != type(option).model_fields[name].default
        ]
        name = "rerank_depth" if self.reranks else "top_k"
        needed = getattr(self, name)
        if self.depth < needed:
            problems.append(
                f"depth: {self.depth} is less than {name} {needed}; legal: at least {needed}"
            )
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def uses_query_vectors(self) -> bool:
        """The dense part does."""
        return True

    def data_problems(self, passage_count: int) -> list[str]:
        """What does not fit a knowledge source of `passage_count` passages, one line each."""
        index = self.dense.index.data_problems(passage_count)
        return [*super().data_problems(passage_count), *(f"dense.{line}" for line in index)]

    def question_problems(self, questions: Sequence[Question], runtime: Runtime) -> list[str]:
        """What does not fit the weights, one line each; reads configurations and tokenizers."""
        dense = self.dense.question_problems(questions, runtime)
        own = super().question_problems(questions, runtime)
        return [*own, *(f"dense.{line}" for line in dense)]

    def build_first(self, passages: Dataset, runtime: Runtime) -> Searcher:
        """Build both parts."""
        return HybridSearcher(
            self,
            self.lexical.build(passages, runtime),
            self.dense.build(passages, runtime),
            fingerprint_passages(passages),
            len(passages),
        )

    def load_first(self, folder: Path, passages: Dataset, runtime: Runtime) -> Searcher:
        """Load both parts."""
        return HybridSearcher(
            self,
            self.lexical.load(folder / "lexical", passages, runtime),
            self.dense.load(folder / "dense", passages, runtime),
            check_manifest(folder, HybridSearcher.kind, passages),
            len(passages),
        )

    def extend_first(
        self, searcher: Searcher, passages: Dataset, kept: frozenset[str], runtime: Runtime
    ) -> Searcher:
        """Extend both parts."""
        assert isinstance(searcher, HybridSearcher)
        return HybridSearcher(
            self,
            self.lexical.extend(searcher.lexical, passages, kept, runtime),
            self.dense.extend(searcher.dense, passages, kept, runtime),
            fingerprint_passages(passages),
            len(passages),
        )


class HybridSearcher:
    """Searcher that fuses the hits of two."""

    kind = "hybrid"

    def __init__(
        self,
        option: Hybrid,
        lexical: Searcher,
        dense: Searcher,
        fingerprint: str,
        passage_count: int,
    ):
        self.option = option
        self.lexical = lexical
        self.dense = dense
        self.fingerprint = fingerprint
        self.passage_count = passage_count

    def search(
        self, questions: Sequence[Question], top_k: int, query_vectors: np.ndarray | None = None
    ) -> list[list[Hit]]:
        """At most `top_k` hits for each question, by the fused score."""
        depth = max(self.option.depth, top_k)
        lexical = self.lexical.search(questions, depth)
        dense = self.dense.search(questions, depth, query_vectors)
        return [self._fuse(one, other)[:top_k] for one, other in zip(lexical, dense, strict=True)]

    def vectors(self, passage_ids: Sequence[str]) -> np.ndarray:
        """Vectors `[n, dimension]` of n passages, of the dense part."""
        return find_vectors(self.dense, passage_ids)

    def save(self, folder: Path) -> None:
        """Write both parts."""
        write_manifest(folder, self.kind, self.fingerprint, self.passage_count)
        self.lexical.save(folder / "lexical")
        self.dense.save(folder / "dense")

    def _fuse(self, lexical: list[Hit], dense: list[Hit]) -> list[Hit]:
        from rag_experiments.functional.ranking import (
            fuse_reciprocal_ranks,
            fuse_weighted_scores,
        )

        option = self.option
        weights = [1 - option.weight, option.weight]
        if option.fusion == "weighted":
            fused = fuse_weighted_scores(
                [{hit.passage_id: hit.score for hit in hits} for hits in (lexical, dense)], weights
            )
        else:
            fused = fuse_reciprocal_ranks(
                [[hit.passage_id for hit in hits] for hits in (lexical, dense)],
                option.rrf_k,
                weights,
            )
        return [Hit(passage_id, score) for passage_id, score in fused]

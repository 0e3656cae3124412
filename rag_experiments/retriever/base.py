"""What every retriever has: the shared options, the passage text, and the saved manifest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from rag_experiments.contracts import Option, Question, Runtime, Searcher, UserError

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset

    from rag_experiments.retriever.rescoring import RescoringSearcher

MANIFEST = "manifest.json"


class BaseRetriever(Option):
    """Options that all retrievers share."""

    top_k: Annotated[int, Field(ge=1)] = 3
    """Passages that a question gets at most."""

    temperature: Annotated[float, Field(gt=0)] | None = None
    """Of p(z|x) = softmax(scores / temperature); null: fitted on the validation questions."""

    @property
    def uses_query_vectors(self) -> bool:
        """Whether searching needs the vectors of the model's query encoder."""
        return False

    @property
    def differentiable(self) -> bool:
        """Whether scores are inner products of query and passage vectors."""
        return False

    @property
    def reranks(self) -> bool:
        """Whether a second model, the reranker, rescores hits."""
        return False

    def data_problems(self, passage_count: int) -> list[str]:
        """What does not fit a knowledge source of `passage_count` passages, one line each."""
        if self.top_k > passage_count:
            return [
                f"top_k: {self.top_k} is more than the {passage_count} passages; "
                f"legal: 1 to {passage_count}"
            ]
        return []

    def question_problems(self, questions: Sequence[Question], runtime: Runtime) -> list[str]:
        """What does not fit the weights, one line each; reads configurations and tokenizers."""
        return []

    def build(self, passages: Dataset, runtime: Runtime) -> Searcher:
        """Make passages (columns `id`, `title`, `text`) searchable."""
        raise NotImplementedError

    def load(self, folder: Path, passages: Dataset, runtime: Runtime) -> Searcher:
        """Searcher that `Searcher.save` wrote for the same passages; UserError otherwise."""
        raise NotImplementedError

    def extend(
        self, searcher: Searcher, passages: Dataset, kept: frozenset[str], runtime: Runtime
    ) -> Searcher:
        """Searcher of passages; those whose ids are `kept` are what `searcher` has of them.

        Built anew, where there is nothing that is worth to be kept.
        """
        return self.build(passages, runtime)


def find_vectors(searcher: Searcher, passage_ids: Sequence[str]) -> np.ndarray:
    """Vectors `[n, dimension]` of n passages, of a searcher that searches by vector."""
    vectors = getattr(searcher, "vectors", None)
    if vectors is None:
        raise TypeError(f"{type(searcher).__name__} holds no vectors")
    return vectors(passage_ids)


def find_reranking(searcher: Searcher) -> RescoringSearcher:
    """The searcher that rescores hits, of a searcher that has a reranker."""
    reranking = getattr(searcher, "reranking", None)
    if reranking is None:
        raise TypeError(f"{type(searcher).__name__} has no reranker")
    return reranking


def join_title(title: str, text: str, separator: str = " ") -> str:
    """Text of a passage as retrievers read it: title and text."""
    return f"{title}{separator}{text}" if title else text


def fingerprint_passages(passages: Dataset) -> str:
    """SHA-256 of ids, titles and texts in their order."""
    return fingerprint_shards(passages, max(1, len(passages)))[0]


def fingerprint_shards(passages: Dataset, size: int) -> tuple[str, list[str]]:
    """Fingerprint of passages, and in one go those of `size` of them after `size` of them."""
    whole, shards = hashlib.sha256(), []
    read = passages.select_columns(["id", "title", "text"])
    for start in range(0, len(passages), size):
        shard = hashlib.sha256()
        rows = read.select(range(start, min(start + size, len(passages))))
        for batch in rows.iter(batch_size=1000):
            for row in zip(batch["id"], batch["title"], batch["text"], strict=True):
                # As JSON: no text can move the border between two fields.
                content = json.dumps(row).encode()
                whole.update(content)
                shard.update(content)
        shards.append(shard.hexdigest())
    return whole.hexdigest(), shards


def write_manifest(folder: Path, kind: str, fingerprint: str, passage_count: int) -> None:
    """Write what an index is and of which passages, so that a wrong one is not loaded."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"kind": kind, "passages": fingerprint, "passage_count": passage_count}
    (folder / MANIFEST).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def check_manifest(folder: Path, kind: str, passages: Dataset) -> str:
    """Fingerprint of the passages; UserError where the saved index is not of `kind` and them."""
    file = folder / MANIFEST
    if not file.is_file():
        raise UserError(f"retriever: {str(folder)!r} holds no saved index ({MANIFEST} is missing)")
    content = json.loads(file.read_text(encoding="utf-8"))
    if content["kind"] != kind:
        raise UserError(
            f"retriever: {str(folder)!r} holds an index of kind {content['kind']!r}, "
            f"not {kind!r}; load it with the configuration that it was saved with"
        )
    fingerprint = fingerprint_passages(passages)
    if content["passages"] != fingerprint:
        raise UserError(
            f"retriever: the index in {str(folder)!r} was built from {content['passage_count']} "
            f"other passages than the {len(passages)} given; build it again"
        )
    return fingerprint

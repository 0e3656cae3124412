"""Iterative retrieval: what was found first tells what to look for next."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from rag_experiments.contracts import Hit, Question, Runtime, Searcher
from rag_experiments.functional.sentences import FUNCTION_WORDS, find_sentences
from rag_experiments.retriever.base import (
    BaseRetriever,
    check_manifest,
    find_reranking,
    find_vectors,
    fingerprint_passages,
    join_title,
    write_manifest,
)
from rag_experiments.retriever.bm25 import BM25
from rag_experiments.retriever.dense import Dense
from rag_experiments.retriever.hybrid import Hybrid
from rag_experiments.retriever.passage_rows import PassageRows

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset

    from rag_experiments.retriever.rescoring import RescoringSearcher

_WORD = re.compile(r"\w+")
_RANK_OFFSET = 60.0  # of the scores, as in reciprocal rank fusion


class Iterative(BaseRetriever):
    """Retrieve with the question, then with the question and what was found, and so on.

    The `top_k` passages are shared out evenly among the hops, earlier ones first: of 5 in 2 hops,
    3 are found with the question itself. Each of them makes a query of its own, the question
    followed by words of the passage that are new; in turn, each query brings the best passage that
    is not there yet. What later hops leave open is filled with further hits of the question, so
    that as many passages are read as without hops. No generator takes part.

    Questions that need several passages, of which the question names the first alone, are what it
    is for (Qi et al., EMNLP 2019; Xiong et al., ICLR 2021). Scores of different queries do not
    compare, so a hit's score is 1 / (60 + rank), its rank in the order of being found.
    """

    first: BM25 | Dense | Hybrid
    """What searches in every hop; its `top_k` and `temperature` stay at their defaults."""

    hops: Annotated[int, Field(ge=2)] = 2
    """Times that is searched, the question's own search included."""

    query: Literal["names", "sentence", "text"] = "names"
    """Where the words of a passage that follow the question are taken from: names: words with a
    capital in title and text, which is where the next hop of most questions leads in languages
    that write names so; sentence: title and first sentence; text: title and text. Words of the
    question and function words of English are never taken: they would find the same passages."""

    words: Annotated[int, Field(ge=1)] = 10
    """Words of a passage that follow the question at most, the first ones."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        problems = [
            f"first.{name}: {getattr(self.first, name)!r} has no effect in iterative retrieval; "
            f"set its own {name}"
            for name in ("top_k", "temperature")
            if getattr(self.first, name) != type(self.first).model_fields[name].default
        ]
        if self.hops > self.top_k:
            problems.append(
                f"hops: {self.hops} is more than top_k {self.top_k}, so a hop would find nothing; "
                f"legal: 2 to {self.top_k}"
            )
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def uses_query_vectors(self) -> bool:
        """Where what searches does."""
        return self.first.uses_query_vectors

    @property
    def reranks(self) -> bool:
        """Where what searches does."""
        return self.first.reranks

    def data_problems(self, passage_count: int) -> list[str]:
        """What does not fit a knowledge source of `passage_count` passages, one line each."""
        own = super().data_problems(passage_count)
        return own or [f"first.{line}" for line in self.first.data_problems(passage_count)]

    def question_problems(self, questions: Sequence[Question], runtime: Runtime) -> list[str]:
        """What does not fit the weights, one line each; reads configurations and tokenizers."""
        return [f"first.{line}" for line in self.first.question_problems(questions, runtime)]

    def build(self, passages: Dataset, runtime: Runtime) -> Searcher:
        """Build what searches."""
        first = self.first.build(passages, runtime)
        return IterativeSearcher(self, first, passages, fingerprint_passages(passages))

    def load(self, folder: Path, passages: Dataset, runtime: Runtime) -> Searcher:
        """Load what searches."""
        fingerprint = check_manifest(folder, IterativeSearcher.kind, passages)
        first = self.first.load(folder / "first", passages, runtime)
        return IterativeSearcher(self, first, passages, fingerprint)

    def extend(
        self, searcher: Searcher, passages: Dataset, kept: frozenset[str], runtime: Runtime
    ) -> Searcher:
        """Extend what searches."""
        assert isinstance(searcher, IterativeSearcher)
        first = self.first.extend(searcher.first, passages, kept, runtime)
        return IterativeSearcher(self, first, passages, fingerprint_passages(passages))


class IterativeSearcher:
    """Searcher that searches again with what another one found."""

    kind = "iterative"
    reformulates = True

    def __init__(self, option: Iterative, first: Searcher, passages: Dataset, fingerprint: str):
        self.option = option
        self.first = first
        self.passages = passages
        self.fingerprint = fingerprint
        self._rows = PassageRows(passages)

    def search(
        self,
        questions: Sequence[Question],
        top_k: int,
        query_vectors: np.ndarray | None = None,
        encode: Callable[[Sequence[str]], np.ndarray] | None = None,
    ) -> list[list[Hit]]:
        """At most `top_k` hits for each question, in the order of being found.

        `encode` makes vectors [queries, dimension] of the queries of later hops, where what
        searches takes vectors.
        """
        by_question = self.first.search(questions, top_k, query_vectors)
        share, *shares = share_out(top_k, self.option.hops)
        found = [_ids(hits)[:share] for hits in by_question]
        latest = [list(ids) for ids in found]
        for share in shares:
            sources = [(i, passage_id) for i, ids in enumerate(latest) for passage_id in ids]
            queries = self._reformulate([(questions[i], passage_id) for i, passage_id in sources])
            vectors = None
            if query_vectors is not None:
                if encode is None:
                    raise ValueError("queries of later hops need an encoder: give encode")
                vectors = encode([query.query for query in queries])
            rankings: list[list[list[str]]] = [[] for _ in questions]
            hits_of_queries = self.first.search(queries, top_k, vectors)
            for (i, _), hits in zip(sources, hits_of_queries, strict=True):
                rankings[i].append(_ids(hits))
            latest = [
                take_in_turn(own, share, there) for own, there in zip(rankings, found, strict=True)
            ]
            for ids, new in zip(found, latest, strict=True):
                ids += new
        for ids, hits in zip(found, by_question, strict=True):
            ids += take_in_turn([_ids(hits)], top_k - len(ids), ids)
        return [
            [Hit(passage_id, 1 / (_RANK_OFFSET + rank)) for rank, passage_id in enumerate(ids, 1)]
            for ids in found
        ]

    def vectors(self, passage_ids: Sequence[str]) -> np.ndarray:
        """Vectors `[n, dimension]` of n passages, of what searches."""
        return find_vectors(self.first, passage_ids)

    @property
    def reranking(self) -> RescoringSearcher:
        """What rescores hits, of what searches."""
        return find_reranking(self.first)

    def save(self, folder: Path) -> None:
        """Write what searches."""
        write_manifest(folder, self.kind, self.fingerprint, len(self._rows))
        self.first.save(folder / "first")

    def _reformulate(self, pairs: Sequence[tuple[Question, str]]) -> list[Question]:
        rows = self.passages.select(self._rows.find([passage_id for _, passage_id in pairs]))
        queries = []
        for (question, _), title, text in zip(pairs, rows["title"], rows["text"], strict=True):
            if self.option.query == "sentence":
                text = next((text[start:end] for start, end in find_sentences(text)), "")
            words = new_words(join_title(title, text), question.question)
            if self.option.query == "names":
                words = [word for word in words if word[0].isupper()]
            asked = [question.question, *words[: self.option.words]]
            queries.append(replace(question, question=" ".join(asked)))
        return queries


def share_out(count: int, parts: int) -> list[int]:
    """`count` in so many parts that differ by one at the most, larger ones first."""
    return [count // parts + (i < count % parts) for i in range(parts)]


def new_words(text: str, question: str) -> list[str]:
    """Words of a text, in order, that a question does not have and that say something."""
    known = {word.lower() for word in _WORD.findall(question)} | FUNCTION_WORDS
    return [word for word in _WORD.findall(text) if word.lower() not in known]


def take_in_turn(rankings: Sequence[Sequence[str]], count: int, there: Sequence[str]) -> list[str]:
    """At most `count` passages, each ranking's best that is not `there` yet, ranking by ranking."""
    seen = set(there)
    taken: list[str] = []
    waiting = [iter(ranking) for ranking in rankings]
    while waiting and len(taken) < count:
        ranking = waiting.pop(0)
        new = next((passage_id for passage_id in ranking if passage_id not in seen), None)
        if new is not None:
            seen.add(new)
            taken.append(new)
            waiting.append(ranking)
    return taken


def _ids(hits: Sequence[Hit]) -> list[str]:
    return [hit.passage_id for hit in hits]

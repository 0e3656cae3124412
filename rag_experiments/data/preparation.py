"""What is done to the records after they are read: normalize, merge, chunk, cut, limit."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field, model_validator

from rag_experiments.contracts import (
    Option,
    Passage,
    PreparedData,
    Question,
    Runtime,
    UserError,
)
from rag_experiments.data import chunking
from rag_experiments.data.gold import match_answers
from rag_experiments.data.problems import number, quote
from rag_experiments.data.splits import SPLITS, place_id
from rag_experiments.functional.sentences import find_sentences
from rag_experiments.functional.text import contains_answer

log = logging.getLogger(__name__)

Count = Annotated[int, Field(ge=1)]


class Chunk(Option):
    """How passages longer than `size` are cut into chunks; shorter ones stay as they are."""

    unit: Literal["words", "sentences", "paragraphs", "tokens"] | None = None
    """None: passages are not cut. Paragraphs are parted by blank lines."""
    size: Count = 100
    """Units in a chunk."""
    overlap: Annotated[int, Field(ge=0)] = 20
    """Units that a chunk repeats from the one before."""
    tokenizer: str | None = None
    """Weights whose tokenizer counts the tokens; for `unit: tokens` only."""

    @model_validator(mode="after")
    def _check(self) -> Chunk:
        if self.unit is not None and self.overlap >= self.size:
            raise ValueError(
                f"overlap: {self.overlap} is not less than size; legal: 0 to {self.size - 1}"
            )
        if self.unit == "tokens" and self.tokenizer is None:
            raise ValueError("tokenizer: null; legal with unit=tokens: the weights of an encoder")
        if self.unit != "tokens" and self.tokenizer is not None:
            raise ValueError(
                f"tokenizer: {self.tokenizer!r} is not used with unit={self.unit or 'null'}; "
                "legal: null, or unit=tokens"
            )
        return self

    def problems(self) -> list[str]:
        """What is wrong with the tokenizer's name, found without the network."""
        from rag_experiments import weights

        problem = weights.find_problem(self.tokenizer) if self.tokenizer else None
        return [f"tokenizer: {problem}"] if problem else []


class Limit(Option):
    """At most so many records, for quick runs; None: all.

    The subset follows a hash of the id, so a larger limit contains the smaller one.
    """

    train: Annotated[int, Field(ge=0)] | None = None
    validation: Annotated[int, Field(ge=0)] | None = None
    test: Annotated[int, Field(ge=0)] | None = None
    passages: Count | None = None
    """Gold passages of the questions stay first, even where they are more than this."""


class Preparation(Option):
    """The steps between the records as read and the data of a run, in the order of the fields.

    Everything that is changed is counted in the notes of the prepared data.
    """

    normalize: bool = True
    """Unicode NFC, and every stretch of white space becomes one space, but for the blank lines
    between paragraphs where they are what is chunked."""
    deduplicate: bool = True
    """Passages with the same title and text (normalized) are merged into the first."""
    chunk: Chunk = Chunk()
    """Chunks of passage `p` are `p#0`, `p#1`, ...; each has `p` as `document_id`. A question's
    gold chunks are those that contain an accepted answer, or all chunks where none does."""
    max_words: Count | None = None
    """Passages (chunks) are cut after so many words."""
    limit: Limit = Limit()

    @property
    def shortens(self) -> bool:
        """Whether it says what becomes of passages that are long."""
        return self.chunk.unit is not None or self.max_words is not None

    def prepare(
        self,
        passages: Sequence[Passage],
        splits: Mapping[str, Sequence[Question]],
        notes: Sequence[str],
        runtime: Runtime,
    ) -> PreparedData:
        """Apply every step; `notes` are those of the reading and come first."""
        steps = _Steps(list(passages), {name: list(splits[name]) for name in SPLITS}, notes)
        if self.normalize:
            steps.normalize(self.chunk)
        if self.deduplicate:
            steps.deduplicate()
        steps.report_repeated_questions()
        if self.chunk.unit is not None:
            steps.chunk(self.chunk, runtime)
        if self.max_words is not None:
            steps.truncate(self.max_words)
        for name in SPLITS:
            steps.limit_questions(name, getattr(self.limit, name))
        gold = steps.find_gold()
        if self.limit.passages is not None:
            steps.limit_passages(self.limit.passages)
        for note in steps.notes:
            log.info("%s", note)
        documents = [steps.documents[passage.id] for passage in steps.passages]
        return assemble(steps.passages, documents, steps.splits, gold, steps.notes)


def normalize(text: str) -> str:
    """Unicode NFC with single spaces and no white space at the ends."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def normalize_long(text: str, chunk: Chunk) -> str:
    """As `normalize`, with the paragraphs apart where they are what is chunked."""
    if chunk.unit != "paragraphs":
        return normalize(text)
    paragraphs = (text[start:end] for start, end in chunking.find_paragraphs(text))
    return "\n\n".join(map(normalize, paragraphs))


def cut_texts(texts: Sequence[str], chunk: Chunk, runtime: Runtime) -> list[list[str]]:
    """Chunks of each text."""
    spans = _find_spans(texts, chunk, runtime)
    return [
        chunking.cut(text, found, chunk.size, chunk.overlap)
        for text, found in zip(texts, spans, strict=True)
    ]


def truncate(text: str, max_words: int) -> str:
    """The text up to so many words."""
    words = chunking.find_words(text)
    return text[words[0][0] : words[max_words - 1][1]] if len(words) > max_words else text


def limit_records(records: Sequence[Question], limit: int) -> list[Question]:
    """At most so many records, in their order: those that come first by a hash of the id."""
    order = sorted(records, key=lambda record: place_id(record.id, "limit"))
    kept = {record.id for record in order[:limit]}
    return [record for record in records if record.id in kept]


def assemble(
    passages: Sequence[Passage],
    documents: Sequence[str],
    splits: Mapping[str, Sequence[Question]],
    gold: str,
    notes: Sequence[str],
    with_summaries: bool = False,
) -> PreparedData:
    """Put prepared data together; `documents` are the ids of what each passage is a part of."""
    from datasets import Dataset, Features, Value

    columns: dict[str, list[str]] = {
        "id": [passage.id for passage in passages],
        "title": [passage.title for passage in passages],
        "text": [passage.text for passage in passages],
        "document_id": list(documents),
    }
    if with_summaries:
        columns["summary"] = [passage.summary for passage in passages]
    features = Features({name: Value("string") for name in columns})
    return PreparedData(
        passages=Dataset.from_dict(columns, features=features),
        train=tuple(splits["train"]),
        validation=tuple(splits["validation"]),
        test=tuple(splits["test"]),
        gold=gold,
        notes=tuple(notes),
    )


def _find_spans(texts: Sequence[str], chunk: Chunk, runtime: Runtime) -> list[chunking.Spans]:
    from tqdm.auto import tqdm

    finders: dict[str | None, Callable[[str], chunking.Spans]] = {
        "words": chunking.find_words,
        "sentences": find_sentences,
        "paragraphs": chunking.find_paragraphs,
    }
    if chunk.unit in finders:
        find = finders[chunk.unit]
        return [find(t) for t in tqdm(texts, desc="chunking", unit=" passages", delay=2)]
    from transformers import AutoTokenizer

    from rag_experiments import weights

    assert chunk.tokenizer is not None
    folder = weights.resolve(chunk.tokenizer, runtime.cache_dir)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if not tokenizer.is_fast:
        raise UserError(
            f"data.preparation.chunk.tokenizer: {chunk.tokenizer!r} does not say where its "
            "tokens stand in the text; legal: weights with a fast tokenizer (tokenizer.json)"
        )
    spans: list[chunking.Spans] = []
    size = 256
    for start in tqdm(range(0, len(texts), size), desc="chunking", unit=" batches", delay=2):
        spans += chunking.find_tokens(texts[start : start + size], tokenizer)
    return spans


class _Steps:
    """Passages and questions on their way, with what was done to them."""

    def __init__(
        self,
        passages: list[Passage],
        splits: dict[str, list[Question]],
        notes: Sequence[str],
    ):
        self.passages = passages
        self.splits = splits
        self.notes = list(notes)
        self.documents = {passage.id: passage.id for passage in passages}

    def normalize(self, chunk: Chunk) -> None:
        self.passages = [
            Passage(passage.id, normalize(passage.title), normalize_long(passage.text, chunk))
            for passage in self.passages
        ]
        for name, questions in self.splits.items():
            self.splits[name] = [
                replace(
                    question,
                    question=normalize(question.question),
                    answers=tuple(dict.fromkeys(map(normalize, question.answers))),
                )
                for question in questions
            ]

    def deduplicate(self) -> None:
        first: dict[tuple[str, str], str] = {}
        merged: dict[str, str] = {}
        kept = []
        for passage in self.passages:
            content = (normalize(passage.title), normalize(passage.text))
            merged[passage.id] = first.setdefault(content, passage.id)
            if merged[passage.id] == passage.id:
                kept.append(passage)
        removed = len(self.passages) - len(kept)
        self.passages = kept
        if removed:
            self._map_gold(lambda question, identity: (merged[identity],))
            self.notes.append(f"{number(removed, 'duplicate passage')} merged into the first.")

    def report_repeated_questions(self) -> None:
        seen: dict[str, set[str]] = {}
        for name, questions in self.splits.items():
            texts = [normalize(question.question).casefold() for question in questions]
            seen[name] = set(texts)
            if len(seen[name]) < len(texts):
                self.notes.append(
                    f"{name}: {number(len(texts) - len(seen[name]), 'question')} with the text of "
                    "another question."
                )
        for i, name in enumerate(SPLITS):
            for other in SPLITS[i + 1 :]:
                shared = len(seen[name] & seen[other])
                if shared:
                    self.notes.append(
                        f"{number(shared, 'question')} of {name} in {other} as well: figures of "
                        f"{other} are too good by that."
                    )

    def chunk(self, chunk: Chunk, runtime: Runtime) -> None:
        cut_up = cut_texts([passage.text for passage in self.passages], chunk, runtime)
        pieces = {p.id: found for p, found in zip(self.passages, cut_up, strict=True)}

        chunks: list[Passage] = []
        documents: dict[str, str] = {}
        parts: dict[str, list[Passage]] = {}
        for passage in self.passages:
            texts = pieces[passage.id]
            if len(texts) == 1:
                parts[passage.id] = [passage]
            else:
                parts[passage.id] = [
                    Passage(f"{passage.id}#{i}", passage.title, text)
                    for i, text in enumerate(texts)
                ]
            for part in parts[passage.id]:
                if part.id in documents:
                    raise UserError(
                        f"passages: the id {quote(part.id)} is that of a passage and of a chunk of "
                        f"{quote(passage.id)}; rename the passage"
                    )
                documents[part.id] = self.documents[passage.id]
                chunks.append(part)

        def find_chunks(question: Question, identity: str) -> tuple[str, ...]:
            of_passage = parts[identity]
            with_answer = [
                part
                for part in of_passage
                if any(contains_answer(part.text, answer) for answer in question.answers)
            ]
            return tuple(part.id for part in with_answer or of_passage)

        self._map_gold(find_chunks)
        cut = sum(len(texts) > 1 for texts in pieces.values())
        self.notes.append(
            f"{cut} of {len(self.passages)} passages cut into chunks of at most {chunk.size} "
            f"{chunk.unit} with {chunk.overlap} {chunk.unit} of overlap; {len(chunks)} passages "
            "after it."
        )
        self.passages = chunks
        self.documents = documents

    def truncate(self, max_words: int) -> None:
        passages = [replace(p, text=truncate(p.text, max_words)) for p in self.passages]
        shortened = sum(p != old for p, old in zip(passages, self.passages, strict=True))
        self.passages = passages
        if shortened:
            self.notes.append(
                f"{shortened} of {len(passages)} passages cut after {max_words} words."
            )

    def limit_questions(self, name: str, limit: int | None) -> None:
        questions = self.splits[name]
        if limit is None or len(questions) <= limit:
            return
        self.splits[name] = limit_records(questions, limit)
        self.notes.append(f"{name}: limited to {limit} of {len(questions)} questions.")

    def find_gold(self) -> str:
        questions = [question for name in SPLITS for question in self.splits[name]]
        without = sum(not question.passage_ids for question in questions)
        if without < len(questions):
            if without:
                self.notes.append(
                    f"{without} of {len(questions)} questions have no gold passage; retrieval is "
                    "scored without them."
                )
            return "annotated"
        matched = dict(zip(questions, match_answers(questions, self.passages), strict=True))
        found = [ids for ids in matched.values() if ids]
        if not found:
            if questions:
                self.notes.append(
                    "No question has gold passages, and no passage contains an accepted answer."
                )
            return "none"
        for name in SPLITS:
            self.splits[name] = [
                replace(question, passage_ids=matched[question]) for question in self.splits[name]
            ]
        mean = sum(map(len, found)) / len(found)
        self.notes.append(
            "No question has gold passages: the passages that contain an accepted answer stand in "
            f"for them ({len(found)} of {len(questions)} questions, {mean:.1f} passages each); "
            "figures that use gold passages are weak."
        )
        return "answer_match"

    def limit_passages(self, limit: int) -> None:
        if len(self.passages) <= limit:
            return
        gold = {
            identity
            for questions in self.splits.values()
            for question in questions
            for identity in question.passage_ids
        }
        others = sorted(
            (passage.id for passage in self.passages if passage.id not in gold),
            key=lambda identity: place_id(identity, "limit"),
        )
        kept = gold.union(others[: max(0, limit - len(gold))])
        total = len(self.passages)
        self.passages = [passage for passage in self.passages if passage.id in kept]
        note = f"limited to {len(self.passages)} of {total} passages"
        if len(gold) > limit:
            note += f": limit.passages is {limit}, but there are {len(gold)} gold passages"
        self.notes.append(f"{note}; retrieval is easier than over all of them.")

    def _map_gold(self, find: Callable[[Question, str], tuple[str, ...]]) -> None:
        for name, questions in self.splits.items():
            mapped = []
            for question in questions:
                ids = [new for old in question.passage_ids for new in find(question, old)]
                mapped.append(replace(question, passage_ids=tuple(dict.fromkeys(ids))))
            self.splits[name] = mapped

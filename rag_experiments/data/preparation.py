"""What is done to the records after they are read: normalize, merge, chunk, cut, limit."""

from __future__ import annotations

import heapq
import logging
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice, tee
from typing import Annotated, Any, Literal

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
from rag_experiments.data.passages import StoredPassages, join_content, write_passages
from rag_experiments.data.problems import number, quote
from rag_experiments.data.splits import SPLITS, place_id
from rag_experiments.functional.first_places import FirstPlaces
from rag_experiments.functional.sentences import find_sentences
from rag_experiments.functional.text import contains_answer, drop_labels

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
    gold chunks are those that contain an accepted answer, or all chunks where none does, and
    for labels (yes, no, maybe, ...)."""
    max_words: Count | None = None
    """Passages (chunks) are cut after so many words."""
    limit: Limit = Limit()
    labels: tuple[str, ...] = ()
    """Those of the task. Then answers are labels, which stand in passages by chance: a passage or
    chunk that contains one is not gold by that."""

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
        """Apply every step; `notes` are those of the reading and come first.

        Passages go from step to step in batches and by way of a file in the cache folder, so that
        their texts are not in memory.
        """
        steps = _Steps({name: list(splits[name]) for name in SPLITS}, notes, runtime)
        if self.normalize:
            steps.normalize_questions()
        steps.take(passages, self)
        steps.report_repeated_questions()
        if self.chunk.unit is not None:
            steps.chunk(self.chunk, self.labels)
        if self.max_words is not None:
            steps.truncate(self.max_words)
        for name in SPLITS:
            steps.limit_questions(name, getattr(self.limit, name))
        gold = steps.find_gold(self.labels)
        if self.limit.passages is not None:
            steps.limit_passages(self.limit.passages)
        for note in steps.notes:
            log.info("%s", note)
        return assemble(steps.passages, steps.splits, gold, steps.notes)


def normalize(text: str) -> str:
    """Unicode NFC with single spaces and no white space at the ends."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def normalize_long(text: str, chunk: Chunk) -> str:
    """As `normalize`, with the paragraphs apart where they are what is chunked."""
    if chunk.unit != "paragraphs":
        return normalize(text)
    paragraphs = (text[start:end] for start, end in chunking.find_paragraphs(text))
    return "\n\n".join(map(normalize, paragraphs))


def cut_texts(texts: Iterable[str], chunk: Chunk, runtime: Runtime) -> Iterator[list[str]]:
    """Chunks of each text; texts are read as they are needed."""
    one, other = tee(texts)
    for text, spans in zip(one, _find_spans(other, chunk, runtime), strict=True):
        yield chunking.cut(text, spans, chunk.size, chunk.overlap)


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
    passages: StoredPassages,
    splits: Mapping[str, Sequence[Question]],
    gold: str,
    notes: Sequence[str],
) -> PreparedData:
    """Put prepared data together."""
    return PreparedData(
        passages=passages.to_dataset(),
        train=tuple(splits["train"]),
        validation=tuple(splits["validation"]),
        test=tuple(splits["test"]),
        gold=gold,
        notes=tuple(notes),
    )


def _find_spans(texts: Iterable[str], chunk: Chunk, runtime: Runtime) -> Iterator[chunking.Spans]:
    finders: dict[str | None, Callable[[str], chunking.Spans]] = {
        "words": chunking.find_words,
        "sentences": find_sentences,
        "paragraphs": chunking.find_paragraphs,
    }
    if chunk.unit in finders:
        yield from map(finders[chunk.unit], texts)
        return
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
    texts = iter(texts)
    while batch := list(islice(texts, 256)):
        yield from chunking.find_tokens(batch, tokenizer)


_COLUMNS = ("id", "title", "text", "document_id")


class _Steps:
    """Passages and questions on their way, with what was done to them."""

    def __init__(self, splits: dict[str, list[Question]], notes: Sequence[str], runtime: Runtime):
        self.passages: StoredPassages
        self.splits = splits
        self.notes = list(notes)
        self.runtime = runtime

    def normalize_questions(self) -> None:
        for name, questions in self.splits.items():
            self.splits[name] = [
                replace(
                    question,
                    question=normalize(question.question),
                    answers=tuple(dict.fromkeys(map(normalize, question.answers))),
                )
                for question in questions
            ]

    def take(self, passages: Sequence[Passage], preparation: Preparation) -> None:
        """Normalize and deduplicate passages, each its own document."""
        contents = FirstPlaces()
        asked = {
            identity for own in self.splits.values() for q in own for identity in q.passage_ids
        }
        merged: dict[str, int] = {}
        kept_as_is = not preparation.normalize or preparation.chunk.unit == "paragraphs"

        def keep() -> Iterator[tuple[str, ...]]:
            for row, passage in enumerate(_show(passages, "normalizing")):
                title, text = passage.title, passage.text
                if preparation.normalize:
                    title, text = normalize(title), normalize_long(text, preparation.chunk)
                if preparation.deduplicate:
                    plain = (normalize(title), normalize(text)) if kept_as_is else (title, text)
                    first = contents.add(join_content(*plain), row)
                    if first is not None:
                        if passage.id in asked:
                            merged[passage.id] = first
                        continue
                yield passage.id, title, text, passage.id

        self._write(keep())
        removed = len(passages) - len(self.passages)
        if removed:
            names = {identity: passages[first].id for identity, first in merged.items()}
            self._map_gold(lambda question, identity: (names.get(identity, identity),))
            self.notes.append(f"{number(removed, 'duplicate passage')} merged into the first.")

    def _write(self, rows: Iterable[tuple[str, ...]]) -> None:
        self.passages = write_passages(rows, _COLUMNS, self.runtime.cache_dir)

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

    def chunk(self, chunk: Chunk, labels: Sequence[str]) -> None:
        asking: dict[str, list[Question]] = defaultdict(list)
        for questions in self.splits.values():
            for question in questions:
                for identity in question.passage_ids:
                    asking[identity].append(question)
        ids = FirstPlaces()
        gold: dict[tuple[str, tuple[str, ...]], tuple[str, ...]] = {}
        cut = 0

        def part() -> Iterator[tuple[str, ...]]:
            nonlocal cut
            rows, same = tee(_show(self.passages.read(*_COLUMNS), "chunking", len(self.passages)))
            texts = (text for _, _, text, _ in same)
            for (identity, title, text, document_id), pieces in zip(
                rows, cut_texts(texts, chunk, self.runtime), strict=True
            ):
                cut += len(pieces) > 1
                parts = {f"{identity}#{i}": piece for i, piece in enumerate(pieces)}
                if len(pieces) == 1:
                    parts = {identity: text}
                for name, piece in parts.items():
                    # No other id can be that of a passage and of a chunk.
                    if "#" in name and ids.add(name, 0) is not None:
                        raise UserError(
                            f"passages: the id {quote(name)} is that of a passage and of a chunk "
                            f"of {quote(identity)}; rename the passage"
                        )
                    yield name, title, piece, document_id
                for question in asking.get(identity, ()):
                    answers = drop_labels(question.answers, labels)
                    with_answer = (
                        name
                        for name, piece in parts.items()
                        if any(contains_answer(piece, answer) for answer in answers)
                    )
                    gold[identity, question.answers] = tuple(with_answer) or tuple(parts)

        count = len(self.passages)
        self._write(part())
        self._map_gold(lambda question, identity: gold[identity, question.answers])
        self.notes.append(
            f"{cut} of {count} passages cut into chunks of at most {chunk.size} "
            f"{chunk.unit} with {chunk.overlap} {chunk.unit} of overlap; {len(self.passages)} "
            "passages after it."
        )

    def truncate(self, max_words: int) -> None:
        shortened = 0

        def shorten() -> Iterator[tuple[str, ...]]:
            nonlocal shortened
            for identity, title, text, document_id in self.passages.read(*_COLUMNS):
                shorter = truncate(text, max_words)
                shortened += shorter != text
                yield identity, title, shorter, document_id

        self._write(shorten())
        if shortened:
            self.notes.append(
                f"{shortened} of {len(self.passages)} passages cut after {max_words} words."
            )

    def limit_questions(self, name: str, limit: int | None) -> None:
        questions = self.splits[name]
        if limit is None or len(questions) <= limit:
            return
        self.splits[name] = limit_records(questions, limit)
        self.notes.append(f"{name}: limited to {limit} of {len(questions)} questions.")

    def find_gold(self, labels: Sequence[str]) -> str:
        questions = [question for name in SPLITS for question in self.splits[name]]
        without = sum(not question.passage_ids for question in questions)
        if without < len(questions):
            if without:
                self.notes.append(
                    f"{without} of {len(questions)} questions have no gold passage; retrieval is "
                    "scored without them."
                )
            return "annotated"
        if labels and questions:
            self.notes.append("No question has gold passages, and labels in passages tell none.")
            return "none"
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
        ids = (identity for (identity,) in self.passages.read("id") if identity not in gold)
        kept = gold.union(
            heapq.nsmallest(
                max(0, limit - len(gold)), ids, key=lambda identity: place_id(identity, "limit")
            )
        )
        total = len(self.passages)
        self._write(row for row in self.passages.read(*_COLUMNS) if row[0] in kept)
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


def _show(items: Iterable[Any], what: str, total: int | None = None) -> Iterable[Any]:
    """The items, with a bar that shows how far they have come."""
    from tqdm.auto import tqdm

    return tqdm(items, desc=what, unit=" passages", total=total, delay=2)

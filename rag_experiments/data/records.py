"""Rows turned into passages and questions, every field checked and every problem placed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import Field

from rag_experiments.contracts import Option, Passage, Question
from rag_experiments.data.fields import Fields, hash_text
from rag_experiments.data.passages import PassageWriter, join_content
from rag_experiments.data.problems import Problems, number, quote
from rag_experiments.data.tables import Table
from rag_experiments.functional.first_places import FirstPlaces

Column = Annotated[str, Field(min_length=1)]


class PassageColumns(Option):
    """Where the fields of a passage stand: a column, or a dotted path into nested fields."""

    id: Column | None = "id"
    """None: the id is a hash of title and text."""
    title: Column | None = "title"
    """Optional field; None: passages have no title."""
    text: Column = "text"
    missing: list[str] = Field(default=[])
    """Texts that mean that there is none, e.g. `nan`. Where it is given, such passages and
    those with a null or empty text are left out and counted, also as gold passages."""


class QuestionColumns(Option):
    """Where the fields of a question stand: a column, or a dotted path into nested fields.

    A path through a list takes the field of every item (`answers.text`); a number takes one
    item (`answers.0.text`).
    """

    id: Column | None = "id"
    """None: the id is a hash of the question."""
    question: Column = "question"
    answers: Column = "answers"
    """A text or a list of texts: the accepted answers. Whether there may be none is up to the
    task."""
    passage_ids: Column | None = "passage_ids"
    """Optional field: ids of the gold passages."""
    group: Column | None = "group"
    """Optional field: a named part of a split that is also scored by itself."""
    context: Column | None = None
    """A text or a list of texts that the question was asked about. Where the data has no
    passages of its own, these contexts are the passages and the gold passages."""
    context_title: Column | None = None
    join_contexts: bool = True
    """Whether a list of contexts makes one passage, joined by a space, or one passage each."""


class Located(NamedTuple):
    """A question and the place it was read from."""

    place: str
    question: Question


@dataclass
class ReadPassages:
    """Passages of one source."""

    passages: Sequence[Passage]
    """They are read from where they are when they are asked for."""
    places: FirstPlaces
    """Number of the row that an id stands in; that of a passage whose text is one that means none,
    and which is left out, is negative."""
    left_out: int
    """How many these are."""
    notes: list[str]

    def holds(self, passage_id: str) -> bool:
        """Whether there is such a passage."""
        return (self.places.find(passage_id) or 0) > 0

    def leaves_out(self, passage_id: str) -> bool:
        """Whether there is such a passage, but without a text."""
        return (self.places.find(passage_id) or 0) < 0


class Contexts:
    """Passages made of the contexts of questions; one that several questions share is one."""

    def __init__(self, cache_dir: Path):
        self.writer = PassageWriter(cache_dir)
        self.contents = FirstPlaces()
        self.ids: list[str] = []

    def add(self, passage: Passage) -> str:
        """Take a passage; return its id, or that of the first with the same title and text."""
        first = self.contents.add(join_content(passage.title, passage.text), len(self.ids))
        if first is not None:
            return self.ids[first]
        self.writer.add(passage.id, passage.title, passage.text)
        self.ids.append(passage.id)
        return passage.id


@dataclass
class ReadQuestions:
    """Questions of one source."""

    questions: list[Located] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_passages(
    table: Table, columns: PassageColumns, problems: Problems, cache_dir: Path
) -> ReadPassages:
    """Read and check the passages of a table; their texts go to a file in the cache folder."""
    reader = Fields(table, columns, problems, required=("id", "text"))
    places, left_out, writer = FirstPlaces(), 0, PassageWriter(cache_dir)
    for row in reader.rows():
        title = reader.optional_text(row, "title")
        none = bool(columns.missing) and reader.means_none(row, "text", columns.missing)
        text = "" if none else reader.text(row, "text")
        if columns.id is None:
            identity: str | None = hash_text(f"{title}\n{text}")
        else:
            identity = reader.identity(row, "id")
        if identity is None or text is None:
            continue
        first = places.add(identity, -row.number if none else row.number)
        if first is not None:
            if columns.id is not None:  # else it is the same passage once more
                place = f"{table.place(row.number)}:{columns.id}"
                message = f"{quote(identity)} is also the id of {table.place(abs(first))}"
                problems.add(place, message)
            continue
        if none:
            left_out += 1
        else:
            writer.add(identity, title, text)
    reader.check_optional()
    notes = list(table.notes)
    if left_out:
        shown = " or ".join(["empty", *map(repr, columns.missing)])
        notes.append(
            f"{table.name}: {number(left_out, 'passage')} left out, the text being {shown}."
        )
    return ReadPassages(writer.finish(), places, left_out, notes + reader.notes(other=()))


def read_questions(
    table: Table,
    columns: QuestionColumns,
    problems: Problems,
    separator: str = "|",
    made: Contexts | None = None,
) -> ReadQuestions:
    """Read and check the questions of a table; their contexts become passages in `made`, which
    are their gold passages (None: they have gold passages of their own).

    In CSV a cell with several answers or ids is a JSON list or separated by `separator`.
    """
    result = ReadQuestions()
    use_contexts = made is not None
    required = ["id", "question", "answers"]
    if use_contexts:
        required.append("context")
    reader = Fields(table, columns, problems, tuple(required), separator)
    places: dict[str, str] = {}
    without_answers = 0
    for row in reader.rows():
        text = reader.text(row, "question")
        if columns.id is None:
            identity: str | None = reader.hashed_identity(text)
        else:
            identity = reader.identity(row, "id")
        answers = reader.texts(row, "answers")
        passage_ids = () if use_contexts else reader.identities(row, "passage_ids")
        group = reader.optional_text(row, "group")
        contexts = reader.texts(row, "context") if use_contexts else ()
        if use_contexts and contexts == ():
            place = f"{table.place(row.number)}:{columns.context}"
            problems.add(place, "[] is empty; legal: one text or more")
        if (
            identity is None
            or text is None
            or answers is None
            or passage_ids is None
            or contexts is None
        ):
            continue
        if identity in places:
            place = f"{table.place(row.number)}:{columns.id}"
            problems.add(place, f"{quote(identity)} is also the id of {places[identity]}")
            continue
        places[identity] = table.place(row.number)
        without_answers += not answers
        if made is not None:
            title = reader.optional_text(row, "context_title")
            own = _make_passages(identity, title, contexts, columns.join_contexts)
            passage_ids = tuple(map(made.add, own))
        question = Question(identity, text, answers, passage_ids, group)
        result.questions.append(Located(places[identity], question))
    reader.check_optional()
    if without_answers:
        result.notes.append(
            f"{table.name}: {number(without_answers, 'question')} without an answer."
        )
    other = () if use_contexts else (columns.context, columns.context_title)
    result.notes += reader.notes(other)
    return result


def _make_passages(identity: str, title: str, contexts: Sequence[str], join: bool) -> list[Passage]:
    if not contexts:
        return []
    if join or len(contexts) == 1:
        return [Passage(identity, title, " ".join(contexts))]
    return [Passage(f"{identity}-{i}", title, text) for i, text in enumerate(contexts)]

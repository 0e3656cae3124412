"""Rows turned into passages and questions, every field checked and every problem placed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, NamedTuple

from pydantic import Field

from rag_experiments.contracts import Option, Passage, Question
from rag_experiments.data.fields import Fields, hash_text
from rag_experiments.data.problems import Problems, number, quote
from rag_experiments.data.tables import Table

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

    passages: list[Passage] = field(default_factory=list)
    left_out: set[str] = field(default_factory=set)
    """Ids of passages whose text is one that means none."""
    notes: list[str] = field(default_factory=list)


@dataclass
class ReadQuestions:
    """Questions of one source and the contexts that stand with them."""

    questions: list[Located] = field(default_factory=list)
    contexts: list[list[Passage]] = field(default_factory=list)
    """Of each question; all empty where no context is read."""
    notes: list[str] = field(default_factory=list)


def read_passages(table: Table, columns: PassageColumns, problems: Problems) -> ReadPassages:
    """Read and check the passages of a table."""
    result = ReadPassages(notes=list(table.notes))
    reader = Fields(table, columns, problems, required=("id", "text"))
    places: dict[str, str] = {}
    for row in reader.rows():
        title = reader.optional_text(row, "title")
        none = bool(columns.missing) and reader.means_none(row, "text", columns.missing)
        text = "" if none else reader.text(row, "text")
        if columns.id is None:
            identity: str | None = hash_text(f"{title}\n{text}")
            if text is not None and identity in places:
                continue  # the same passage once more
        else:
            identity = reader.identity(row, "id")
        if identity is None or text is None:
            continue
        if identity in places:
            place = f"{row.place}:{columns.id}"
            problems.add(place, f"{quote(identity)} is also the id of {places[identity]}")
            continue
        places[identity] = row.place
        if none:
            result.left_out.add(identity)
        else:
            result.passages.append(Passage(identity, title, text))
    reader.check_optional()
    if result.left_out:
        shown = " or ".join(["empty", *map(repr, columns.missing)])
        result.notes.append(
            f"{table.name}: {number(len(result.left_out), 'passage')} left out, the text being "
            f"{shown}."
        )
    result.notes += reader.notes(other=())
    return result


def read_questions(
    table: Table,
    columns: QuestionColumns,
    problems: Problems,
    separator: str = "|",
    use_contexts: bool = False,
) -> ReadQuestions:
    """Read and check the questions of a table.

    In CSV a cell with several answers or ids is a JSON list or separated by `separator`.
    """
    result = ReadQuestions()
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
            problems.add(f"{row.place}:{columns.context}", "[] is empty; legal: one text or more")
        if (
            identity is None
            or text is None
            or answers is None
            or passage_ids is None
            or contexts is None
        ):
            continue
        if identity in places:
            place = f"{row.place}:{columns.id}"
            problems.add(place, f"{quote(identity)} is also the id of {places[identity]}")
            continue
        places[identity] = row.place
        without_answers += not answers
        question = Question(identity, text, answers, passage_ids, group)
        result.questions.append(Located(row.place, question))
        title = reader.optional_text(row, "context_title") if use_contexts else ""
        result.contexts.append(_make_passages(identity, title, contexts, columns.join_contexts))
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

"""Rows turned into passages and questions, every field checked and every problem placed."""

from __future__ import annotations

import ast
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from rag_experiments.contracts import Option, Passage, Question
from rag_experiments.data.problems import Problems, list_names, number, quote
from rag_experiments.data.tables import Row, Table

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
    """A text or a list of texts: the accepted answers."""
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


_ABSENT = object()


def get_field(values: Any, path: str) -> Any:
    """Value at a dotted path, or a marker that it is absent (see `is_absent`)."""
    if isinstance(values, Mapping):
        if path in values:  # a column whose own name has a dot
            return values[path]
        head, _, rest = path.partition(".")
        if rest and head in values:
            return get_field(values[head], rest)
        return _ABSENT
    if isinstance(values, Sequence) and not isinstance(values, str | bytes):
        head, _, rest = path.partition(".")
        if head.isdigit():
            if int(head) >= len(values):
                return _ABSENT
            return get_field(values[int(head)], rest) if rest else values[int(head)]
        found = [get_field(item, path) for item in values]
        return _ABSENT if any(item is _ABSENT for item in found) else found
    return _ABSENT


def is_absent(value: Any) -> bool:
    """Whether `get_field` found nothing."""
    return value is _ABSENT


def hash_text(text: str) -> str:
    """Id made from a content, the same in every run: 16 hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_passages(table: Table, columns: PassageColumns, problems: Problems) -> ReadPassages:
    """Read and check the passages of a table."""
    result = ReadPassages()
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
    hashed: Counter[str] = Counter()
    without_answers = 0
    for row in reader.rows():
        text = reader.text(row, "question")
        if columns.id is None:
            identity: str | None = hash_text(text or "")
            hashed[str(identity)] += 1
            if hashed[str(identity)] > 1:
                identity = f"{identity}-{hashed[str(identity)]}"
        else:
            identity = reader.identity(row, "id")
        answers = reader.texts(row, "answers")
        passage_ids = () if use_contexts else reader.identities(row, "passage_ids")
        group = reader.optional_text(row, "group")
        contexts = reader.texts(row, "context") if use_contexts else ()
        if answers == () and passage_ids == () and not use_contexts:
            place = f"{row.place}:{columns.answers}"
            problems.add(place, "[] is empty, and so are the gold passages; legal: either of them")
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


class Fields:
    """Reads the fields of a table's rows through a column map and notes what is wrong."""

    def __init__(
        self,
        table: Table,
        columns: Option,
        problems: Problems,
        required: tuple[str, ...],
        separator: str = "|",
    ):
        self.table = table
        self.problems = problems
        self.separator = separator
        self.required = required
        self.columns: dict[str, str] = {
            name: value
            for name, value in columns.model_dump().items()
            if name not in ("missing", "join_contexts") and value is not None
        }
        self.defaults = {name: info.default for name, info in type(columns).model_fields.items()}
        self.seen: set[str] = set()
        self.present: dict[str, None] = {}
        self.count = 0

    def rows(self) -> Iterator[Row]:
        """Rows of the table; none where a column that every row needs is missing."""
        if not self.table.readable:
            return
        if self.table.columns is not None and not self._check_header(self.table.columns):
            return
        from tqdm.auto import tqdm

        name = self.table.name.rsplit("/", 1)[-1]
        for row in tqdm(self.table.rows, desc=f"reading {name}", unit=" records", delay=2):
            self.count += 1
            self.present.update(dict.fromkeys(row.values))
            yield row

    def _check_header(self, header: tuple[str, ...]) -> bool:
        good = True
        for name, column in self.columns.items():
            if not self._is_expected(name):
                continue
            if column in header or column.partition(".")[0] in header:
                continue
            place = f"{self.table.name}:{column}"
            self.problems.add(place, f"no such column; {list_names(column, header)}")
            good = False
        return good

    def _is_expected(self, name: str) -> bool:
        """Whether the field is required, or optional in a column that the user named."""
        named = name in _OPTIONAL and self.columns[name] != self.defaults[name]
        return name in self.required or named

    def check_optional(self) -> None:
        """Note an optional column that the user named and that no row has."""
        for name, column in self.columns.items():
            if name in self.required or not self._is_expected(name):
                continue
            if self.count and column not in self.seen:
                place = f"{self.table.name}:{column}"
                message = f"no record has this field; {list_names(column, self.present)}"
                self.problems.add(place, message)

    def notes(self, other: Sequence[str | None]) -> list[str]:
        """Sentence on the fields that are not read, with a hint where one looks misspelled."""
        used = {
            column if column in self.present else column.partition(".")[0]
            for column in (*self.columns.values(), *(name for name in other if name))
        }
        unused = [name for name in self.present if name not in used]
        if not unused:
            return []
        import difflib

        absent = [c for c in self.columns.values() if c not in self.seen]
        hints = []
        for name in unused:
            close = difflib.get_close_matches(name, absent, n=1, cutoff=0.75)
            hints.append(f"{name} (did you mean {close[0]}?)" if close else name)
        return [f"{self.table.name}: fields that are not used: {', '.join(hints)}."]

    def _get(self, row: Row, name: str) -> Any:
        if name not in self.columns:
            return _ABSENT
        column = self.columns[name]
        value = get_field(row.values, column)
        if value is not _ABSENT:
            self.seen.add(column)
        elif name in self.required:
            place = f"{row.place}:{column}"
            self.problems.add(place, f"the field is missing; {list_names(column, row.values)}")
        return value

    def _refuse(self, row: Row, name: str, value: Any, legal: str) -> None:
        place = f"{row.place}:{self.columns[name]}"
        kind = {"NoneType": "null", "dict": "object", "str": "string"}
        found = kind.get(type(value).__name__, type(value).__name__)
        if isinstance(value, str) and not value.strip():
            self.problems.add(place, f"{quote(value)} is empty; legal: {legal}")
        elif value is None:
            self.problems.add(place, f"null; legal: {legal}")
        else:
            self.problems.add(place, f"{quote(value)} is of type {found}; legal: {legal}")

    def text(self, row: Row, name: str) -> str | None:
        """A text that must be there and not be empty; None where it is wrong."""
        value = self._get(row, name)
        if value is _ABSENT:
            return None
        if isinstance(value, str) and value.strip():
            return value
        self._refuse(row, name, value, "a text that is not empty")
        return None

    def joined(self, row: Row, name: str) -> str | None:
        """A text, or a list of texts joined by spaces, that is not empty; None: it is wrong."""
        value = self._get(row, name)
        if value is _ABSENT:
            return None
        pieces = value if isinstance(value, list | tuple) else [value]
        if all(isinstance(piece, str) for piece in pieces):
            text = " ".join(piece for piece in pieces if piece.strip())
            if text.strip():
                return text
        self._refuse(row, name, value, "a text that is not empty, or a list of texts")
        return None

    def means_none(self, row: Row, name: str, missing: Sequence[str]) -> bool:
        """Whether a field that is there holds null, nothing, or a text that means none."""
        value = get_field(row.values, self.columns[name])
        if isinstance(value, str):
            return not value.strip() or value.strip() in missing
        return value is None

    def optional_text(self, row: Row, name: str) -> str:
        """A text that may be absent, null or empty; then it is the empty text."""
        value = self._get(row, name)
        if value is _ABSENT or value is None:
            return ""
        if isinstance(value, str):
            return value.strip()
        self._refuse(row, name, value, "a text, or nothing")
        return ""

    def identity(self, row: Row, name: str) -> str | None:
        """An id, which may be written as a whole number; None where it is wrong."""
        value = self._get(row, name)
        if value is _ABSENT:
            return None
        text = _to_text(value)
        if text is None:
            self._refuse(row, name, value, "a string or a whole number")
        return text

    def texts(self, row: Row, name: str) -> tuple[str, ...] | None:
        """A text or a list of texts as a tuple; None where it is wrong."""
        value = self._get(row, name)
        if value is _ABSENT:
            return None
        if self.table.text_cells and isinstance(value, str):
            value = _split_cell(value, self.separator) if value.strip() else []
        return self._to_texts(row, name, value, "a text or a list of texts")

    def identities(self, row: Row, name: str) -> tuple[str, ...] | None:
        """Ids as a tuple, empty where the field is absent, null or empty; None: wrong."""
        value = self._get(row, name)
        if value is _ABSENT or value is None or value == "":
            return ()
        if isinstance(value, str):
            # Outside CSV, too: some Hub data sets write a list as text.
            separator = self.separator if self.table.text_cells else None
            value = _split_cell(value, separator)
        return self._to_texts(row, name, value, "an id or a list of ids")

    def _to_texts(self, row: Row, name: str, value: Any, legal: str) -> tuple[str, ...] | None:
        items = list(value) if isinstance(value, list | tuple) else [value]
        texts = [_to_text(item) for item in items]
        for item, text in zip(items, texts, strict=True):
            if text is None:
                self._refuse(row, name, item, legal)
        if any(text is None for text in texts):
            return None
        return tuple(dict.fromkeys(text for text in texts if text is not None))


_OPTIONAL = ("title", "passage_ids", "group", "context_title")


def _to_text(value: Any) -> str | None:
    """A text that is not empty, or a whole number as a text; else None."""
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return None


def _split_cell(cell: str, separator: str | None) -> Any:
    """A list written as text: JSON, as Python prints it, or separated; else the text."""
    text = cell.strip()
    if text.startswith("[") and text.endswith("]"):
        for parse in (json.loads, ast.literal_eval):
            try:
                value = parse(text)
            except (ValueError, SyntaxError):
                continue
            if isinstance(value, list):
                return value
    if separator is not None and separator in text:
        return [item.strip() for item in text.split(separator) if item.strip()]
    return cell

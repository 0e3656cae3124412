"""Fields of a table's rows, read through a column map, each checked and every problem placed."""

from __future__ import annotations

import ast
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rag_experiments.contracts import Option
from rag_experiments.data.problems import Problems, list_names, quote
from rag_experiments.data.tables import Row, Table

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
        if head.isdecimal():
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
        self.hashed: Counter[str] = Counter()

    def rows(self) -> Iterator[Row]:
        """Rows of the table; none where a column that every row needs is missing."""
        if not self.table.readable:
            return
        if self.table.columns is not None and not self._check_header(self.table.columns):
            return
        from tqdm.auto import tqdm

        name = self.table.name.rsplit("/", 1)[-1]
        rows, total = self.table.rows, self.table.count
        for row in tqdm(rows, desc=f"reading {name}", unit=" records", total=total, delay=2):
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
            message = f"no such column; {list_names(column, header)}{_hint(name)}"
            self.problems.add(place, message)
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
            place = f"{self.table.place(row.number)}:{column}"
            message = f"the field is missing; {list_names(column, row.values)}{_hint(name)}"
            self.problems.add(place, message)
        return value

    def _refuse(self, row: Row, name: str, value: Any, legal: str) -> None:
        place = f"{self.table.place(row.number)}:{self.columns[name]}"
        kind = {"NoneType": "null", "dict": "object", "str": "string"}
        found = kind.get(type(value).__name__, type(value).__name__)
        if isinstance(value, str) and not value.strip():
            self.problems.add(place, f"{quote(value)} is empty; legal: {legal}")
        elif value is None:
            self.problems.add(place, f"null; legal: {legal}")
        elif isinstance(value, str) and not _is_whole(value):
            half = r"has half of a character (\ud800 to \udfff alone)"
            self.problems.add(place, f"{quote(value)} {half}; legal: {legal}")
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

    def hashed_identity(self, text: str | None) -> str:
        """An id made of a text; where the same text comes again, with a number."""
        identity = hash_text(text or "")
        self.hashed[identity] += 1
        count = self.hashed[identity]
        return identity if count == 1 else f"{identity}-{count}"

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


def _hint(name: str) -> str:
    """How to do without a field, where that is possible."""
    return " (id=null in the map of columns makes ids of the content)" if name == "id" else ""


def _to_text(value: Any) -> str | None:
    """A text that is not empty, or a whole number as a text; else None."""
    if isinstance(value, str):
        return (value.strip() or None) if _is_whole(value) else None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return None


def _is_whole(text: str) -> bool:
    """Whether a text has no half of a surrogate pair: a list in a cell is JSON, and can."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _split_cell(cell: str, separator: str | None) -> Any:
    """A list written as text: JSON, as Python prints it, or separated; else the text."""
    text = cell.strip()
    if text.startswith("[") and text.endswith("]"):
        for parse in (json.loads, ast.literal_eval):
            try:
                value = parse(text)
            except (ValueError, SyntaxError, RecursionError, MemoryError):  # nested too deeply
                continue
            if isinstance(value, list):
                return value
    if separator is not None and separator in text:
        return [item.strip() for item in text.split(separator) if item.strip()]
    return cell

"""Files of records as tables: JSON lines, CSV and Parquet, with the place of every row."""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rag_experiments.data.problems import Problems, list_names, quote

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
"""Endings of the files that can be read; `.json` is read as JSON lines too."""


class Row(NamedTuple):
    """A record as it stands in the file."""

    number: int
    """The line that it stands in; of formats without lines the row, from 1."""
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """Records with one source: a file or a split of a Hub data set."""

    name: str
    rows: Iterable[Row]
    columns: tuple[str, ...] | None = None
    """Names that every row has; None where each row has its own (JSON lines)."""
    text_cells: bool = False
    """Whether every value is text, so that lists are written as text (CSV)."""
    readable: bool = True
    """False where the source could not be read at all; its problem is noted already."""
    count: int | None = None
    """How many rows there are at most, where that is known before they are read."""
    unit: str = ""
    """What rows are counted in, e.g. `row `; empty: lines."""
    notes: Sequence[str] = ()
    """What was not read of the source, in sentences; whole when all rows were read."""

    def place(self, number: int) -> str:
        """Where a row stands, e.g. `train.jsonl:12`."""
        return f"{self.name}:{self.unit}{number}"


def open_table(path: Path, problems: Problems, delimiter: str = ",") -> Table:
    """Open a file by its ending; what is wrong with its lines is noted as they are read.

    A byte order mark and Windows line ends are fine. CSV cells stay text.
    """
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _open_parquet(path, problems)
    if suffix in (".csv", ".tsv"):
        return _open_csv(path, problems, "\t" if suffix == ".tsv" else delimiter)
    return Table(str(path), _read_json_lines(path, problems))


def find_file_problem(path: Path) -> str | None:
    """What is wrong with a path to a single file, or None; opens nothing."""
    if path.is_dir():
        return f"{str(path)!r} is a folder; a file is expected ({', '.join(SUFFIXES)})"
    if not path.exists():
        return f"{str(path)!r} does not exist; {_list_neighbors(path)}"
    if path.suffix.lower() not in SUFFIXES:
        return f"{str(path)!r} has an ending that is not known; legal: {', '.join(SUFFIXES)}"
    return None


def find_folder_problem(path: Path) -> str | None:
    """What is wrong with a path to a folder, or None."""
    if path.is_dir():
        return None
    if path.exists():
        return f"{str(path)!r} is a file; a folder is expected (data=files reads single files)"
    return f"{str(path)!r} does not exist; {_list_neighbors(path)}"


def _list_neighbors(path: Path) -> str:
    if not path.parent.is_dir():
        return f"neither does its folder {str(path.parent)!r}"
    names = sorted(other.name for other in path.parent.iterdir() if not other.name.startswith("."))
    return f"in {str(path.parent)!r} {list_names(path.name, names)}"


def _read_json_lines(path: Path, problems: Problems) -> Iterator[Row]:
    with path.open("rb") as stream:
        for number, raw in enumerate(stream, start=1):
            place = f"{path}:{number}"
            try:
                # Only the first line can start with a byte order mark.
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            except UnicodeDecodeError as error:
                problems.add(place, describe_bytes(error))
                if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
                    return  # UTF-16: every line after it would be wrong as well
                continue
            if not line:
                continue
            if number == 1 and (line.startswith("[") or line == "{"):
                what = "a JSON list" if line != "{" else "an object that goes over several lines"
                problems.add(place, f"starts {what}; legal: JSON lines, that is one object a line")
                return
            try:
                record = json.loads(line, object_pairs_hook=_make_object)
                half = rb"\ud" in raw.lower() and not _is_unicode(record)
            except json.JSONDecodeError as error:
                problems.add(place, f"not JSON: {error.msg} at column {error.colno}")
                continue
            except _Twice as error:
                problems.add(place, f"{quote(str(error))} is there twice; legal: each field once")
                continue
            except RecursionError:
                problems.add(place, "not JSON that can be read: it is nested too deeply")
                continue
            except ValueError:  # Python converts no more digits than that
                problems.add(place, "not JSON that can be read: a number of more than 4300 digits")
                continue
            if half:
                problems.add(place, r"half of a character (\ud800 to \udfff alone) is not a text")
                continue
            if not isinstance(record, dict):
                problems.add(place, f"{quote(record)} is not a JSON object; legal: {{...}}")
                continue
            yield Row(number, record)


class _Twice(Exception):
    """A field that an object has twice: one of the values would be lost without a word."""


def _make_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        raise _Twice(next(name for name in names if names.count(name) > 1))
    return made


def _is_unicode(record: Any) -> bool:
    """Whether no text has half of a surrogate pair, which JSON can write but no model reads."""
    try:
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def describe_bytes(error: UnicodeDecodeError, before: int = 0) -> str:
    """What is wrong with the bytes of a text, and what to do; `before` are bytes that it begins
    with and that are fine."""
    byte, position = error.object[error.start], before + error.start + 1
    return f"byte 0x{byte:02x} at position {position} is not UTF-8; save the file as UTF-8"


def _open_csv(path: Path, problems: Problems, delimiter: str) -> Table:
    unreadable = Table(str(path), (), readable=False)
    if not _is_utf8(path, problems):
        return unreadable
    csv.field_size_limit(2**31 - 1)  # the default of 128 KiB is less than a long document
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            header = next(csv.reader(stream, delimiter=delimiter, strict=True), None)
    except csv.Error as error:
        problems.add(f"{path}:1", f"not CSV: {error}")
        return unreadable
    if header is None:
        problems.add(str(path), "the file is empty; the first line names the columns")
        return unreadable
    header = [name.strip() for name in header]
    marks = [mark for mark in ";\t|" if mark in header[0]] if len(header) == 1 else []
    if marks:
        remedy = "save it as .tsv" if "\t" in marks else f"set data.delimiter='\"{marks[0]}\"'"
        what = f"{quote(header[0])} is one column; legal: columns divided by {delimiter!r}"
        problems.add(f"{path}:1", f"{what}, or {remedy} (data=files)")
        return unreadable
    if twice := _find_twice(header):
        problems.add(f"{path}:1", twice)
        return unreadable
    rows = _read_csv_rows(path, delimiter, header, problems)
    return Table(str(path), rows, columns=tuple(header), text_cells=True)


def _is_utf8(path: Path, problems: Problems) -> bool:
    """Whether a file is text, before any row of it is taken for one; else a problem is noted."""
    before = 0
    with path.open("rb") as stream:
        for number, raw in enumerate(stream, start=1):
            if number == 1:
                raw = raw.removeprefix(codecs.BOM_UTF8)
            try:
                raw.decode("utf-8")
            except UnicodeDecodeError as error:
                problems.add(f"{path}:{number}", describe_bytes(error, before))
                return False
            before += len(raw)
    return True


def _find_twice(header: Sequence[str]) -> str | None:
    """What is wrong with the names of columns, or None."""
    twice = sorted({name for name in header if header.count(name) > 1})
    return f"columns that occur twice: {', '.join(map(quote, twice))}" if twice else None


def _read_csv_rows(
    path: Path, delimiter: str, header: list[str], problems: Problems
) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.reader(stream, delimiter=delimiter, strict=True)
        next(reader)  # the header
        while True:
            number = reader.line_num + 1  # a quoted cell may go over several lines
            place = f"{path}:{number}"
            try:
                cells = next(reader, None)
            except csv.Error as error:
                problems.add(place, f"not CSV: {error}; the lines after it were not read")
                return
            if cells is None:
                return
            if not cells:
                continue
            if len(cells) != len(header):
                legal = f"{len(header)}, as in the first line"
                problems.add(place, f"{len(cells)} cells; legal: {legal}")
                continue
            yield Row(number, dict(zip(header, cells, strict=True)))


def _open_parquet(path: Path, problems: Problems) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    unreadable = Table(str(path), (), readable=False)
    try:
        file = pq.ParquetFile(path)
        header = tuple(file.schema_arrow.names)
    except (pa.ArrowException, OSError, ValueError) as error:
        problems.add(str(path), f"not a Parquet file: {_first_line(error)}")
        return unreadable
    if twice := _find_twice(header):
        problems.add(str(path), twice)
        return unreadable
    return Table(str(path), _read_parquet_rows(path, file, problems), header, unit="row ")


def _read_parquet_rows(path: Path, file: Any, problems: Problems) -> Iterator[Row]:
    import pyarrow as pa

    number = 0
    try:
        for group in range(file.num_row_groups):  # else arrow may hold several at once
            for batch in file.iter_batches(batch_size=100, row_groups=[group]):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(number, values)
    # What a damaged page makes of itself, which may be a text that is not UTF-8 or an endless one.
    except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        reason = f"damaged: {_first_line(error)}; this row and those after it were not read"
        problems.add(f"{path}:row {number + 1}", reason)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]

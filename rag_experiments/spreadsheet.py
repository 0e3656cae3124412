"""Tables that people fill: CSV that spreadsheet programs open, and save each in its own way."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rag_experiments.contracts import UserError

_FORMULA = re.compile(r"'*[=+\-@\t\r]")


def write_table(file: Path, columns: Sequence[str], rows: Iterable[Mapping[str, str]]) -> None:
    """Write a table; a row's missing cells are empty, and no cell is taken for a formula.

    A text that would be one (it begins with = + - @) gets an apostrophe in front, which
    `read_table` takes off.
    """
    # With a mark of the encoding, without which spreadsheet programs garble Greek letters.
    with file.open("w", encoding="utf-8-sig", newline="") as opened:
        writer = csv.DictWriter(opened, columns, restval="")
        writer.writeheader()
        for row in rows:
            writer.writerow({name: _guard(cell) for name, cell in row.items()})


def read_table(file: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Read a table as it was written, or as a spreadsheet program has saved it.

    Row i of the result is row i + 2 as such a program shows it. Raises UserError where it is no
    table, a column is missing, or a row has more cells than there are columns.
    """
    csv.field_size_limit(2**31 - 1)  # the default of 128 KiB is less than a long passage
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            head = opened.readline()
            opened.seek(0)
            delimiter = max(",;\t", key=head.count)  # some programs save with another one
            reader = csv.DictReader(opened, delimiter=delimiter, restval="")
            rows, surplus = [], []
            for number, row in enumerate(reader, start=2):
                more: Any = row.pop(None, [])
                if any(more):
                    surplus.append((number, next(filter(None, more))))
                rows.append({name: _free(cell) for name, cell in row.items()})
            names = reader.fieldnames or ()
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: is not UTF-8; save it as CSV in UTF-8 once more") from error
    except csv.Error as error:
        raise UserError(f"{file}: is no CSV ({error}); save it as CSV once more") from error
    missing = [name for name in columns if name not in names]
    if missing:
        raise UserError(
            f"{file}: columns are missing: {', '.join(missing)}; legal: all of {', '.join(columns)}"
        )
    if surplus:
        raise UserError(
            [
                f"{file}:row {number}: has more cells than there are columns, the first of them "
                f"{cell[:60]!r}; a text that has {delimiter!r} in it needs quotation marks"
                for number, cell in surplus
            ]
        )
    return rows


def _guard(cell: str) -> str:
    return f"'{cell}" if _FORMULA.match(cell) else cell


def _free(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell

"""Tables that people fill: CSV that spreadsheet programs open, and save each in its own way."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path

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


def read_table(file: Path, columns: Sequence[str]) -> dict[int, dict[str, str]]:
    """Read a table as it was written, or as a spreadsheet program has saved it: its rows by the
    numbers that such a program shows.

    Cells that a row lacks are empty; rows without a cell are left out. Raises UserError where it is
    no table, a column is missing, or a row has more cells than there are columns.
    """
    csv.field_size_limit(2**31 - 1)  # the default of 128 KiB is less than a long passage
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            head = opened.readline()
            # Programs that read a first line "sep=;" do not show it.
            told = re.fullmatch(r'"?sep=(.)"?\s*', head)
            if told is None:
                opened.seek(0)
            # Some programs save with another delimiter than they were given.
            delimiter = told[1] if told else max(",;\t", key=head.count)
            names, *lines = list(csv.reader(opened, delimiter=delimiter)) or [[]]
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
    numbered = {number: cells for number, cells in enumerate(lines, start=2) if cells}
    surplus = {n: found for n, cells in numbered.items() if (found := "".join(cells[len(names) :]))}
    if surplus:
        raise UserError(
            [
                f"{file}:row {number}: has more cells than there are columns: {found[:60]!r}; a "
                f"text that has {delimiter!r} in it needs quotation marks"
                for number, found in surplus.items()
            ]
        )
    return {
        number: dict(zip_longest(names, map(_free, cells[: len(names)]), fillvalue=""))
        for number, cells in numbered.items()
    }


def _guard(cell: str) -> str:
    return f"'{cell}" if _FORMULA.match(cell) else cell


def _free(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell

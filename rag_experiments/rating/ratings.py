"""What raters have said: one append-only file for each, so that nothing is ever overwritten."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock

from rag_experiments.contracts import UserError
from rag_experiments.rating.criteria import NAMES, NO_JUDGMENT, TEXTS, VALUES
from rag_experiments.rating.sheet import COLUMNS, SHEET, Item
from rag_experiments.spreadsheet import read_table

log = logging.getLogger(__name__)

FOLDER = "ratings"

Answers = dict[tuple[str, str], int | str]
"""What one rater said last, by item and field (a criterion, `corrected` or `comment`)."""


@dataclass(frozen=True, slots=True)
class Rater:
    """One rater's answers."""

    name: str
    answers: Answers


class RatingFile:
    """Answers of one rater in a file of JSON lines; the last line on a field counts.

    Every answer is on disk when `add` returns. Several processes may add to the same file.
    """

    def __init__(self, sheet: Path, rater: str):
        if not re.fullmatch(r"\w[\w .@-]{0,59}", rater):
            raise UserError(
                f"--rater: {rater!r} is no name for a file; legal: up to 60 letters, digits, "
                "spaces and . @ - _"
            )
        self.path = sheet / FOLDER / f"{rater}.jsonl"
        table = self.path.with_suffix(".csv")
        if table.exists():
            raise UserError(
                f"--rater: {rater} has rated in {table} already; rate on in that table, or "
                "give another name"
            )

    def add(self, item: str, field: str, value: int | str) -> None:
        """Append one answer."""
        line = {
            "item": item,
            "field": field,
            "value": value,
            "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }
        self.path.parent.mkdir(exist_ok=True)
        with FileLock(f"{self.path}.lock"), self.path.open("a+b") as file:
            _drop_torn_line(file, self.path)
            file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def read(self, items: Iterable[Item]) -> Answers:
        """Return what was said last; raise UserError where a line is not of this sheet."""
        if not self.path.is_file():
            return {}
        names = {item.name for item in items}
        answers: Answers = {}
        lines = self.path.read_bytes().split(b"\n")
        if lines.pop():
            log.warning("%s: the last line is not whole and is left out", self.path)
        for number, line in enumerate(lines, start=1):
            place = f"{self.path}:{number}"
            try:
                entry = json.loads(line)
                item, field, value = entry["item"], entry["field"], entry["value"]
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{place}: is no rating ({error}); remove the line") from error
            if item not in names:
                raise UserError(f"{place}:item: {item!r} is not in the sheet")
            if field in NAMES and value not in (*VALUES, NO_JUDGMENT):
                raise UserError(f"{place}:value: {value!r}; legal: 0 to 5")
            if field not in (*NAMES, *TEXTS):
                raise UserError(f"{place}:field: {field!r}; legal: {', '.join((*NAMES, *TEXTS))}")
            answers[item, field] = value
        return answers


def read_all(sheet: Path, items: list[Item]) -> list[Rater]:
    """Read every rater's answers: files of the page, and filled tables `ratings/<name>.csv`.

    Raises UserError with all that is wrong, and where nothing was rated.
    """
    problems: list[str] = []
    raters: list[Rater] = []
    for path in sorted((sheet / FOLDER).glob("*.*")):
        try:
            if path.suffix == ".jsonl":
                raters.append(Rater(path.stem, RatingFile(sheet, path.stem).read(items)))
            elif path.suffix == ".csv":
                raters.append(Rater(path.stem, read_filled(path, items)))
        except UserError as error:
            problems += error.problems
    if any(read_filled(sheet / SHEET, items)):
        problems.append(
            f"{sheet / SHEET}: was filled in itself; save it as {sheet / FOLDER}/<name>.csv and "
            "empty the columns in the sheet, so that it is known whose ratings these are"
        )
    if problems:
        raise UserError(problems)
    return [rater for rater in raters if rater.answers]


def read_filled(path: Path, items: list[Item]) -> Answers:
    """Read ratings that were typed into a copy of the sheet's table."""
    known = {item.name: item for item in items}
    answers: Answers = {}
    problems = []
    for number, row in read_table(path, COLUMNS).items():
        item = known.get(row["item"].strip())
        # Not the answer: spreadsheet programs take some for numbers or dates.
        if item is None or item.question.split() != row["question"].split():
            problems.append(
                f"{path}:row {number}:item: {row['item']!r} has not this question in the sheet"
            )
            continue
        for field in NAMES:
            cell = row[field].strip()
            if not cell:
                continue
            # Some spreadsheet programs save a whole number as 3.0, or as 3,0.
            whole = re.fullmatch(r"(\d)(?:[.,]0+)?", cell)
            if whole is None or int(whole[1]) not in (*VALUES, NO_JUDGMENT):
                problems.append(
                    f"{path}:row {number}:{field}: {cell!r}; legal: 1 to 5, 0 (cannot say), empty"
                )
                continue
            answers[item.name, field] = int(whole[1])
        for field in TEXTS:
            if (row.get(field) or "").strip():
                answers[item.name, field] = row[field].strip()
    if problems:
        raise UserError(problems)
    return answers


def _drop_torn_line(file: BinaryIO, path: Path) -> None:
    """Remove what a crash left of a line; its answer was never reported as saved."""
    file.seek(0)
    content = file.read()
    if content and not content.endswith(b"\n"):
        whole = content.rfind(b"\n") + 1
        log.warning("%s: removed the last line, which was not whole", path)
        file.truncate(whole)

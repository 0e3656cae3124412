"""Problems found while data is read: collected, then reported together."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from rag_experiments.contracts import UserError

PRINTED_PROBLEMS = 20
"""Lines that a report holds at most; the rest is counted."""


class Problems:
    """Collects what is wrong with the records, one line each, and raises it all at once."""

    def __init__(self, printed: int = PRINTED_PROBLEMS):
        self.printed = printed
        self.lines: list[str] = []
        self.count = 0

    def add(self, place: str, message: str) -> None:
        """Note one problem; `place` is file:line:field, or as much of it as there is."""
        self.count += 1
        if self.count <= self.printed:
            self.lines.append(f"{place}: {message}")

    def raise_if_any(self) -> None:
        """Raise UserError with every problem noted so far."""
        if self.count == 0:
            return
        lines = list(self.lines)
        if self.count > self.printed:
            more = number(self.count - self.printed, "more problem")
            lines.append(f"and {more} in the data; mend these first")
        raise UserError(lines)


def quote(value: Any, length: int = 60) -> str:
    """The value as it is shown in a problem: its repr, shortened."""
    return _shorten(repr(value), length)


def number(count: int, noun: str) -> str:
    """The count with its noun: `1 passage`, `2 passages`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def list_names(name: str, names: Iterable[str]) -> str:
    """What there is instead of `name`: the nearest spelling first, then all names."""
    names = [_shorten(str(other), 60) for other in names]
    if not names:
        return "there is none"
    close = difflib.get_close_matches(name, names, n=1)
    shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    return (f"did you mean {close[0]!r}? " if close else "") + f"there are: {shown}"


def _shorten(text: str, length: int) -> str:
    """In one line, whatever a file has for a name."""
    if not text.isprintable():
        text = repr(text)
    return text if len(text) <= length else f"{text[: length - 3]}..."

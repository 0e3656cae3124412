"""Texts of data files on a terminal."""

from __future__ import annotations

import re

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def plain(text: str) -> str:
    """Return a text without the control characters by which it would steer the terminal that it
    is printed on, or turn round what is read there; lines and tabs stay."""
    return _CONTROLS.sub("�", text)

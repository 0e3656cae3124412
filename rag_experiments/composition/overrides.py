"""Single overrides of a command line, e.g. `retriever.top_k=5`."""

from __future__ import annotations

import re
from collections.abc import Iterable

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import OverrideParseException

LONGEST = 400
"""Characters of an override, or of a value in it, that a message shows whole."""

_KEPT = 60
"""Characters of each end of a longer one that it shows."""


def parse(line: str) -> Override:
    """Return an override as Hydra reads it; raise OverrideParseException where it does not."""
    try:
        return OverridesParser.create().parse_override(line)
    except RecursionError:
        raise OverrideParseException(line, "it is nested too deeply") from None


def read_key(line: str) -> str:
    """Return the key or the group that an override sets."""
    return line.split("=", 1)[0].lstrip("+~")


def read_choices(override: Override) -> list[str]:
    """Return the options that an override of a group names; raise ValueError for null or {}."""
    if override.is_delete() or (override.is_sweep_override() and not override.is_discrete_sweep()):
        return []
    if override.is_sweep_override():
        return list(override.sweep_string_iterator())
    value = override.value()
    if value == {}:
        raise ValueError("an empty group changes nothing; choose one of its options")
    if isinstance(value, dict):
        return []
    if value is None:
        raise ValueError("a group is left out with ~group; choose one of its options")
    return [str(part) for part in (value if isinstance(value, list) else [value])]


def shorten(text: str, overrides: Iterable[str]) -> str:
    """Return what is said of overrides, long ones of them shortened in the middle."""
    parts = {part for line in overrides for part in (line, *re.split(r"[=,]", line))}
    parts |= {"\\n".join(part.splitlines()) for part in parts}
    for part in sorted(parts, key=len, reverse=True):
        if len(part) > LONGEST:
            left_out = f"...({len(part) - 2 * _KEPT} characters)..."
            text = text.replace(part, f"{part[:_KEPT]}{left_out}{part[-_KEPT:]}")
    return text


def quote(text: str) -> str:
    """Return a text as a value that Hydra takes as it is."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"

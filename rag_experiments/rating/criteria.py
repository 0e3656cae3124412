"""What an answer is rated for, and on which scale."""

from __future__ import annotations

from dataclasses import dataclass

VALUES = (1, 2, 3, 4, 5)
"""Ordinal, from worst to best."""

NO_JUDGMENT = 0
"""In place of a value: the rater cannot say. It counts as done, but in no statistic."""


@dataclass(frozen=True, slots=True)
class Criterion:
    """One thing that an answer is rated for."""

    name: str
    question: str
    labels: tuple[str, str, str, str, str]
    """What each of the values means."""
    needs_passages: bool = False
    """Whether an answer without passages cannot be rated for it."""


CRITERIA = (
    Criterion(
        "correctness",
        "Is the answer right?",
        ("wrong", "mostly wrong", "partly right", "mostly right", "right"),
    ),
    Criterion(
        "relevance",
        "Does it answer what was asked?",
        ("not at all", "hardly", "in part", "mostly", "fully"),
    ),
    Criterion(
        "fluency",
        "Is it well written?",
        ("unreadable", "poor", "readable", "good", "flawless"),
    ),
    Criterion(
        "faithfulness",
        "Do the passages support it?",
        ("not at all", "hardly", "in part", "mostly", "fully"),
        needs_passages=True,
    ),
)

NAMES = tuple(criterion.name for criterion in CRITERIA)

TEXTS = ("corrected", "comment")
"""What a rater may write beside the ratings."""

"""The entry, and the other commands, called in a test's own process; small command lines for it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from rag_experiments import __main__ as entry

SMALL_SMOKE = [
    "+experiment=smoke",
    "metrics=question_answering",
    "task.max_answer_tokens=4",
    "test={samples: 0, rewordings: false, references: false}",
    "data.preparation.limit={train: 8, validation: 4, test: 4, passages: 16}",
]
"""Seconds of every stage that trains and answers."""


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Exit code of the entry."""
    monkeypatch.setattr(sys, "argv", ["rag_experiments", *arguments])
    with pytest.raises(SystemExit) as exit_:
        entry.main()
    return int(exit_.value.code or 0)


def start(monkeypatch: pytest.MonkeyPatch, main: Callable[[], None], *words: str) -> int:
    """Exit code of a command by its `main`; the first of the words is its name."""
    monkeypatch.setattr(sys, "argv", list(words))
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def replace_run(monkeypatch: pytest.MonkeyPatch, run: Callable[[Any, Any, Any], float]) -> None:
    """Put something in the place of `experiment.run`."""
    module = ModuleType("rag_experiments.experiment")
    module.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "rag_experiments.experiment", module)
    monkeypatch.setattr("rag_experiments.experiment", module, raising=False)

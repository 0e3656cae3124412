"""Problems of the jobs of a sweep."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rag_experiments.search import checks

if TYPE_CHECKING:
    from rag_experiments.search.space import Space


class JobProblems:
    """Problems of the jobs of a sweep; each is said once, with the jobs that have it."""

    def __init__(self, searched: Space | None) -> None:
        self._searched = searched
        """Of a search: its jobs have no numbers yet."""
        self._jobs: list[list[str]] = []
        self._found: dict[str, list[int]] = {}

    def add(self, overrides: Iterable[str], problems: Iterable[str]) -> None:
        """Note what is wrong with the next job."""
        for problem in problems:
            self._found.setdefault(problem, []).append(len(self._jobs))
        self._jobs.append([line.lstrip("+") for line in overrides])

    @property
    def lines(self) -> list[str]:
        lines = [
            problem if len(having) == len(self._jobs) else f"{problem} [{self._label(having)}]"
            for problem, having in self._found.items()
        ]
        return lines if self._searched is None else checks.shorten(lines, self._searched)

    def _label(self, having: list[int]) -> str:
        """Return the numbers of jobs, and what they alone have in common."""
        everywhere = set.intersection(*map(set, self._jobs))
        shared = set.intersection(*(set(self._jobs[number]) for number in having)) - everywhere
        ordered = ", ".join(line for line in self._jobs[having[0]] if line in shared)
        if self._searched is not None:
            return f"with {ordered}" if ordered else "in some runs"
        numbers = ", ".join(map(str, having))
        return f"job{'s' if len(having) > 1 else ''} {numbers}{': ' if ordered else ''}{ordered}"

"""Timing of several sides that do the same work, in turns, and what a process holds at most."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles

Side = Callable[[int], object]
"""Does the work once; the number of the round chooses the batch, the same for all sides."""

RECIPE, TUNED, OURS, OURS_FP32 = "recipe", "tuned", "ours", "ours fp32"
COLUMNS = ((RECIPE, OURS), (RECIPE, OURS_FP32), (TUNED, OURS))


@dataclass
class Contest:
    """One piece of work and the sides that do it."""

    name: str
    sides: dict[str, Side]
    check: Callable[[], str]
    """Raises where the sides compute different things; says what was compared."""
    goals: tuple[float | None, float | None, float | None]
    """Least ratio of `COLUMNS`."""


@dataclass
class Times:
    """Seconds of each side, a number a round."""

    seconds: dict[str, list[float]] = field(default_factory=dict)

    def ratio(self, slow: str, fast: str) -> tuple[float, float, float] | None:
        """Ratio of medians, and the quartiles of the ratios of single rounds."""
        if slow not in self.seconds or fast not in self.seconds:
            return None
        rounds = [a / b for a, b in zip(self.seconds[slow], self.seconds[fast], strict=True)]
        low, _, high = (
            quantiles(rounds, n=4, method="inclusive") if len(rounds) > 1 else (rounds[0],) * 3
        )
        return median(self.seconds[slow]) / median(self.seconds[fast]), low, high


def run_in_turns(sides: dict[str, Side], rounds: int) -> Times:
    """Time every side once a round, in an order that turns; a first round warms up."""
    names, times = list(sides), Times({name: [] for name in sides})
    for turn in range(-1, rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            start = time.perf_counter()
            sides[name](max(turn, 0))
            if turn >= 0:
                times.seconds[name].append(time.perf_counter() - start)
    return times


def describe(contest: Contest, times: Times) -> str:
    """A row of the table."""
    cells = [contest.name]
    for (slow, fast), goal in zip(COLUMNS, contest.goals, strict=True):
        ratio = times.ratio(slow, fast)
        if ratio is None:
            cells.append("")
            continue
        value, low, high = ratio
        wanted = "" if goal is None else f", goal {goal:g}x"
        cells.append(f"{value:.2f}x [{low:.2f}, {high:.2f}]{wanted}")
    cells.append(", ".join(f"{name} {median(each):.3g}" for name, each in times.seconds.items()))
    return "| " + " | ".join(cells) + " |"


HEAD = (
    "| work | as its recipe runs it | the same, ours in fp32 | tuned | seconds (median) |\n"
    "|---|---|---|---|---|"
)


def peak_of_own_process(script: Path, arguments: Sequence[str]) -> float:
    """MiB that a process of its own, which prints them as its last line, needed at most."""
    done = subprocess.run(
        [sys.executable, str(script), *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"measuring memory failed:\n{done.stderr[-3000:]}")
    return float(json.loads(done.stdout.splitlines()[-1])["peak_mib"])

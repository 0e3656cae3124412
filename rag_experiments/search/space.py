"""What is searched: overrides that name several values or an interval, as Optuna samples them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep, Sweep

from rag_experiments.options import nearest

if TYPE_CHECKING:
    from hydra.core.config_loader import ConfigLoader
    from optuna.distributions import BaseDistribution

COMBINATIONS = 64
"""Combinations of choices up to which each is checked before a run starts; of more, each choice."""


@dataclass(frozen=True)
class Choice:
    """Options or values, as Hydra reads them, of which one is taken."""

    examples: tuple[str, ...]
    """All of them."""

    def distribution(self) -> BaseDistribution:
        """Return what Optuna samples from."""
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(self.examples)


@dataclass(frozen=True)
class Numbers:
    """Numbers from `low` to `high`, both included; whole ones where both are."""

    low: float
    high: float
    step: float | None = None
    """Between two numbers; None: any number between the ends, of whole numbers each."""
    log: bool = False
    """Whether each order of magnitude is as likely as another."""

    @property
    def examples(self) -> tuple[str, ...]:
        """The ends, and a number between them that is no whole one where none need be."""
        between = [] if self.is_whole or self.step else [self.low + 0.3819 * (self.high - self.low)]
        return tuple(map(_text, (self.low, *between, self.high)))

    @property
    def is_whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    def distribution(self) -> BaseDistribution:
        """Return what Optuna samples from."""
        from optuna.distributions import FloatDistribution, IntDistribution

        if self.is_whole:
            step = 1 if self.step is None else int(self.step)
            return IntDistribution(int(self.low), int(self.high), self.log, step)
        return FloatDistribution(self.low, self.high, self.log, self.step)


@dataclass(frozen=True)
class Space:
    """The overrides of a search, in order."""

    parts: Mapping[str, str | Choice | Numbers]
    """By key, as it is written with its plus: what is searched, or the line of an override that
    all runs share."""

    @property
    def searched(self) -> dict[str, Choice | Numbers]:
        """What is searched, by the names that a study gives it: keys without a plus."""
        return {
            key.lstrip("+"): part for key, part in self.parts.items() if not isinstance(part, str)
        }

    def distributions(self) -> dict[str, BaseDistribution]:
        """Return what Optuna samples from, by name."""
        return {name: part.distribution() for name, part in self.searched.items()}

    def overrides(self, values: Mapping[str, Any]) -> list[str]:
        """Return the overrides of the run with such values, by name."""
        return [
            part if isinstance(part, str) else f"{key}={_text(values[key.lstrip('+')])}"
            for key, part in self.parts.items()
        ]

    def probes(self) -> list[list[str]]:
        """Return the overrides of runs to check, which together have every choice and, with the
        first of the other values, the ends of every interval."""
        searched = self.searched
        first = {name: part.examples[0] for name, part in searched.items()}
        choices = {n: part.examples for n, part in searched.items() if isinstance(part, Choice)}
        found = [first]
        if math.prod(map(len, choices.values())) <= COMBINATIONS:
            found += [
                {**first, **dict(zip(choices, values, strict=True))}
                for values in itertools.product(*choices.values())
            ]
        found += [
            {**first, name: value} for name, part in searched.items() for value in part.examples
        ]
        lines = dict.fromkeys(tuple(self.overrides(values)) for values in found)
        return [list(each) for each in lines]


def read(
    params: Mapping[str, Any] | None,
    overrides: Sequence[str],
    loader: ConfigLoader,
    groups: Iterable[str] = (),
) -> tuple[Space, list[str]]:
    """Return what a search's `params` and the overrides of its command line, which come before
    them, describe, and one line for each that is wrong; these are left out of the space.

    `groups` are those whose options cannot be numbers.
    """
    lines = [*(f"{key}={value}" for key, value in (params or {}).items()), *overrides]
    parts: dict[str, str | Choice | Numbers] = {}
    problems = []
    for override in OverridesParser.create(config_loader=loader).parse_overrides(lines):
        line = str(override.input_line)
        try:
            part = _read(override) if override.is_sweep_override() else line
            if isinstance(part, Numbers) and override.key_or_group in set(groups):
                raise ValueError("an option is chosen by its name: write a,b or choice(a,b)")
        except ValueError as error:
            problems.append(f"{line}: {error}")
            continue
        parts[override.get_key_element()] = part
    return Space(parts), problems


def _read(override: Override) -> Choice | Numbers:
    value = override.value()
    assert isinstance(value, Sweep)
    for tag in sorted(value.tags - {"log"}):
        raise ValueError(f"unknown tag {tag!r}{nearest(tag, ['log'])} (legal: log)")
    log = "log" in value.tags
    if isinstance(value, IntervalSweep):
        assert value.start is not None
        assert value.end is not None
        found = Numbers(value.start, value.end, None, log)
        if found.low > found.high:
            raise ValueError("the interval begins above its end")
    elif isinstance(value, RangeSweep):
        numbers = sorted(value.range())
        if not numbers:
            raise ValueError("the range is empty")
        step = abs(value.step)
        found = Numbers(numbers[0], numbers[-1], None if step == 1 and log else step, log)
    else:
        if log:
            raise ValueError("the tag log is for intervals and ranges")
        return Choice(tuple(map(str, override.sweep_string_iterator())))
    if not (math.isfinite(found.low) and math.isfinite(found.high)):
        raise ValueError("the ends must be finite numbers")
    if log and found.low <= 0:
        raise ValueError("with the tag log the ends must be greater than 0")
    if log and (found.step or (isinstance(value, RangeSweep) and not found.is_whole)):
        raise ValueError("the tag log allows no steps: write tag(log, interval(...))")
    return found


def _text(value: Any) -> str:
    return repr(value) if isinstance(value, float) else str(value)

"""What is wrong with a command line that Hydra refused: all of it, in one line each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING

from hydra.core.object_type import ObjectType
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from rag_experiments import config, options
from rag_experiments.composition.job_problems import JobProblems
from rag_experiments.composition.overrides import parse, read_choices, read_key
from rag_experiments.contracts import UserError

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

    from rag_experiments.composition.composer import Composer

REFUSED = (HydraException, OmegaConfBaseException, YAMLError, ValueError)
"""What Hydra raises where it refuses a command line."""


class Refusal:
    """Overrides that Hydra refused, looked at one by one.

    Hydra stops at its first complaint. Here each override is looked at by itself; what is wrong
    is noted and mended or left out, and the rest is composed with every key let through, so that
    the check of the configuration finds the others.
    """

    def __init__(self, composer: Composer):
        self.composer = composer

    def explain(self, overrides: Sequence[str], multirun: bool) -> list[str]:
        """Return all problems, each once."""
        problems: list[str] = []
        kept: list[str] = []
        dropped: list[str] = []
        multirun = multirun or self._asks_for_sweep(overrides)
        if multirun:
            kept.append("hydra.mode=MULTIRUN")
        for line in overrides:
            try:
                override = parse(line)
            except REFUSED as error:
                problems.append(self._not_an_override(line, error))
                continue
            mended, lines = self._group_problems(override, multirun)
            problems += lines
            if mended is None:
                dropped.append(override.key_or_group.replace("/", "."))
            else:
                kept.append(mended)
        problems += self._needless_pluses(kept)
        # Values below an option that is not known cannot be judged.
        below = tuple(f"{key}." for key in dropped)
        kept = [line for line in kept if not read_key(line).startswith(below)]
        problems += self._composition_problems(kept)
        # An override is shown as it is written, which may be in several lines.
        return list(dict.fromkeys("\\n".join(each.splitlines()) for each in problems))

    def _composition_problems(self, kept: list[str]) -> list[str]:
        problems: list[str] = []
        loose = [self.composer.let_through(line) for line in kept]
        while True:
            try:
                return problems + self._problems_of_grid(loose)
            except UserError as error:
                return [*problems, *error.problems]
            except REFUSED as error:
                culprit = self._culprit(loose)
                if culprit is None:
                    return [*problems, f"configuration: {first_reason(error)}"]
                line, reason = culprit
                problems.append(f"{line.removeprefix('++')}: {reason}")
                loose.remove(line)

    def _problems_of_grid(self, overrides: list[str]) -> list[str]:
        """Return what the check finds; raise what Hydra raises."""
        master = self.composer.compose(overrides, RunMode.MULTIRUN, sweeps=True)
        sweeps = master.hydra.mode == RunMode.MULTIRUN
        found = self.composer.hydra_problems(master, sweeps)
        if not sweeps:
            return [*found, *config.check(self.composer.without_hydra(master))]
        searched = self.composer.space(master)
        problems = JobProblems(searched)
        for job in self.composer.jobs(master, searched):
            composed = self.composer.compose(
                [self.composer.let_through(line) for line in job], RunMode.RUN
            )
            problems.add(job, config.check(self.composer.without_hydra(composed)))
        return [*found, *problems.lines]

    def _culprit(self, overrides: list[str]) -> tuple[str, str] | None:
        """Return the first override that cannot be composed with those before it, and why."""
        # Groups first, as Hydra applies them: a key may exist only in a chosen option.
        ordered = sorted(overrides, key=lambda line: read_key(line) not in self.composer.groups)
        for i in range(len(ordered)):
            try:
                self.composer.compose(ordered[: i + 1], RunMode.MULTIRUN, sweeps=True)
            except REFUSED as refusal:
                return ordered[i], first_reason(refusal)
        return None

    def _asks_for_sweep(self, overrides: Sequence[str]) -> bool:
        """Return whether a chosen experiment or a setting of hydra.mode makes it a sweep."""
        chosen = [line for line in overrides if read_key(line) in ("experiment", "hydra.mode")]
        if not chosen:
            return False
        try:
            return self.composer.compose(chosen, RunMode.RUN).hydra.mode == RunMode.MULTIRUN
        except REFUSED:
            return False

    def _group_problems(self, override: Override, multirun: bool) -> tuple[str | None, list[str]]:
        """Return the override as it is kept (mended, or None), and what is wrong with it."""
        line, key = override.input_line or "", override.key_or_group
        if override.is_sweep_override() and not multirun:
            return None, [f"{line}: several values are a sweep: add -m; a list is written [a,b]"]
        if not key:
            return None, [f"{line}: not of the form key=value"]
        if key not in self.composer.groups:
            if "/" not in key:
                return line, []
            return None, [f"{line}: no group {key!r}{options.nearest(key, self.composer.groups)}"]
        if key == "experiment" and not override.is_add():
            return f"+{line}", [f"{line}: an experiment is added to the defaults: write +{line}"]
        adds = override.is_add() or override.is_force_add()
        if adds and override.package is None and key in self.composer.chosen:
            return line.lstrip("+"), [f"{line}: {key} has a choice already; write it without the +"]
        if (
            not adds
            and isinstance(override.value(), list)
            and key in self.composer.chosen - {"metrics"}
        ):
            return None, [
                f"{line}: one option is legal, not a list; a sweep is written a,b with -m"
            ]
        try:
            values = read_choices(override)
        except ValueError as error:
            return None, [f"{line}: {error}"]
        legal = self.composer.loader.get_group_options(key, ObjectType.CONFIG)
        unknown = [value for value in values if value not in legal]
        problems = [
            f"{key}={value}: no such option{options.nearest(value, legal)} "
            f"(legal: {', '.join(legal)})"
            for value in unknown
        ]
        if not problems:
            return line, []
        # The nearest option stands in, so that the keys below it can be judged.
        near = [get_close_matches(value, legal, n=1, cutoff=0.6) for value in values]
        if not all(near):
            return None, problems
        return f"{override.get_key_element()}={','.join(n[0] for n in near)}", problems

    def _needless_pluses(self, overrides: list[str]) -> list[str]:
        """Return the overrides that add a key which is there already."""
        adds = [line for line in overrides if line.startswith("+") and not line.startswith("++")]
        adds = [line for line in adds if read_key(line) not in self.composer.groups]
        if not adds:
            return []
        try:
            base = self.composer.compose(
                [line for line in overrides if read_key(line) in self.composer.groups], RunMode.RUN
            )
        except REFUSED:
            return []  # said of the groups themselves
        return [
            f"{line}: the key is there already; write it without the +"
            for line in adds
            if OmegaConf.select(base, read_key(line), throw_on_missing=False) is not None
        ]

    def _not_an_override(self, line: str, error: Exception) -> str:
        experiments = self.composer.loader.get_group_options("experiment", ObjectType.CONFIG)
        if line in experiments:
            return f"{line}: an experiment is chosen with +experiment={line}"
        key, _, value = line.partition("=")
        quotes = f"; put the value into quotes of its own: '{key}=\"...\"'" if value else ""
        return f"{line}: not of the form key=value ({first_reason(error)}){quotes}"


def first_reason(error: BaseException) -> str:
    """Return what Hydra says, in one line and without its advice to add a plus."""
    cause = error
    while cause.__cause__ is not None and _says_nothing(str(cause).strip()):
        cause = cause.__cause__
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    if "Multiple values for" in str(cause):
        return "there is a choice already; write it without the +"
    part = re.match(r"Could not override '([\w/]+)/(\w+)'", " ".join(lines))
    if part and "No match in the defaults list" in str(cause):
        return f"the chosen {part[1]} has no {part[2]}; choose one that has"
    advice = ("To append to your config use", "See https", "Config search path", "provider=")
    types = ("full_key", "object_type", "reference_type")
    kept = [line for line in lines if not line.startswith((*advice, *types))]
    return " ".join(kept) or type(cause).__name__


def _says_nothing(message: str) -> bool:
    return not message or message.startswith("Error merging override")

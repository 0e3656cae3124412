"""Command lines composed as Hydra composes them; what it refuses is said in one line each."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from hydra import version
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from rag_experiments import config
from rag_experiments.contracts import UserError

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

CONFIG = "config"
"""Name of the root configuration."""

_REFUSED = (HydraException, OmegaConfBaseException, ValueError)


@dataclass(frozen=True)
class Plan:
    """A command line that composed and was found sound."""

    jobs: tuple[config.Run, ...]
    """One for each job of a sweep (of another sweeper than Hydra's own: the base alone)."""

    sweep_dir: Path | None
    """Folder of the sweep; None for a single run."""

    overrides: tuple[str, ...]
    """What Hydra is to be called with."""


class Composer:
    """Hydra with the package's configurations and, where given, a user's own folder."""

    def __init__(self, config_dir: str | None = None, config_name: str | None = None):
        version.setbase("1.3")
        search_path = create_config_search_path("pkg://rag_experiments.conf")
        if config_dir is not None:
            folder = Path(config_dir).absolute()
            if not folder.is_dir():
                raise UserError(f"--config-dir: {config_dir!r} is not a folder")
            search_path.prepend("command-line", f"file://{folder}", SearchPathQuery("schema", None))
        self.hydra = Hydra.create_main_hydra2("rag_experiments", search_path)
        self.loader = self.hydra.config_loader
        self.name = config_name or CONFIG

    def run(self, task: TaskFunction, plan: Plan) -> None:
        """Run a plan's job or jobs; raise what the (first failed) job raised."""
        start = self.hydra.run if plan.sweep_dir is None else self.hydra.multirun
        start(config_name=self.name, task_function=task, overrides=list(plan.overrides))

    def plan(self, overrides: Sequence[str], multirun: bool = False) -> Plan:
        """Return what a command line describes; raise UserError with all its problems."""
        overrides = list(overrides)
        try:
            master = self._compose(overrides, RunMode.MULTIRUN, sweeps=True)
            multirun = multirun or master.hydra.mode == RunMode.MULTIRUN
            overrides.append(f"hydra.mode={'MULTIRUN' if multirun else 'RUN'}")
            if not multirun:
                return Plan((self._checked(overrides),), None, tuple(overrides))
            _set_hydra_config(master)
            sweep_dir = Path(master.hydra.sweep.dir)
            jobs, problems = [], _Collected()
            for label, job in self._jobs(master):
                try:
                    jobs.append(self._checked(job, master))
                except UserError as error:
                    problems.add(label, error.problems)
            if problems.lines:
                raise UserError(problems.lines)
        except _REFUSED as error:
            raise UserError(self.explain(overrides, error, multirun)) from error
        # Hydra composes again when it runs, a moment later: the folder's time is kept.
        quoted = str(sweep_dir).replace("\\", "\\\\").replace("'", "\\'")
        overrides.append(f"hydra.sweep.dir='{quoted}'")
        return Plan(tuple(jobs), sweep_dir, tuple(overrides))

    def require_composable(self, overrides: Sequence[str]) -> None:
        """Raise UserError where Hydra could not even show the configuration."""
        try:
            self._compose(overrides, RunMode.RUN)
        except _REFUSED as error:
            raise UserError(self.explain(overrides, error, multirun=False)) from error

    def explain(self, overrides: Sequence[str], refusal: Exception, multirun: bool) -> list[str]:
        """Return all problems of a command line that Hydra refused.

        Hydra stops at its first complaint. Here each override is looked at by itself; what is
        wrong is noted and mended or left out, and the rest is composed with every key let
        through, so that the check of the configuration finds the others.
        """
        problems: list[str] = []
        kept: list[str] = []
        dropped: list[str] = []
        multirun = multirun or self._asks_for_sweep(overrides)
        if multirun:
            kept.append("hydra.mode=MULTIRUN")
        for line in overrides:
            try:
                override = _parse(line)
            except _REFUSED as error:
                problems.append(self._not_an_override(line, error))
                continue
            mended, lines = self._group_problems(override, multirun)
            problems += lines
            if mended is None:
                dropped.append(override.key_or_group.replace("/", "."))
            else:
                kept.append(mended)
        # Values below an option that is not known cannot be judged.
        kept = [line for line in kept if not _key(line).startswith(tuple(f"{d}." for d in dropped))]
        problems += self._composition_problems(kept)
        if not problems:  # every key is legal, but Hydra wants one of them written otherwise
            culprit = self._culprit(kept)
            problems = [f"{culprit[0]}: {culprit[1]}" if culprit else _reason(refusal)]
        return list(dict.fromkeys(problems))

    def _composition_problems(self, kept: list[str]) -> list[str]:
        problems: list[str] = []
        loose = [self._let_through(line) for line in kept]
        while True:
            try:
                return problems + self._problems_of_grid(loose)
            except _REFUSED as error:
                culprit = self._culprit(loose)
                if culprit is None:
                    return [*problems, f"configuration: {_reason(error)}"]
                line, reason = culprit
                problems.append(f"{line.removeprefix('++')}: {reason}")
                loose.remove(line)

    def _problems_of_grid(self, overrides: list[str]) -> list[str]:
        """Return what the check finds; raise what Hydra raises."""
        master = self._compose(overrides, RunMode.MULTIRUN, sweeps=True)
        problems = _Collected()
        for label, job in self._jobs(master):
            composed = self._compose([self._let_through(line) for line in job], RunMode.RUN)
            problems.add(label, config.check(_without_hydra(composed)))
        return problems.lines

    def _culprit(self, overrides: list[str]) -> tuple[str, str] | None:
        """Return the first override that cannot be composed with those before it, and why."""
        # Groups first, as Hydra applies them: a key may exist only in a chosen option.
        ordered = sorted(overrides, key=lambda line: _key(line) not in self.groups)
        for i in range(len(ordered)):
            try:
                self._compose(ordered[: i + 1], RunMode.MULTIRUN, sweeps=True)
            except _REFUSED as refusal:
                return ordered[i], _reason(refusal)
        return None

    def _jobs(self, master: DictConfig) -> Iterator[tuple[str, list[str]]]:
        """Yield a label and the overrides of each job (for a single run: one job)."""
        own = list(master.hydra.overrides.hydra)
        task = list(master.hydra.overrides.task)
        sweeper = master.hydra.sweeper
        if str(sweeper.get("_target_", "")).endswith(".BasicSweeper"):
            params = OmegaConf.to_container(sweeper.params) if sweeper.get("params") else {}
            assert isinstance(params, dict)
            swept = master.hydra.mode == RunMode.MULTIRUN
            lines = [f"{key!s}={value}" for key, value in params.items()] * swept + task
            parsed = OverridesParser.create(config_loader=self.loader).parse_overrides(lines)
            batch = BasicSweeper.split_arguments(parsed, None)[0]
        else:
            batch = [[line for line in task if not _parse(line).is_sweep_override()]]
        common = set.intersection(*map(set, batch))
        for number, job in enumerate(batch):
            differs = ", ".join(line for line in job if line not in common)
            yield (f"job {number} ({differs})" if differs else ""), own + job

    def _checked(self, overrides: list[str], master: DictConfig | None = None) -> config.Run:
        composed = self._compose(overrides, RunMode.RUN)
        if master is not None and any(
            composed.hydra[part] != master.hydra[part] for part in ("sweeper", "launcher")
        ):
            # Hydra would drop these settings without a word.
            raise UserError(
                "+experiment: an experiment with a sweep or a launcher of its own cannot be swept "
                "over; run such experiments one after the other"
            )
        return config.load(_without_hydra(composed))

    def _compose(self, overrides: Sequence[str], mode: RunMode, sweeps: bool = False) -> DictConfig:
        """Compose; with `sweeps`, overrides of several values are legal and left open."""
        composed = self.loader.load_configuration(
            self.name, list(overrides), mode, validate_sweep_overrides=not sweeps
        )
        assert isinstance(composed, DictConfig)
        return composed

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """All groups and groups within groups, e.g. `model` and `model/generator`."""
        return tuple(self.hydra.list_all_config_groups())

    def _asks_for_sweep(self, overrides: Sequence[str]) -> bool:
        """Return whether a chosen experiment or a setting of hydra.mode makes it a sweep."""
        chosen = [line for line in overrides if _key(line) in ("experiment", "hydra.mode")]
        try:
            return self._compose(chosen, RunMode.RUN).hydra.mode == RunMode.MULTIRUN
        except _REFUSED:
            return False

    def _let_through(self, line: str) -> str:
        """Return an override with which Hydra sets a key whether it exists or not."""
        override = _parse(line)
        key = override.key_or_group
        if override.is_delete() or override.is_hydra_override() or key in self.groups:
            return line
        return line if "/" in key or override.package else f"++{line.lstrip('+')}"

    def _group_problems(self, override: Override, multirun: bool) -> tuple[str | None, list[str]]:
        """Return the override as it is kept (mended, or None), and what is wrong with it."""
        line, key = override.input_line or "", override.key_or_group
        if override.is_sweep_override() and not multirun:
            return None, [f"{line}: several values are a sweep: add -m; a list is written [a,b]"]
        if key not in self.groups:
            if "/" not in key:
                return line, []
            return None, [f"{line}: no group {key!r}{config.nearest(key, self.groups)}"]
        if override.is_add() and key in config.GROUPS and override.package is None:
            return line.lstrip("+"), [f"{line}: {key} has a choice already; write it without the +"]
        values = _choices(override)
        options = self.loader.get_group_options(key, ObjectType.CONFIG)
        unknown = [value for value in values if value not in options]
        problems = [
            f"{key}={value}: no such option{config.nearest(value, options)} "
            f"(legal: {', '.join(options)})"
            for value in unknown
        ]
        if not problems:
            return line, []
        # The nearest option stands in, so that the keys below it can be judged.
        near = [get_close_matches(value, options, n=1, cutoff=0.6) for value in values]
        if not all(near):
            return None, problems
        return f"{override.get_key_element()}={','.join(n[0] for n in near)}", problems

    def _not_an_override(self, line: str, error: Exception) -> str:
        experiments = self.loader.get_group_options("experiment", ObjectType.CONFIG)
        if line in experiments:
            return f"{line}: an experiment is chosen with +experiment={line}"
        return f"{line}: not of the form key=value ({_reason(error)})"


class _Collected:
    """Problems of the jobs of a grid; what all jobs share is said once."""

    def __init__(self) -> None:
        self._jobs: dict[str, list[str]] = {}
        self._count = 0

    def add(self, label: str, problems: Iterable[str]) -> None:
        self._count += 1
        for problem in problems:
            self._jobs.setdefault(problem, []).append(label)

    @property
    def lines(self) -> list[str]:
        return [
            problem if len(labels) == self._count else f"{problem} [{'; '.join(labels)}]"
            for problem, labels in self._jobs.items()
        ]


def _parse(line: str) -> Override:
    return OverridesParser.create().parse_override(line)


def _key(line: str) -> str:
    return line.split("=", 1)[0].lstrip("+~")


def _choices(override: Override) -> list[str]:
    """Return the options that an override of a group names."""
    if override.is_delete() or (override.is_sweep_override() and not override.is_discrete_sweep()):
        return []
    if override.is_sweep_override():
        return list(override.sweep_string_iterator())
    value = override.value()
    if value is None or isinstance(value, dict):
        return []
    return [str(part) for part in (value if isinstance(value, list) else [value])]


def _reason(error: BaseException) -> str:
    """Return what Hydra says, in one line and without its advice to add a plus."""
    cause = error
    while not str(cause).strip() and cause.__cause__ is not None:
        cause = cause.__cause__
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    advice = ("To append to your config use", "See https", "Config search path", "provider=")
    kept = [line for line in lines if not line.startswith((*advice, "full_key", "object_type"))]
    return " ".join(kept) or type(cause).__name__


def _without_hydra(composed: DictConfig) -> DictConfig:
    """Return the part that a job is given; ${hydra:...} in it resolves as in a job."""
    _set_hydra_config(composed)
    job = copy.deepcopy(composed)
    with read_write(job), open_dict(job):
        del job["hydra"]
    return job


def _set_hydra_config(composed: DictConfig) -> None:
    with read_write(composed), open_dict(composed):
        runtime, job = composed.hydra.runtime, composed.hydra.job
        runtime.output_dir = str(Path("outputs").absolute())
        job.num = 0
        job.id = "0"
    HydraConfig.instance().set_config(composed)

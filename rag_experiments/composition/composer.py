"""Command lines composed as Hydra composes them; what it refuses is said in one line each."""

from __future__ import annotations

import copy
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import dataclass, is_dataclass
from dataclasses import fields as fields_of
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from hydra import version
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from rag_experiments import config, options
from rag_experiments.composition import launcher
from rag_experiments.composition.job_problems import JobProblems
from rag_experiments.composition.loader import Loader, is_mapping
from rag_experiments.composition.overrides import parse, quote, read_choices, read_key, shorten
from rag_experiments.composition.refusal import REFUSED, Refusal, first_reason
from rag_experiments.contracts import UserError
from rag_experiments.parameters import mask
from rag_experiments.search import checks, settings, sweeper
from rag_experiments.sweep import outcomes, resumption

if TYPE_CHECKING:
    from rag_experiments.search.space import Space

CONFIG = "config"
"""Name of the root configuration."""

_OPEN = ("env", "launcher")
"""Parts of `hydra` that take keys of their own: those of a plugin."""


@dataclass(frozen=True)
class Plan:
    """A command line that composed and was found sound."""

    jobs: tuple[config.Run, ...]
    """One for each job of a sweep; of a search, one for each value that it may take or end of an
    interval; of any other sweeper than Hydra's own, the base alone."""

    sweep_dir: Path | None
    """Folder of the sweep; None for a single run."""

    overrides: tuple[str, ...]
    """What Hydra is to be called with."""

    state: resumption.State | None = None
    """What the sweep's folder is to say about it; None for a single run."""

    searches: bool = False
    """Whether the jobs are chosen one after the other, by those before."""


@dataclass(frozen=True)
class _Job:
    """A job of a sweep that composed and was found sound."""

    run: config.Run
    identity: str
    overrides: tuple[str, ...]


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
        self.loader = Loader(search_path)
        self.hydra.config_loader = self.loader  # what runs is composed as what was checked
        self.name = config_name or CONFIG

    @property
    def notes(self) -> list[str]:
        """What was chosen with a checkpoint, or left out of experiments, so far."""
        return list(self.loader.notes)

    def run(self, task: TaskFunction, plan: Plan) -> str:
        """Run a plan's job or jobs; raise what the (first failed) job raised.

        Returns what is to be said at the end: what a search found best.
        """
        if plan.searches:
            return sweeper.run(self.hydra, self.name, task, plan.overrides)
        start = self.hydra.run if plan.sweep_dir is None else self.hydra.multirun
        start(config_name=self.name, task_function=task, overrides=list(plan.overrides))
        return ""

    def plan(self, overrides: Sequence[str], multirun: bool = False) -> Plan:
        """Return what a command line describes; raise UserError with all its problems."""
        try:
            try:
                return self._plan(overrides, multirun)
            except REFUSED as refusal:
                try:
                    return self._plan(self._mended(overrides, multirun), multirun)
                except REFUSED:
                    raise UserError(first_reason(refusal)) from refusal
        except UserError as error:
            raise UserError([shorten(line, overrides) for line in error.problems]) from error

    def _plan(self, overrides: Sequence[str], multirun: bool) -> Plan:
        for group in (key.partition("@")[0] for key in map(read_key, overrides) if "/" in key):
            if group not in self.groups:  # with a plus, Hydra makes it a key with a slash
                raise HydraException(f"no group {group!r}")
        for line in overrides:
            if line.endswith("{}") and read_key(line) in self.groups:  # which Hydra merges
                read_choices(parse(line))
        master = self.compose(overrides, RunMode.MULTIRUN, sweeps=True)
        if not multirun and master.hydra.mode != RunMode.MULTIRUN:
            if any(parse(line).is_sweep_override() for line in overrides):
                raise HydraException("several values need -m")
            single = self.without_hydra(master)
            if found := self.hydra_problems(master, sweeps=False):
                raise UserError([*found, *config.check(single)])
            return Plan((config.load(single),), None, tuple(overrides))
        master.hydra.mode = RunMode.MULTIRUN
        _set_hydra_config(master)
        searched = self.space(master)
        jobs, problems = [], JobProblems(searched)
        for job in self.jobs(master, searched):
            try:
                jobs.append(self._checked(job, master))
                problems.add(job, ())
            except UserError as error:
                problems.add(job, error.problems)
        found = self.hydra_problems(master, sweeps=True)
        if searched is not None and not (found or problems.lines):
            found += checks.check_runs(master, [job.run for job in jobs])
        if found or problems.lines:
            raise UserError([*found, *problems.lines])
        if not jobs:
            raise UserError("-m: no job: a key that is swept has no value, e.g. range(3,3)")
        sweep_dir, state = self._place(master, jobs, overrides)
        # Hydra composes again when it runs, a moment later: the folder's time is kept.
        additions = (
            "hydra.mode=MULTIRUN",
            f"hydra.sweep.dir={quote(str(sweep_dir))}",
            f"++hydra.job.env_set.{outcomes.VARIABLE}={quote(state.tag)}",
        )
        runs = tuple(job.run for job in jobs)
        return Plan(runs, sweep_dir, (*overrides, *additions), state, searched is not None)

    def _place(
        self, master: DictConfig, jobs: Sequence[_Job], overrides: Sequence[str]
    ) -> tuple[Path, resumption.State]:
        """Return the folder of a sweep, an earlier one where it is the same, and its state."""
        identity = resumption.combine([job.identity for job in jobs])
        planned: resumption.Planned = tuple(job.overrides for job in jobs)
        if not _is_basic(master):  # the sweeper's own settings decide what its jobs are
            own = OmegaConf.to_container(master.hydra.sweeper, resolve=True)
            assert isinstance(own, dict)
            own = {key: value for key, value in own.items() if key not in settings.COUNTS}
            swept = [line for line in overrides if parse(line).is_sweep_override()]
            identity, planned = resumption.combine([identity], own, swept), None
        folder = resumption.find(
            Path(master.hydra.sweep.dir),
            identity,
            resume=all(job.run.sweep.resume for job in jobs),
            given=any(read_key(line) == "hydra.sweep.dir" for line in overrides),
            # A study in a database would go on with the runs of the earlier one.
            replaceable=master.hydra.sweeper.get("storage") is None,
        )
        state = resumption.State.read(folder)
        if state is None or state.identity != identity:
            state = resumption.State(identity, outcomes.tag(folder), planned, time.time())
        return folder, state

    def _mended(self, overrides: Sequence[str], multirun: bool) -> list[str]:
        """Return overrides that Hydra refused, written so that it takes them.

        Hydra refuses keys that an option has but its file does not show. Raises UserError where
        there is more to it than that.
        """
        problems = Refusal(self).explain(overrides, multirun)
        if problems:
            raise UserError(problems)
        chosen = [line for line in overrides if read_key(line) in self.groups]
        params = self.compose(chosen, RunMode.MULTIRUN, sweeps=True)
        swept = params.hydra.sweeper.get("params") or {}
        # A swept key keeps its spelling, by which the command line replaces it.
        return [line if read_key(line) in swept else self.let_through(line) for line in overrides]

    def show(self, arguments: Namespace, parser: ArgumentParser) -> None:
        """Print the help or the configuration; raise UserError where it cannot be composed."""
        try:
            self.compose(arguments.overrides, RunMode.RUN)
        except REFUSED:
            arguments.overrides = self._mended(arguments.overrides, multirun=False)
        if arguments.help:
            self.hydra.app_help(self.name, parser, arguments)
            return
        self.hydra.show_cfg(
            self.name, arguments.overrides, arguments.cfg, arguments.package, arguments.resolve
        )

    def hydra_problems(self, master: DictConfig, sweeps: bool) -> list[str]:
        """Return what is wrong with Hydra's own part of a composed configuration."""
        return [
            *_unknown_keys(master.hydra, "hydra", _OPEN),
            *launcher.check(master.hydra, sweeps),
            *checks.check(master, self.loader, self.groups, sweeps),
        ]

    def space(self, master: DictConfig) -> Space | None:
        """Return what a sweep searches; None: it is no search."""
        if not settings.is_search(master.hydra):
            return None
        return checks.read_space(master, self.loader, self.groups)[0]

    def jobs(self, master: DictConfig, searched: Space | None) -> list[list[str]]:
        """Return the overrides of each job of a sweep, of a search those to check."""
        written = OmegaConf.to_container(master.hydra.overrides, resolve=False)
        assert isinstance(written, dict)
        own, task = written["hydra"], written["task"]
        if _is_basic(master):
            swept = master.hydra.sweeper.get("params")
            params = OmegaConf.to_container(swept) if swept else {}
            assert isinstance(params, dict)
            lines = [f"{key!s}={value}" for key, value in params.items()] + task
            parsed = OverridesParser.create(config_loader=self.loader).parse_overrides(lines)
            endless = [o for o in parsed if o.is_sweep_override() and not o.is_discrete_sweep()]
            if endless:
                written = [str(each.input_line).lstrip("+") for each in endless]
                advice = "a grid has no intervals; to search it, add hydra/sweeper=optuna"
                raise UserError([f"{line}: {advice}" for line in written])
            at_once = master.hydra.sweeper.get("max_batch_size")
            if at_once is not None and at_once < 1:
                raise UserError(
                    f"hydra.sweeper.max_batch_size: {at_once} must be greater than or equal to 1"
                )
            batch = BasicSweeper.split_arguments(parsed, None)[0]
        elif searched is not None:
            batch = searched.probes()
        else:
            batch = [[line for line in task if not parse(line).is_sweep_override()]]
        return [own + job for job in batch]

    def _checked(self, overrides: list[str], master: DictConfig) -> _Job:
        composed = self.compose(overrides, RunMode.RUN)
        own, swept = (
            [OmegaConf.to_container(node.hydra[part]) for part in ("sweeper", "launcher")]
            for node in (composed, master)  # as written: ${now:...} goes on
        )
        if own != swept:
            # Hydra would drop these settings without a word.
            raise UserError(
                "+experiment: an experiment with a sweep or a launcher of its own cannot be swept "
                "over; run such experiments one after the other"
            )
        raw = self.without_hydra(composed)
        run = config.load(raw)
        # As they are written: reading the list would put in what ${oc.env:NAME} stands for.
        written = OmegaConf.to_container(composed.hydra.overrides.task, resolve=False)
        assert isinstance(written, list)
        lines = tuple(mask(str(line)) for line in written)
        return _Job(run, resumption.identify(raw), lines)

    def compose(self, overrides: Sequence[str], mode: RunMode, sweeps: bool = False) -> DictConfig:
        """Compose; with `sweeps`, overrides of several values are legal and left open."""
        try:
            composed = self.loader.load_configuration(
                self.name, list(overrides), mode, validate_sweep_overrides=not sweeps
            )
        except RecursionError:
            raise HydraException("a value or a key is nested too deeply") from None
        except (OSError, TypeError, AttributeError, AssertionError) as error:
            # Hydra takes names of options for files, null for a text, and ${...} for granted.
            reason = options.first_line(error) or type(error).__name__
            raise HydraException(f"Hydra cannot compose it: {reason}") from error
        assert isinstance(composed, DictConfig)
        for part in ("launcher", "sweeper"):
            if not is_mapping(composed.hydra._get_node(part)):
                value = composed.hydra._get_node(part)
                raise UserError(
                    f"hydra.{part}: {value!s} is no {part}; choose one with hydra/{part}="
                )
        return composed

    @staticmethod
    def without_hydra(composed: DictConfig) -> DictConfig:
        """Return the part that a job is given; ${hydra:...} in it resolves as in a job."""
        _set_hydra_config(composed)
        job = copy.deepcopy(composed)
        with read_write(job), open_dict(job):
            del job["hydra"]
        return job

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """All groups and groups within groups, e.g. `model` and `model/generator`."""
        return tuple(self.hydra.list_all_config_groups())

    @cached_property
    def chosen(self) -> set[str]:
        """The groups of which the defaults choose an option."""
        defaults = self.loader.compute_defaults_list(self.name, [], RunMode.RUN)
        return set(defaults.overrides.known_choices)

    def let_through(self, line: str) -> str:
        """Return an override with which Hydra sets a key whether it exists or not."""
        override = parse(line)
        key = override.key_or_group
        unchecked = key.startswith(("hydra.env.", "hydra.sweeper.params."))
        if override.is_delete() or unchecked or key in self.groups:
            return line
        return line if "/" in key or override.package else f"++{line.lstrip('+')}"


def _is_basic(master: DictConfig) -> bool:
    """Return whether the sweeper is Hydra's own: a grid that is known before it starts."""
    return str(master.hydra.sweeper.get("_target_", "")).endswith(".BasicSweeper")


def _unknown_keys(node: DictConfig, place: str, skip: Sequence[str] = ()) -> list[str]:
    """Return what stands under `hydra` that Hydra does not know: it would be ignored."""
    kind = OmegaConf.get_type(node)
    legal = [field.name for field in fields_of(kind)] if is_dataclass(kind) else list(node)
    problems = []
    for name in map(str, node):
        part = node._get_node(name)
        if name not in (*legal, *skip):
            near = options.nearest(name, legal)
            problems.append(f"{place}.{name}: unknown key{near} (legal here: {', '.join(legal)})")
        elif isinstance(part, DictConfig) and is_mapping(part) and name not in skip:
            problems += _unknown_keys(part, f"{place}.{name}")
    return problems


def _set_hydra_config(composed: DictConfig) -> None:
    with read_write(composed), open_dict(composed):
        runtime, job = composed.hydra.runtime, composed.hydra.job
        runtime.output_dir = str(Path("outputs").absolute())
        job.num = 0
        job.id = "0"
    HydraConfig.instance().set_config(composed)
